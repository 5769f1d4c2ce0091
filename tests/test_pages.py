"""Pages: what people really give, and what a page may hold that is no music."""
import base64
import json
import random
import struct
import zlib

import cv2
import numpy as np
import psutil
import pytest
from PIL import Image

from omr.core import InputError
from omr.reading.page_staves import find_staves, standing
from omr.reading.page_truth import ENSEMBLES, judge, photographed, random_sheet, scan_verdicts, scanned, total, true_page, try_layout
from omr.reading.pages import SIDE, Page, pages
from omr.reading.segmentation import load_pages, lay_out_learned, train_pages
from omr.reading.systems import Layout, as_json, draw, extent, find_systems, lay_out, layouts, systems
from omr.scores.camera import Shot, take
from omr.scores.engraving import FONTS, Style
from omr.scores.foreign import chorales
from omr.scores.layouts import Page as Paper, engrave_score

# A page with a black rectangle, locked with the password "secret" (RC4, 40 bits).
LOCKED = zlib.decompress(base64.b64decode(
          "eNqFkcFu1DAQhu859wEsoT0Wezy2E4soB9ouQoC62i1cVj1MYnsJWpIqMVLLI3DmUXgGDn0NLrwCt7opSqn2gA+W5p"
          "/vn9HMLFany2N4rjJggvX1p7LkFzdXnp9QpH2/4yva+ZHJlFxXle9cQjL5FJ0Q/qZ14xbvuUt+0n/pIoPZgIeG9A0+"
          "QVNl/s67ll7211uRQikEAyHuy3QxMSNTT9qrudpb3+3iRwa6qsY4ePqcHf3+fnv069uLZ39uf/7YvMqS5SHz16tn77"
          "LdRz/wTaTO0eD4BwZ8zSQ/L72mwklT5LWzTjQhWGXqnBqtgwZRgGuCcABGa9WoOjS1IO2VMsFYT6qgir8vTYGepCXM"
          "UUtogspBWGOb2iP4otFegwFrSQMKWWgywkttAongAiKJiq/YsZpHvh58yAQzmZgfS/1Rs8AeNcseMt2jpuWBBgIOtf"
          "zQK/EfLQ7U7v2Q9rZpv3pm+Lrv04Wn4511zXBzFZmeoten2xIFAkpEVKjRpB0UaA0YadAoo42p/k9cVlU2RhriNLqS"
          "Mlsszs6Xd9bbuZg="))


@pytest.fixture(scope="module")
def sheet(): return engrave_score(chorales(1)[0][1], Style(space=7), page=Paper(1240, 1754, margin=110))[0]


@pytest.fixture(scope="module")
def photo(sheet): return take(sheet.image, Shot(angle=2, tilt_x=.04, curl=.004, light=((1, .9), (.8, .6)), noise=5, quality=75), np.random.default_rng(1))[0]


def counts(found): return [len(s.staves) for s in found]
def save(path, images, **kw): images[0].save(path, save_all=True, append_images=images[1:], **kw)
def pictures(*arrays): return [Image.fromarray(np.ascontiguousarray(a)) for a in arrays]


