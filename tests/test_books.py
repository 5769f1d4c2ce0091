"Whole pages to one score: joining without reading, then `omr read` on a small PDF with a blank page."
import io, random, re
from dataclasses import replace
from fractions import Fraction

import mido
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import omr
from omr.core import InputError
from omr.reading import books
from omr.reading.book_scores import f1, matched, measure_notes
from omr.reading.books import Book, PageReading, SystemReading, make_book, read_book, tempo_of
from omr.reading.joining import Cell, Column, append, columns, line_up, to_kern
from omr.reading.measures import grid_of, usual_length
from omr.reading.page_staves import Staff
from omr.reading.page_truth import ENSEMBLES, grouped, random_score, true_page
from omr.reading.pages import Page
from omr.reading.reader import read_files
from omr.reading.systems import System, lay_out
from omr.scores.engraving import Style
from omr.scores.layouts import Page as Paper, engrave_score, load_score
from omr.scores.score import playing_order, read_score, rows
from omr.scores.encodings import recip_of
from omr.scores.spines import canonical_score, parse_chord, walk

REPEATS = rows("""
**kern    **kern
*clefF4   *clefG2
*k[f#]    *k[f#]
*M2/4     *M2/4
=!|:      =!|:
*^        *
4C   2E   4e
4D   .    8f# 8a
.    .    8g
*v   *v   *
=:|!|:    =:|!|:
2G        2b
=:|!      =:|!
2C        2cc
==        ==
*-        *-
""")


def good(kern):
    "Every line fits; the number of measures."
    assert list(walk(kern))
    score = read_score(kern)
    assert not score.problems
    return len([m for m in score.measures if m.events])


def test_a_score_taken_apart_is_put_together_again():
    assert to_kern(columns(REPEATS)) == canonical_score(REPEATS)
    for seed in range(5):
        kern = random_score(random.Random(seed), ["G2", "C3", "F4"], 6)
        assert measure_notes(to_kern(columns(kern))) == measure_notes(kern)


def test_lines_carry_clef_key_and_metre():
    line = columns(REPEATS)
    kern = to_kern(append([line, line]))
    assert good(kern) == 6 and kern.count("*clefG2") == kern.count("*M2/4") // 2 == 1 and kern.count("*k[f#]") == 2
    other = [replace(line[0], cells=tuple(replace(c, signs=(*c.signs[:1], (Fraction(0), "*k[]"))) for c in line[0].cells)), *line[1:]]
    assert to_kern(append([line, other])).count("*k[]") == 2  # a new key is said


def test_a_part_that_is_left_out_rests():
    line = columns(rows("**kern    **kern    **kern\n*clefF4   *clefC3   *clefG2\n1C        1c        1cc\n=         =         =\n*-        *-        *-"))
    two = [replace(m, cells=(m.cells[0], m.cells[2])) for m in line]
    data = [row.fields for row in walk(to_kern(append([line, two, line]))) if row.kind == "data"]
    assert [f.token for f in data[1]] == ["1C", "1r", "1cc"]


STAVES = st.lists(st.lists(st.lists(st.sampled_from(["4c", "8d", "2e 2g", "4.f", "12a", "16b", "1r", "qcc"]), max_size=5), max_size=4), min_size=1, max_size=4)


@settings(max_examples=80, deadline=None)
@given(STAVES)
def test_staves_that_disagree_never_break_a_line(staves):
    texts = ["**kern\n*clefG2\n" + "".join("\n".join(bar + ["="]) + "\n" for bar in staff) + "*-\n" for staff in staves]
    read = [[c for c in columns(t) if c.length] for t in texts]
    joined = line_up(read)
    kern = to_kern(append([joined, joined])) if joined else ""
    for line in kern.splitlines(): assert len(line.split("\t")) == len(staves)  # one voice each
    if kern: good(kern)
    assert len(joined) == max(map(len, read))


QUARTERS = st.lists(st.sampled_from([Fraction(1, 2), Fraction(1), Fraction(3, 2), Fraction(1, 3)]), max_size=4)


