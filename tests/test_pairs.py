"""Pairs of score and sound beyond their notebooks: kills, bad scores, held-out composers, the clock against the sound."""
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from omr.core import InputError
from omr.matching.pair_making import Recipe, embedded_sources, folder_sources, make_pair, named_sources, pair_set, play_passage
from omr.matching.pairs import Snippets, read_pairs
from omr.matching.spectrogram import FPS, RATE, log_spectrogram
from omr.matching.unrolled import engrave_pages, system_boxes, unroll

TINY = Recipe(sounds=("embedded:0",), performances=1, tempos=("1",), systems=1)
PIANO = ("**kern\t**kern\n*part1\t*part1\n*staff2\t*staff1\n*clefF4\t*clefG2\n*k[]\t*k[]\n*M4/4\t*M4/4\n"
         + "".join(f"4{a}\t8{b}\n.\t8{b}{b}\n4{a}\t4{b}\n2{a}\t2{b}\n=\t=\n" for a, b in zip("CDEFGAB" * 4, "cdefgab" * 4)) + "*-\t*-\n")


def folder_of(path, **scores):
    for name, kern in scores.items():
        (path / name).mkdir(parents=True)
        (path / name / f"{name}-1.krn").write_text(kern)
    return path


def names_in(split, count):
    "Surnames that the hash of composers deals into a split."
    from omr.scores.parts import split_of
    return [n for n in (f"composer{c}{d}" for c in "abcdefghij" for d in "klmnopqrst") if split_of(n) == split][:count]


def test_composers_are_dealt_out(tmp_path):
    names = {split: names_in(split, 2) for split in ("train", "validation", "test")}
    folder = folder_of(tmp_path, **{n: PIANO for some in names.values() for n in some})
    for split, some in names.items(): assert {s.composer for s in folder_sources(folder, split)} == set(some)


def test_bad_scores_are_skipped_and_counted(tmp_path):
    one, two = names_in("test", 2)
    broken = PIANO.replace("2C\t2c", "2C\t2c\t2e", 1)
    folder = folder_of(tmp_path / "scores", **{one: PIANO})
    (folder / one / "short.krn").write_text("**kern\t**kern\n*M4/4\t*M4/4\n" + "1C\t1c\n=\t=\n" * 5 + "*-\t*-\n")
    (folder / one / "broken.krn").write_text(broken)
    done = pair_set(tmp_path / "set", 2, [str(folder)], TINY, {"test": 1}, workers=1)
    assert done["made"] == 1 and len(done["failed"]) == 1 and "onsets" in done["failed"][0]
    assert len(read_pairs(tmp_path / "set", "test")) == 1


@pytest.mark.parametrize("kern, why", [("**kern\n*M4/4\n1r\n=\n1r\n*-\n", "no note"), ("**kern\n*M4/4\n1c\n=\n*-\n", "fewer than 8")])
def test_scores_without_music(kern, why):
    from omr.matching.pair_making import Source
    with pytest.raises(InputError, match=why): make_pair(Source("x", "", kern=kern), "a", TINY)


def test_no_score_for_a_split(tmp_path):
    folder = folder_of(tmp_path / "scores", **{names_in("train", 1)[0]: PIANO})
    with pytest.raises(InputError, match="no score for the split 'test'"): pair_set(tmp_path / "set", 2, [str(folder)], TINY, {"test": 1}, workers=1)


def test_killed_and_continued(tmp_path):
    "A set that was killed goes on, and its files are those of a set that was not."
    made = f"pair_set({str(tmp_path / 'a')!r}, 4, recipe=Recipe(('embedded:0',), 1, ('1',), systems=1), shares={{'test': 1}}, workers=1)"
    code = f"from omr.matching.pair_making import *\nif __name__ == '__main__': {made}"
    (tmp_path / "run.py").write_text(code)
    process = subprocess.Popen([sys.executable, tmp_path / "run.py"], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.time() + 240
    while not list(tmp_path.glob("a/test/*.safetensors")) and time.time() < end: time.sleep(.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = len(list(tmp_path.glob("a/test/*.safetensors")))
    assert before >= 1
    for name in "ab": done = pair_set(tmp_path / name, 4, recipe=TINY, shares={"test": 1}, workers=1)
    assert done["made"] == 4
    def contents(p): return p.name, p.about, p.performances, p.places.tolist(), p.sheet().tobytes(), p.spec(0).tobytes()
    a, b = (list(map(contents, read_pairs(tmp_path / o, "test"))) for o in "ab")
    assert a == b and len(a) == 4


def test_every_onset_sounds_where_it_is_said(tmp_path):
    "Tempo by tempo, the notes of a performance begin at the frames of their onsets."
    source = next(s for s in embedded_sources("test") if s.composer == "bach")
    passage = unroll(engrave_pages(source.kern, random.Random(0), source.filter), 0, 3)
    for tempo in (.5, 1, 2):
        sound, frames, _ = play_passage(passage.score, passage.onsets, np.random.default_rng(0), 90, tempo, "embedded:0")
        rise = np.maximum(np.diff(log_spectrogram(sound)), 0).sum(0)
        assert (np.diff(frames) > 0).all()
        assert np.mean([rise[max(round(f) - 2, 0):round(f) + 2].max() > np.median(rise) for f in frames]) > .95
        assert abs(len(sound) / RATE - frames[-1] / FPS) < 12


def test_the_camera_keeps_places():
    "On a bad photo an onset is still where it is said to be: there is as much ink as on the print."
    source = next(s for s in embedded_sources("test") if s.composer == "bach")
    pages = engrave_pages(source.kern, random.Random(0), source.filter)
    prints, photo = unroll(pages), unroll(pages, camera=1, rng=np.random.default_rng(0))
    assert len(prints.x) == len(photo.x) and np.abs(prints.x - photo.x).max() < 12
    assert prints.sheet.shape == photo.sheet.shape


def test_systems_fit_the_strip():
    kern = PIANO.replace("C", "CCC").replace("ccc", "cccc")
    for seed in range(3):
        for page in engrave_pages(kern, random.Random(seed)):
            assert all(b[3] - b[1] <= 144 for b in system_boxes(page).values())


def test_names_and_walks():
    some = embedded_sources("validation")[:5]
    named = named_sources(list(some), 12, seed=3)
    assert len({n for n, _ in named}) == 12 and named[:7] == named_sources(list(some), 7, seed=3)


def test_snippets_of_a_loader(tmp_path):
    "Batches in worker processes are those of the main one."
    import torch
    pair_set(tmp_path, 1, recipe=TINY, shares={"test": 1}, workers=1)
    data = Snippets(read_pairs(tmp_path, "test"), context=84, augment=True)
    loaders = [torch.utils.data.DataLoader(data, 4, num_workers=n) for n in (0, 1)]
    first, second = (next(iter(o)) for o in loaders)
    assert first["sheet"].shape == (4, 1, 80, 100) and first["spec"].shape == (4, 1, 92, 84)
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_damaged_piece(tmp_path):
    pair_set(tmp_path, 1, recipe=TINY, shares={"test": 1}, workers=1)
    path = next(tmp_path.glob("test/*.safetensors"))
    (path.parent / "cut.safetensors").write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="cannot be read"): read_pairs(tmp_path, "test")