def test_locked_pdf(tmp_path):
    (tmp_path / "locked.pdf").write_bytes(LOCKED)
    with pytest.raises(InputError, match="locked with a password; give it with --password"): list(pages(tmp_path / "locked.pdf"))
    with pytest.raises(InputError, match="locked with another password"): list(pages(tmp_path / "locked.pdf", "wrong"))
    page, = pages(tmp_path / "locked.pdf", "secret")
    assert page.image.shape == (SIDE // 2, SIDE) and page.image[-100:, :1400].mean() == 0 and page.image[:500].mean() == 255


def test_memory_does_not_grow_with_the_book(tmp_path):
    save(tmp_path / "book.pdf", [Image.new("L", (210, 297), 200) for _ in range(200)])
    process, used = psutil.Process(), []
    for page in pages(tmp_path / "book.pdf"):
        used.append(process.memory_info().rss / 1e6)
        if page.number == 40: break
    assert page.count == 200 and max(used[5:]) - used[5] < 60  # thirty pages in a list would be 190 MB


def test_one_bad_frame_does_not_take_the_others(tmp_path):
    rng = np.random.default_rng(0)
    save(tmp_path / "book.tiff", [Image.fromarray(rng.integers(0, 255, (80, 60), np.uint8)) for _ in range(3)], compression="tiff_adobe_deflate")
    data = bytearray((tmp_path / "book.tiff").read_bytes())
    with Image.open(tmp_path / "book.tiff") as image:
        image.seek(1)
        start, = image.tag_v2[273]
    data[start:start + 400] = bytes(400)
    (tmp_path / "book.tiff").write_bytes(data)
    found = list(pages(tmp_path / "book.tiff"))
    assert [isinstance(o, InputError) for o in found] == [False, True, False]
    assert "book.tiff, page 2: damaged or cut off" in str(found[1])


@pytest.mark.parametrize("orientation, turn", [(1, 0), (3, 2), (6, 1), (8, 3)])
def test_exif(tmp_path, orientation, turn):
    upright = np.full((60, 40), 255, np.uint8)
    upright[:8] = 0
    exif = Image.Exif()
    exif[0x0112] = orientation
    pictures(np.rot90(upright, turn))[0].save(tmp_path / "phone.jpg", exif=exif, quality=95)
    page, = pages(tmp_path / "phone.jpg")
    assert page.image.shape == (60, 40) and page.image[:6].mean() < 20 and page.image[12:].mean() > 235


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_modes(tmp_path, mode):
    grey = np.full((50, 40), 255, np.uint8)
    grey[10:20] = 0
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    image.save(tmp_path / "page.png")
    page, = pages(tmp_path / "page.png")
    assert page.image.dtype == np.uint8 and page.image[12:18].max() == 0 and page.image[30:].min() == 255


def test_tiff_of_600_megabytes(tmp_path):
    tags = [(256, 30_000), (257, 20_000), (258, 8), (259, 1), (262, 1), (273, 200), (277, 1), (278, 20_000), (279, 600_000_000)]
    with open(tmp_path / "huge.tiff", "wb") as f:
        f.write(b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + bytes(4))
        f.truncate(600_000_200)
    with pytest.raises(InputError, match="huge.tiff: too large; scan it with 300 dpi"): list(pages(tmp_path / "huge.tiff"))


def test_a_book_with_all_that_can_happen(tmp_path, sheet, photo, capsys):
    words = np.full((1000, 800), 255, np.uint8)
    rng, letters = np.random.default_rng(0), list("aaabcdeeeeefghiiklmnnoprrsssttuuvwz      ")
    for i in range(30): cv2.putText(words, "".join(rng.choice(letters, 36)), (60, 60 + 28 * i), cv2.FONT_HERSHEY_COMPLEX, .9, 0, 1, cv2.LINE_AA)
    save(tmp_path / "book.pdf", pictures(sheet.image, np.full_like(sheet.image, 255), words, np.rot90(photo, 2), np.rot90(photo)), quality=90)
    assert find_systems([str(tmp_path / "book.pdf")], str(tmp_path / "out"), as_data=True) == 1
    said = capsys.readouterr()
    book = f"{tmp_path / 'book.pdf'}, page"
    assert said.out.splitlines() == [f"{book} {n}: 3 systems with 4, 4, 4 staves -> book.page-{n}.png, book.page-{n}.json" for n in (1, 4, 5)]
    assert said.err.splitlines() == [f"{book} 2: a blank page", f"{book} 3: no staff found, so this is not read as music"]
    data = json.loads((tmp_path / "out" / "book.page-4.json").read_text())
    assert data["turned"] == 180 and len(data["systems"][0]["staves"][0]["lines"]) == 5
    with pytest.raises(InputError, match="no such file"): find_systems([str(tmp_path / "none.pdf")])
    assert find_systems([str(tmp_path / "none.pdf"), str(tmp_path / "none.png")]) == 1


@pytest.mark.parametrize("turn", range(4))
def test_any_side_up(photo, turn):
    layout = lay_out(Page(np.ascontiguousarray(np.rot90(photo, turn))))
    assert counts(layout.systems) == [4, 4, 4] and layout.turns % 4 == -turn % 4
    assert layout.to_page(np.array([[100., 200.], [900., 700.]])).shape == (2, 2)


@pytest.mark.parametrize("angle", [-11, 9])
def test_far_askew(sheet, angle):
    photo, _ = take(sheet.image, Shot(angle=angle, outside=120), np.random.default_rng(0))
    assert counts(systems(photo)) == [4, 4, 4]


def test_half_a_page(photo):
    assert counts(systems(photo[:, :700])) == [4, 4, 4]  # the right half is missing
    found = counts(systems(photo[560:]))  # cut between the second and the third staff of the second system, or so
    assert found[-1] == 4 and len(found) <= 2


def test_photo_of_a_photo(photo):
    again, _ = take(photo, Shot(angle=-1.5, tilt_y=.05, outside=60, moire=.1, noise=6, quality=70), np.random.default_rng(2))
    assert counts(systems(again)) == [4, 4, 4]


def test_black_edges_join_nothing(sheet):
    scan = sheet.image.copy()
    scan[:, 70:76], scan[:, -30:] = 0, 0
    assert counts(systems(scan)) == [4, 4, 4]


def test_no_music():
    rng = np.random.default_rng(0)
    scrawl = np.full((1200, 900), 245, np.uint8)
    strokes = (np.cumsum(rng.normal(0, 9, (60, 2)), 0) + rng.integers(100, 800, 2) for _ in range(60))
    for stroke in strokes: cv2.polylines(scrawl, [stroke.astype(np.int32)], False, 20, 2, cv2.LINE_AA)
    table = np.full((1200, 900), 255, np.uint8)
    for y in range(100, 1100, 14): cv2.line(table, (60, y), (840, y), 0, 1)
    for page in (scrawl, table, rng.integers(150, 255, (900, 700)).astype(np.uint8)):
        assert find_staves(page) == []
        with pytest.raises(InputError, match="no staff found"): lay_out(Page(page))
    with pytest.raises(InputError, match="a blank page"): lay_out(Page(np.full((900, 700), 200, np.uint8)))
    with pytest.raises(InputError, match="are no page"): lay_out(Page(np.full((30, 30), 200, np.uint8)))


@pytest.mark.parametrize("font", FONTS)
def test_fonts(font):
    sheet = engrave_score(chorales(1)[0][1], Style(font=font, space=6.5), page=Paper(1240, 1754))[0]
    truth = photographed(sheet, font, 3, .4)
    assert judge(truth, try_layout(truth))["right"]


def test_ensembles():
    verdicts = [judge(page, try_layout(page)) for page in (true_page(i, kind, .3) for i, kind in enumerate(ENSEMBLES))]
    assert total(verdicts)["share"] >= .95 and total(verdicts)["pages right"] >= .8


def test_extents_do_not_leave_the_page_and_pictures_are_made(photo):
    layout = lay_out(Page(photo))
    height, width = layout.image.shape
    for system in layout.systems:
        left, top, right, bottom = extent(layout, system)
        assert 0 <= left < system.left and 0 <= top < system.top and system.bottom < bottom <= height and system.right < right <= width
    assert draw(layout, 500).shape[1] == 500 and json.dumps(as_json(layout))


def test_layouts_stream(tmp_path, sheet):
    save(tmp_path / "two.tiff", pictures(sheet.image, np.full_like(sheet.image, 255)))
    stream = layouts(tmp_path / "two.tiff")
    assert isinstance(next(stream), Layout) and isinstance(next(stream), InputError)
    assert next(stream, None) is None


def test_standing(sheet): assert standing(sheet.image) > 3 > 1 / 3 > standing(np.ascontiguousarray(np.rot90(sheet.image)))


def test_a_book_of_bad_pages(tmp_path, sheet, photo, capsys):
    rng = np.random.default_rng(0)
    hand = np.full((1200, 900), 245, np.uint8)
    for row in range(100, 1100, 60):  # lines of writing: loops that drift to the right
        t = np.linspace(0, 60, 1200)
        loops = np.stack([80 + 12 * t + 9 * np.sin(2.1 * t), row + 14 * np.cos(2 * t) * (1 + .4 * np.sin(.9 * t + row)) + rng.normal(0, .6, t.size)], 1)
        cv2.polylines(hand, [loops.astype(np.int32)], False, 30, 2, cv2.LINE_AA)
    again, _ = take(photo, Shot(angle=-1.5, outside=60, moire=.1, noise=6, quality=70), np.random.default_rng(2))
    save(tmp_path / "bad.tiff", pictures(hand, photo[:, :700], np.full((900, 700), 250, np.uint8), again, sheet.image), compression="tiff_adobe_deflate")
    assert find_systems([str(tmp_path / "bad.tiff")], str(tmp_path / "out"), overlay=False) == 1
    said, book = capsys.readouterr(), f"{tmp_path / 'bad.tiff'}, page"
    assert said.out.splitlines() == [f"{book} {n}: 3 systems with 4, 4, 4 staves" for n in (2, 4, 5)]
    assert said.err.splitlines() == [f"{book} 1: no staff found, so this is not read as music", f"{book} 3: a blank page"]


def test_two_pages_on_a_spread(sheet):
    right = engrave_score(chorales(2)[1][1], Style(space=6.5), page=Paper(1240, 1754, margin=110))[0]
    spread = np.hstack([sheet.image, np.full((1754, 30), 255, np.uint8), right.image])
    spread[:, 1250:1256] = 0  # the fold
    found = lay_out(Page(spread)).systems
    sides = [s.left > 1240 for s in found]
    assert sides == sorted(sides) and len(found) == 3 + len(set(right.staves["system"])) and counts(found) == [4] * len(found)
    assert all(a.bottom < b.top for a, b in zip(found, found[1:]) if (a.left > 1240) == (b.left > 1240))


def test_systems_of_two_sizes(sheet):
    small = engrave_score(chorales(1)[0][1], Style(space=5), page=Paper(1240, 1754, margin=110))[0]
    end = [int(sheet.staves["y1"][sheet.staves["system"] == 2].max()) + 60, int(small.staves["y0"][small.staves["system"] == 2].min()) - 50]
    both = np.vstack([sheet.image[:end[0]], small.image[end[1]:end[1] + 700]])
    found = systems(both)
    assert counts(found)[:3] == [4, 4, 4] and .6 < found[2].space / found[0].space < .8


@pytest.mark.parametrize("kind", ["piano", "song", "quartet"])
def test_worn_scans(kind):
    verdicts = [judge(page, try_layout(page)) for page in (scanned(random_sheet(random.Random(f"old {i}"), kind), kind, i) for i in range(1))]
    assert total(verdicts)["share"] >= .75


def test_verdicts_on_scans(tmp_path):
    "A list of systems beside a file: bands in points from the top of the page."
    sheet = random_sheet(random.Random(2), "piano")
    pictures(sheet.image)[0].save(tmp_path / "old.pdf", resolution=150)
    def band(n):
        of = sheet.staves[sheet.staves["system"] == n]
        return {"page": 0, "y0_pt": (of["y0"].min() - 20) * 72 / 150, "y1_pt": (of["y1"].max() + 20) * 72 / 150}
    listed = [{"pdf": "old.pdf", "systems": [band(n) for n in sorted(set(sheet.staves["system"].tolist()))]}]
    (tmp_path / "systems.json").write_text(json.dumps(listed))
    (name, verdict), = scan_verdicts(tmp_path)
    assert name == "old" and verdict["right"] == 1 and verdict["found"] == len(listed[0]["systems"])
    with pytest.raises(InputError, match="no list of systems"): next(scan_verdicts(tmp_path / "none"))


def test_training_of_the_network(tmp_path):
    settings = dict(sheets=2, batch=2, evaluate_on=1, evaluate_every=1, save_every=1, threads=1)
    weights = train_pages(str(tmp_path / "run"), steps=2, decay=1, warmup=1, **settings)
    assert (weights / "model.safetensors").stat().st_size < 700_000
    noise = np.random.default_rng(0).integers(150, 255, (900, 700)).astype(np.uint8)
    with pytest.raises(InputError, match="no staff found"): lay_out_learned(Page(noise), load_pages(weights))
    with pytest.raises(InputError, match="this run was started with"): train_pages(str(tmp_path / "run"), steps=2, decay=1, warmup=1, lr=1, **settings)
    (weights / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match="weights that do not fit"): load_pages(weights)