def voice(number, gaps, lengths):
    "Notes with gaps before them."
    out, at = [], Fraction(0)
    for gap, length in zip(gaps, lengths):
        out.append((at := at + gap - Fraction(1, 2) * (gap == Fraction(1, 2)), number, tuple(parse_chord(f"{recip_of(length)}{'cd'[number]}"))))
        at += length
    return out


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(QUARTERS, QUARTERS, QUARTERS, QUARTERS), min_size=1, max_size=3))
def test_voices_that_come_and_go_never_break_a_line(staves):
    cells = [Cell(tuple(sorted(voice(0, a, b) + voice(1, c, d), key=lambda n: n[:2]))) for a, b, c, d in staves]
    cells = tuple(replace(c, length=max((at + chord[0].quarters for at, _, chord in c.notes), default=Fraction(1))) for c in cells)
    kern = to_kern([Column(cells), Column(cells)])
    assert good(kern) == 2
    assert sum(n.total() for n in measure_notes(kern).values()) == 2 * sum(len(c.notes) for c in cells)


def test_what_most_measures_hold():
    half, more = Fraction(2), Fraction(3)
    assert usual_length([[half, half], [half, more], [half, half]]) == half
    assert usual_length([[more], [half]], half) == half and usual_length([]) is None


def test_tempo_words():
    assert [tempo_of(t) for t in ("Largo ma non tanto", "Tempo di Valse = 144", "= 9", "Nocturne")] == [50, 144, None, None]


def made(kern):
    "A book without images."
    staff = Staff(np.array([0., 100.]), np.arange(5.)[:, None] * np.ones(2))
    measures = columns(kern)
    system = System([staff] * kern.split("\n")[0].count("**kern"))
    page = PageReading(1, None, [SystemReading(0, system, [], measures, [float(i + 1) for i in range(len(measures))])])
    return make_book([page, PageReading(2, None, error=InputError("a blank page", where="x.pdf, page 2"))])


def test_measures_know_their_lines():
    book = made(REPEATS)
    lines = book.kern.splitlines()
    assert [lines[m.kern_lines[1] - 1][:2] for m in book.measures] == ["=:", "=:", "=="]
    assert book.measures[0].kern_lines[0] == 2 and all(b.kern_lines[0] == a.kern_lines[1] + 1 for a, b in zip(book.measures, book.measures[1:]))
    assert book.remarks == ["x.pdf, page 2: a blank page"]
    assert mido.MidiFile(file=io.BytesIO(book.midi(60))).tracks[0][0].tempo == 1_000_000 and "<repeat" in book.musicxml()
    assert omr.read_book is read_book


def test_nothing_read_is_an_empty_book():
    book = make_book([PageReading(1, None, error=InputError("a blank page"))])
    assert isinstance(book, Book) and not book.measures and book.confidence == 0 and book.notes == 0


@pytest.mark.parametrize("kind", ["piano", "song", "quartet"])
def test_barlines_of_a_clean_page(kind):
    page = true_page(7, kind, 0)
    layout = lay_out(Page(page.image))
    assert all(len(s.staves) == len(ENSEMBLES[kind][1].split()) for s in layout.systems)
    grids = [grid_of(layout.image, s) for s in layout.systems]
    assert all(g.ends for g in grids) and all(a[1] < b[0] for g in grids for a, b in zip(g.ends, g.ends[1:]))


@pytest.fixture(scope="module")
def piece(tmp_path_factory):
    "A PDF: music, a blank page, music; and its kern."
    folder, style, paper = tmp_path_factory.mktemp("book"), Style(space=8), Paper(1000, 400, staves=10)
    kern = random_score(random.Random(5), ["G2", "F4"], 12)
    sheets = engrave_score(grouped(load_score(kern, style, page=paper).getMEI(), "{12}"), style, page=paper)
    assert len(sheets) == 2
    images = [Image.fromarray(s.image) for s in sheets]
    images.insert(1, Image.new("L", images[0].size, 255))
    for name in ("piece.pdf", "piece.tiff"):
        first, *others = [i.copy() for i in images]  # Pillow keeps how it wrote an image the last time
        first.save(folder / name, save_all=True, append_images=others)
    images[0].copy().save(folder / "page.png")
    return folder, kern


