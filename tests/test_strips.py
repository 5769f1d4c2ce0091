"Finding a staff: in bad light, where there is none, where there are two; strips of any height."
import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from omr.core import InputError
from omr.reading.reader import read_files, read_many
from omr.scores.camera import Shot, photograph, random_shot, take
from omr.scores.engraving import Style, engrave, random_style
from omr.scores.melodies import melody
from omr.scores.samples import Recipe, frame, training_sample
from omr.scores.strips import HEIGHT, find_staff, normalize, other_staff, wear


def in_place(seed, strength):
    "Whether the staff of a photographed melody is found within a third of a staff space of where it is, and alone."
    style, chance = random_style(random.Random(f"place {seed}")), np.random.default_rng(seed)
    print_ = engrave(melody(seed), style)
    known = find_staff(print_, style.space)
    photo, view = take(print_, random_shot(chance, strength), chance)
    (x, y), found = view.to_photo(np.stack([known.xs, known.ys], 1)).T, find_staff(photo)
    return found is not None and np.abs(np.interp(x, found.xs, found.ys) - y).max() < style.space / 3 and other_staff(photo, found) is None


@pytest.mark.parametrize("strength, least", [(0, 16), (.5, 16), (1, 14)])
def test_a_photographed_staff_is_found_in_its_place(strength, least): assert sum(in_place(seed, strength) for seed in range(16)) >= least


@pytest.mark.parametrize("seed", range(3))
def test_a_staff_whose_lines_melt(seed):
    "Small, out of focus, moved: the contrast is gone, the rhythm of five lines is not."
    small = engrave(melody(9), Style(space=5.2, margin=14))
    known, chance = find_staff(small), np.random.default_rng(seed)
    photo, view = take(small, Shot(angle=1.2, ink=50, paper=190, grain=5, defocus=.9, motion=2.4, motion_angle=75, noise=5, low=1.5, quality=50), chance)
    (x, y), found = view.to_photo(np.stack([known.xs, known.ys], 1)).T, find_staff(photo)
    assert found and np.abs(np.interp(x, found.xs, found.ys) - y).max() < 5.2 / 3 and abs(found.space / 5.2 - 1) < .12


@pytest.mark.parametrize("slope", [-.06, -.03, .03, .06])
def test_a_slanted_staff_in_noise(slope):
    "Noise must not vote for a level staff."
    image = np.pad(engrave(melody(5), Style(space=9)), 40, constant_values=255).astype(float)
    shifts = np.rint(slope * (np.arange(image.shape[1]) - image.shape[1] / 2)).astype(int)
    slanted = np.stack([np.roll(c, s) for c, s in zip(image.T, shifts)], 1)
    noisy = np.clip(90 + slanted * .3 + np.random.default_rng(1).normal(0, 14, slanted.shape), 0, 255).astype(np.uint8)
    found = find_staff(noisy)
    assert found and abs(np.polyfit(found.xs, found.ys, 1)[0] - slope) < .01 and abs(found.space / 9 - 1) < .08


def without_staff():
    "Name and picture."
    rng = np.random.default_rng(3)
    yield "noise", rng.integers(0, 255, (160, 700)).astype(np.uint8)
    yield "blank", np.full((200, 600), 240, np.uint8)
    yield "blank photo", photograph(np.full((200, 600), 255, np.uint8), np.random.default_rng(4), 1.0)
    page = Image.new("L", (700, 260), 255)
    for y in range(15, 240, 26): ImageDraw.Draw(page).text((20, y), "a page of words has lines as well, but no staff " * 2, fill=0)
    yield "text", np.asarray(page)
    yield "photographed text", photograph(np.asarray(page), np.random.default_rng(5), .7)
    table = Image.new("L", (600, 240), 255)
    draw = ImageDraw.Draw(table)
    for y in (10, 60, 90, 150, 220): draw.line((10, y, 590, y), fill=0, width=2)
    for x in (10, 150, 400, 590): draw.line((x, 10, x, 220), fill=0, width=2)
    yield "table", np.asarray(table)
    three = np.full((120, 600), 255, np.uint8)
    three[40:61:10] = three[41:62:10] = 0
    yield "three lines", three


@pytest.mark.parametrize("picture", [pytest.param(p, id=name) for name, p in without_staff()])
def test_a_picture_without_a_staff_is_refused(picture): assert isinstance(read_many([picture], "crnn")[0], InputError)


@pytest.mark.parametrize("lines, staff", [(3, False), (4, False), (5, True), (20, False)])
def test_five_lines_are_a_staff(lines, staff):
    "Three or four of a table are not, nor is a sheet ruled from top to bottom."
    sheet = np.full((240, 600), 255, np.uint8)
    sheet[6:][:12 * lines:12, 10:-10] = 0
    assert (find_staff(sheet) is not None) == staff


def test_the_back_of_the_page_is_no_second_staff():
    one = engrave(melody(5), Style(margin=15))
    image = np.vstack([one, 215 + one[::-1] // 6])
    assert other_staff(image, find_staff(image)) is None


@pytest.mark.parametrize("strength", [0, .5])
def test_two_staves_are_two(strength):
    one = engrave(melody(5), Style(margin=15))
    photo = photograph(np.vstack([one, one]), np.random.default_rng(6), strength)
    assert "more than one staff" in str(read_many([photo], "crnn")[0])


@pytest.mark.parametrize("height", [32, 96, 128])
def test_strips_of_another_height(height):
    recipe = Recipe(camera=.5, height=height)
    strips = [training_sample(7, i, recipe)[0] for i in range(6)]
    assert {s.shape[0] for s in strips} == {height} and all(s.dtype == np.uint8 for s in strips)
    words, same = (training_sample(7, 0, Recipe(camera=0, height=h))[1] for h in (HEIGHT, height))
    assert (height <= HEIGHT) <= (words == same)  # a lower strip is of the same music; a higher one draws a size before


def test_the_middle_line_is_in_the_middle_of_any_strip():
    image = engrave(melody(5), Style(space=17))
    for height in (64, 128):
        strip = normalize(image, find_staff(image), height)
        assert abs(find_staff(strip).space - 5 * height / HEIGHT) < .3 * height / HEIGHT
        assert abs(np.median(find_staff(strip).ys) - height / 2) < 1


def test_high_strips_show_more_than_enlarged_ones():
    "The share of an edge that lies within one pixel."
    def steepest(strip): return np.sort(np.abs(np.diff(strip.astype(float), axis=1)).ravel())[-200:].mean()
    image = engrave(melody(5), Style(space=12))
    real = normalize(image, find_staff(image), 128)
    small = normalize(image, find_staff(image), 64)
    blown = np.asarray(Image.fromarray(small).resize((small.shape[1] * 2, 128), Image.Resampling.BILINEAR))
    assert steepest(real) > 1.2 * steepest(blown)


def test_an_impossible_height():
    with pytest.raises(InputError, match="strips of 8 px"): Recipe(height=8)


def test_wear_and_frame_keep_the_height():
    for height in (64, 128):
        strip = np.full((height, 300), 255, np.uint8)
        assert wear(strip, random.Random(2)).shape[0] == height and frame(strip, np.random.default_rng(1)).shape[0] == height


def test_the_number_of_threads_belongs_to_the_caller(tmp_path, capsys):
    import torch
    Image.fromarray(engrave(melody(5), Style(margin=15))).save(tmp_path / "a.png")
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        read_files([str(tmp_path / "a.png")], model="crnn")
        assert torch.get_num_threads() == before + 1 and "measures" in capsys.readouterr().out
    finally: torch.set_num_threads(before)
