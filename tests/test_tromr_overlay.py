"The overlay places what a TrOMR says by its cross-attention; with random weights it must still draw."
import numpy as np
import torch

from omr.reading.readings import Reading, overlay
from omr.reading.tromr import CONFIGS, TrOMR, read_strips
from omr.scores.engraving import Style, engrave
from omr.scores.melodies import melody
from omr.reading.reader import prepare


def test_random_weights_draw_an_overlay():
    torch.manual_seed(0)
    network, image = TrOMR(**CONFIGS["light"]).eval(), engrave(melody(5), Style(margin=15))
    strip, scale, staff = prepare(image, network.height)
    found = read_strips(network, [strip], batch=1)[0]
    reading = Reading("**kern\n*clefG2\n4c\n=\n*-\n", found.tokens, [c * scale for c in found.columns], found.confidences, [], staff)
    assert len(found.tokens) == len(found.columns) == len(found.confidences) and all(0 <= c <= strip.shape[1] for c in found.columns)
    assert np.asarray(overlay(image, reading)).shape[1] == image.shape[1]
