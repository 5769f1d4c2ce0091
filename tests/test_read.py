"`omr read`, `omr convert` and `omr render` as processes: what users do, and what can be wrong with it."
import json, resource, shutil, signal, subprocess, sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from omr.core import InputError
from omr.reading.reader import read_files, read_many, shipped
from omr.reading.readings import odd_measures
from omr.scores.encodings import canonical, join_symbols
from omr.scores.engraving import Style, engrave
from omr.scores.melodies import melody

BAD = {"empty": "the file is empty", "cut": "cut off", "text": "not an image", "none": "no such file",
       "pixel": "no staff found", "photo": "no staff found", "letter": "staff"}


def omr(*words, **kwargs):
    return subprocess.run([Path(sys.executable).with_name("omr"), *map(str, words)], capture_output=True, text=True, timeout=300, **kwargs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Good images, and one of each kind of bad one."
    folder = tmp_path_factory.mktemp("images")
    grey = engrave(melody(5), Style(space=8, margin=20))
    for i in range(3): Image.fromarray(grey).save(folder / f"good{i}.png")
    ink = np.zeros((*grey.shape, 4), np.uint8)
    ink[..., 3] = 255 - grey
    Image.fromarray(ink).save(folder / "rgba.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(np.pad(grey, ((0, 0), (0, 20_000 - grey.shape[1])), constant_values=255)).save(folder / "wide.png")
    bad_images(folder)
    return folder


def bad_images(folder):
    rng = np.random.default_rng(0)
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("not a picture")
    (folder / "cut.png").write_bytes((folder / "good0.png").read_bytes()[:900])
    Image.fromarray(np.zeros((1, 1), np.uint8)).save(folder / "pixel.png")
    blobs = Image.fromarray(rng.integers(0, 255, (12, 16)).astype(np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
    Image.fromarray(np.clip(np.asarray(blobs) + rng.normal(0, 6, (480, 640)), 0, 255).astype(np.uint8)).save(folder / "photo.jpg")
    page = Image.new("L", (600, 300), 255)
    for y in range(20, 280, 20): ImageDraw.Draw(page).text((20, y), "a page of words has lines as well, but no staff " * 2, fill=0)
    page.save(folder / "letter.png")


def paths(folder, *names): return [folder / (f"{n}.jpg" if n == "photo" else f"{n}.png") for n in names]


def test_every_good_image_is_read_and_every_bad_one_has_its_line(folder, tmp_path):
    good = ["good0", "good1", "good2", "rgba", "deep", "wide"]
    done = omr("read", *paths(folder, *good, *BAD), "-o", tmp_path, "--to", "midi,musicxml,kern,mei,svg,semantic")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert len(done.stdout.splitlines()) == len(good) and all("measures" in line and "confidence" in line for line in done.stdout.splitlines())
    for name, why in BAD.items():
        lines = [line for line in done.stderr.splitlines() if f"/{name}." in line and "failed:" not in line]
        assert len(lines) == 1 and why in lines[0], (name, done.stderr)
    assert f"{len(BAD)} of {len(BAD) + len(good)} failed" in done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {n + e for n in good for e in (".mid", ".musicxml", ".krn", ".mei", ".svg", ".semantic")}


def test_depth_and_transparency_change_nothing(folder, tmp_path):
    omr("read", *paths(folder, "good0", "rgba", "deep"), "-o", tmp_path, "--to", "kern")
    texts = {p.read_text() for p in tmp_path.iterdir()}
    assert len(texts) == 1 and canonical(texts.pop())


def test_one_missing_among_ten(folder, tmp_path):
    names = [tmp_path / f"{i}.png" for i in range(10)]
    for path in names: shutil.copy(folder / "good0.png", path)
    names[4].unlink()
    done = omr("read", *names)
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 9 and "4.png: no such file" in done.stderr
    assert len(list(tmp_path.glob("*.mid"))) == 9  # beside the input


@pytest.mark.parametrize("name", ["photo", "empty"])
def test_a_single_bad_image_is_one_line_and_exit_2(folder, name):
    done = omr("read", *paths(folder, name))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and BAD[name] in done.stderr and not done.stdout


def test_a_folder_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").touch()  # a file in the place of the folder stops root as well
    done = omr("read", folder / "good0.png", "-o", tmp_path / "file" / "out")
    assert done.returncode == 2 and "cannot be written" in done.stderr and len(done.stderr.splitlines()) == 1


def test_weights_of_another_vocabulary(folder, tmp_path):
    from omr.reading.cards import weights_folder
    shutil.copytree(weights_folder("crnn"), tmp_path / "weights")
    config = json.loads((tmp_path / "weights/config.json").read_text())
    (tmp_path / "weights/config.json").write_text(json.dumps(config | {"tokens": config["tokens"][::-1]}))
    done = omr("read", folder / "good0.png", "--model", tmp_path / "weights")
    assert done.returncode == 2 and "another vocabulary" in done.stderr and len(done.stderr.splitlines()) == 1


def test_weights_of_an_unknown_kind(folder, tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": "tromb"}')
    with pytest.raises(InputError, match="did you mean 'tromr'"): read_many([folder / "good0.png"], str(tmp_path))


def test_the_best_shipped_model_is_taken(folder):
    best = next(iter(shipped()))
    assert shipped()[best] < min(shipped().values()) + .001 < 1  # equals are ordered by size
    assert read_many([folder / "good0.png"])[0].kern == read_many([folder / "good0.png"], best)[0].kern


def test_batches_of_any_size_read_the_same(folder):
    images = [engrave(melody(i), Style(space=6 + i, margin=20)) for i in range(6)] + [folder / "none.png", np.zeros((9, 9), np.uint8)]
    one, many = read_many(images, "crnn", 1), read_many(images, "crnn", 4)
    assert [str(r) if isinstance(r, InputError) else r.kern for r in one] == [str(r) if isinstance(r, InputError) else r.kern for r in many]
    assert [isinstance(r, InputError) for r in one] == [False] * 6 + [True] * 2


def test_an_overlay_has_the_size_of_the_image_and_more_below(folder, tmp_path, capsys):
    assert read_files([str(folder / "good0.png"), str(folder / "rgba.png")], str(tmp_path), "kern,semantic", batch=1, overlay=True) == 0
    with Image.open(folder / "good0.png") as image, Image.open(tmp_path / "good0.overlay.png") as drawn:
        assert drawn.width == image.width and drawn.height > image.height
        tints = np.ptp(np.asarray(drawn.convert("RGB")).astype(int), 2)
    assert (tints[:image.height] > 30).mean() > .05  # colour on a grey print
    assert "\t" in (tmp_path / "good0.semantic").read_text() and len(capsys.readouterr().out.splitlines()) == 2


METRES = {"*M4/4": ["1c", "2c 4d 4e", "4.c 8d 2r"], "*M3/4": ["2.c", "4c 2d", "12c 12d 12e 2c"], "*M6/8": ["4.c 4.d", "8c 8d 8e 4.r"]}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(METRES)), st.data(), st.booleans())
def test_a_wrong_measure_is_found_and_no_other(metre, data, shown):
    bars = data.draw(st.lists(st.sampled_from(METRES[metre]), min_size=5, max_size=8))
    def staff(): return join_symbols([metre] * shown + " = ".join(bars).split() + ["=="])
    assert odd_measures(staff()) == []
    wrong = data.draw(st.integers(1, len(bars) - 2))
    bars[wrong] += " 16g"
    assert [m.number for m in odd_measures(staff())] == [wrong + 1]


@pytest.mark.parametrize("text, says", [("**kern\n4c\n4d\t4e\n*-\n", "line 3, token '4d | 4e'"), ("**kern\n4c\n8zzz\n*-\n", "line 3, token '8zzz'")])
def test_kern_that_is_broken(tmp_path, text, says):
    (tmp_path / "a.krn").write_text(text)
    for words in (["convert", tmp_path / "a.krn", tmp_path / "a.mid"], ["render", tmp_path / "a.krn", "--output_dir", tmp_path]):
        done = omr(*words)
        assert done.returncode == 2 and says in done.stderr and "a.krn" in done.stderr and len(done.stderr.splitlines()) == 1


def small_disk():
    "Files of at most 20 kB: what comes after fails as on a full disk."
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def test_a_disk_that_fills_while_rendering(tmp_path):
    words = ["render", "--count", 12, "--shard", 6, "--workers", 1, "--output_dir", tmp_path / "out"]
    done = omr(*words, preexec_fn=small_disk)
    assert done.returncode == 2 and "cannot be written" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["render.json"]  # no half file
    assert omr(*words).returncode == 0 and len(list((tmp_path / "out").glob("*.parquet"))) == 2