def test_a_book_with_a_blank_page(piece, tmp_path, capsys):
    folder, kern = piece
    assert read_files([str(folder / "piece.pdf")], str(tmp_path), per_page=True, overlay=True, bpm=90) == 1
    said = capsys.readouterr()
    assert said.err.splitlines() == [f"{folder / 'piece.pdf'}, page 2: a blank page"]
    assert len(said.out.splitlines()) == 3 and "1 of 3 pages could not be read" in said.out
    each = {f"piece.page-{n}.{e}" for n in (1, 3) for e in ("mid", "musicxml", "overlay.png")}
    assert {p.name for p in tmp_path.iterdir()} == {"piece.mid", "piece.musicxml"} | each
    assert mido.MidiFile(tmp_path / "piece.mid").tracks[0][0].tempo == round(60e6 / 90)


def test_a_tiff_reads_like_the_pdf_and_keeps_no_images(piece):
    folder, kern = piece
    book = read_book(folder / "piece.tiff")
    assert len(book.pages) == 3 and book.pages[1].error.what == "a blank page" and len(book.remarks) == 1
    assert all(not p.layout.image.size and not p.layout.page.image.size for p in book.pages if p.layout)
    assert good(book.kern) == len(book.measures) == good(kern)
    counts = matched(list(measure_notes(book.kern).values()), list(measure_notes(kern).values()))
    assert f1(counts) > .9, counts
    assert {m.page for m in book.measures} == {1, 3} and all(m.box[0] < m.box[2] and m.box[1] < m.box[3] for m in book.measures)


def test_ctrl_c_leaves_the_finished_pages(piece, tmp_path, capsys, monkeypatch):
    folder, _ = piece
    def stopped(path, *args):
        system = System([Staff(np.array([0., 9.]), np.zeros((5, 2)))] * 2)
        yield PageReading(1, None, [SystemReading(0, system, [], columns(REPEATS), [1., 2., 3.])])
        raise KeyboardInterrupt
    monkeypatch.setattr(books, "read_pages", stopped)
    with pytest.raises(KeyboardInterrupt): read_files([str(folder / "piece.pdf")], str(tmp_path), to="kern")
    assert "stopped: " in capsys.readouterr().out and good((tmp_path / "piece.krn").read_text()) == 3


def test_the_picture_of_a_page_is_a_page(piece, tmp_path, capsys):
    folder, _ = piece
    assert read_files([str(folder / "page.png")], str(tmp_path), to="kern") == 0
    assert (tmp_path / "page.krn").read_text().startswith("**kern\t**kern\n") and "1 pages" in capsys.readouterr().out


@pytest.mark.parametrize("name, content, why", [("text.pdf", b"%PDF-1.4 nothing", "damaged PDF"), ("blank.pdf", None, "a blank page")])
def test_a_bad_book_is_one_line(tmp_path, name, content, why):
    if content is None: Image.new("L", (600, 800), 255).save(tmp_path / name)
    else: (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=why): read_files([str(tmp_path / name)])


def test_endings_are_seen_and_kept(tmp_path):
    from omr.scores.partwise import score_to_mei
    bar = "=\t=\n4C\t8e\n.\t8f\n4D\t4g\n4E\t4a\n4F\t4b\n"
    kern = ("**kern\t**kern\n*>[A,A1,A,A2]\t*>[A,A1,A,A2]\n*>A\t*>A\n*clefF4\t*clefG2\n*k[]\t*k[]\n*M4/4\t*M4/4\n"
            + "4C\t4e\n4D\t4f\n4E\t4g\n4F\t4a\n" + bar + "=\t=\n*>A1\t*>A1\n"
            + bar.split("\n", 1)[1] + bar + "=:|!\t=:|!\n*>A2\t*>A2\n" + bar.split("\n", 1)[1] + bar + "==\t==\n*-\t*-\n")
    good(kern)
    style, paper = Style(space=8), Paper(1400, 500, staves=10)
    sheet, = engrave_score(grouped(score_to_mei(kern), "{12}"), style, page=paper)
    Image.fromarray(sheet.image).save(tmp_path / "endings.png")
    book = read_book(tmp_path / "endings.png")
    assert re.findall(r"(?m)^\*>(\S+)", book.kern) == ["[A,A1,A,A2]", "A", "A1", "A2"] and "=:|!" in book.kern
    assert book.musicxml().count("<ending") >= 3 and len(book.midi()) > 100
    played = playing_order(read_score(book.kern))
    assert played == [0, 1, 2, 3, 0, 1, 4, 5]
