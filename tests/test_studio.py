"""The studio without a browser: what follows from each message, and texts and files that go wrong."""
import io
import json
from dataclasses import replace

import mido
import numpy as np
import pytest

from omr.core import InputError
from omr.reading import studio as module
from omr.reading.books import PageReading, SystemReading, make_book
from omr.reading.corrections import Corrections, Refused, corrected, edit, excerpt, flags, undo
from omr.reading.joining import columns, line_up
from omr.reading.page_staves import Staff
from omr.reading.pages import Page
from omr.reading.playback import Engraver, engrave_page
from omr.reading.readings import Reading
from omr.reading.systems import Bend, Layout, System
from omr.scores.score import score_notes

UPPER, LOWER = "4dd 8g 8a 8b 8cc = 4dd 4g 4g = 4ee 4cc = 4dd 4g 4g =".split(), "2.GG = 2.BB = 2C = 2.BB =".split()


def staff(y): return Staff(np.array([100., 900.]), np.array([[y + 10. * k] * 2 for k in range(5)]), 1.)


def columns_of(clef, words): return columns("\n".join(["**kern", clef, "*k[f#]", "*M3/4", *words, "*-"]))


def page(number):
    "A page of two systems of two measures, read without a network. The third measure is short, and of the last note of the second the network was not sure."
    systems, flat = [System([staff(200 + 300 * i), staff(300 + 300 * i)]) for i in range(2)], Bend(np.arange(2.), np.arange(2.), np.zeros((2, 2)))
    white = np.full((900, 1000), 255, np.uint8)
    layout = Layout(Page(white, number), white, systems, 0, np.eye(2, 3), flat)
    found = [replace(c, odd="" if c.length == 3 else "2 quarters instead of 3") for c in line_up([columns_of("*clefG2", UPPER), columns_of("*clefF4", LOWER)])]
    upper = Reading("**kern\n*-", UPPER[:9], [150, 200, 250, 300, 350, 499, 600, 700, 800], [1.] * 8 + [.4], [])
    said = [[upper, InputError("nothing")], []]
    return PageReading(number, layout, [SystemReading(i, s, said[i], found[2 * i:2 * i + 2], [500., 900.]) for i, s in enumerate(systems)])


def reader(path, model="", password=""):
    yield page(1)
    yield PageReading(2, None, error=InputError("a blank page", where="book.pdf, page 2"))
    yield page(3)


@pytest.fixture
def desk():
    studio, studio_sent = module.Studio("book.pdf", read=reader), []
    studio.send = lambda content, buffers=None: studio_sent.append((content, buffers))
    studio.sent = studio_sent
    return studio


def say(studio, what, buffers=(), **more): module.receive(studio, {"what": what, **more}, list(buffers))


def read(studio):
    while studio.busy: say(studio, "read_on", asked=studio.asked)
    return studio


def test_pages_come_one_by_one(desk):
    assert (desk.busy, desk.pages, desk.measures) == (True, 0, [])
    say(desk, "read_on", asked=desk.asked)
    assert (desk.pages, desk.page, len(desk.measures), len(desk.systems)) == (1, 1, 4, 2)
    say(desk, "read_on", asked=desk.asked - 1)  # another view of the same widget
    say(desk, "edit", measure=1, text="=  =")  # not while pages are missing
    assert (desk.pages, desk.undoable, desk.busy) == (1, False, True)
    read(desk)
    assert (desk.pages, desk.busy, len(desk.book.measures)) == (3, False, 8)
    assert "a blank page" in desk.status
    assert all(p.layout is None or not p.layout.image.size for p in desk.work.pages)  # memory does not grow with pages


def test_stop_joins_what_is_there(desk):
    say(desk, "read_on", asked=desk.asked)
    say(desk, "stop")
    assert (desk.busy, desk.pages, len(desk.book.measures)) == (False, 1, 4)


def test_what_does_not_add_up_is_shown_first(desk):
    read(desk)
    assert [(n, page) for n, _, page in desk.flags] == [(3, 1), (7, 3), (2, 1), (6, 3)]
    assert (desk.selected, desk.page) == (3, 1)
    say(desk, "page", page=3, measure=7)
    assert (desk.page, desk.selected, [m["n"] for m in desk.measures]) == (3, 7, [5, 6, 7, 8])
    say(desk, "page", page=2)
    assert (desk.measures, desk.svg, desk.image) == ([], "", b"")


def test_ids_of_a_later_page_are_places_in_the_whole_text(desk):
    read(desk)
    say(desk, "page", page=3)
    lines = desk.work.store.lines
    drawn = {i for _, ids, _ in desk.moments for i in ids}
    assert drawn and all(lines[int(i.split("-L")[1].split("F")[0]) - 1].split("\t")[int(i.split("F")[1].split("S")[0]) - 1] not in (".", "*") for i in drawn)
    assert [len(m["ids"]) for m in desk.measures] == [1, 1, 1, 1]
    ((place, sure),) = desk.low.items()
    line, field = map(int, place[1:].split("F"))
    assert (lines[line - 1].split("\t")[field - 1], sure) == ("4g", .4)


def test_correct_undo_log(desk):
    read(desk)
    before = desk.rev
    say(desk, "edit", measure=3, text="2C  4ee\n.  4q\n=  =")
    assert desk.rev == before and desk.problem["line"] == 2 and desk.problem["measure"] == 3
    say(desk, "edit", measure=3, text="2.C  2ee\n.  4cc\n=  =")
    assert (desk.problem, desk.rev, desk.undoable) == ({}, before + 1, True)
    assert [n for n, *_ in desk.flags] == [7, 2, 6]
    say(desk, "right", measure=2)
    assert [n for n, *_ in desk.flags] == [7, 6] and not desk.low
    say(desk, "download", kind="log")
    ((content, buffers),) = desk.sent
    log = json.loads(buffers[0])
    assert content["name"] == "book.corrections.json"
    assert [(c["measure"], c["page"], c["before"] == c["after"]) for c in log] == [(3, 1, False), (2, 1, True)] and log[0]["box"] == [100, 500, 500, 640]
    for _ in range(3): say(desk, "undo")
    assert ([n for n, *_ in desk.flags], desk.undoable, desk.book.kern) == ([3, 7, 2, 6], False, make_book(desk.work.pages).kern)


def test_downloads_have_the_corrected_note(desk):
    read(desk)
    say(desk, "edit", measure=7, text="2.C  2ee\n.  4ccc\n=  =")
    for kind in ("midi", "musicxml", "kern"): say(desk, "download", kind=kind)
    midi, xml, kern = (buffers[0] for _, buffers in desk.sent)
    struck = [m for m in mido.MidiFile(file=io.BytesIO(midi)) if m.type == "note_on" and m.velocity and m.note == 84]
    assert len(struck) == 1 and b"<octave>6</octave>" in xml and b"4ccc" in kern and b"linebreak" not in kern


def test_sound_follows_the_picture(desk):
    read(desk)
    assert desk.wav == b""
    say(desk, "sound")
    assert desk.wav[:4] == b"RIFF" and abs((len(desk.wav) - 44) / 32000 - desk.moments[-1][0] - .5) < .01
    say(desk, "edit", measure=4, text="2.BB  4dd\n.  2b\n=  =")
    assert desk.wav == b""


def test_a_text_that_kills_the_engraver_is_taken_back(desk, monkeypatch):
    read(desk)
    kern, svg = desk.book.kern, desk.svg
    class Dead:
        def ask(self, *_): raise InputError("the engraver cannot draw this (the worker crashed (exit code -6))")
    with monkeypatch.context() as patch:
        patch.setattr(module, "engraver", Dead)
        say(desk, "edit", measure=4, text="2.BB  4dd\n.  2b\n=  =")
    assert "crashed" in desk.problem["text"] and (desk.book.kern, desk.svg) == (kern, svg)


def test_engraver_survives_its_own_death():
    own = Engraver()
    with pytest.raises(InputError, match="crashed"): own.ask("page", "**kern\t**kern\n*clefG2\t*clefG2\n4c\n==\t==\n*-\t*-\n")
    assert own.ask("page", "**kern\n*clefG2\n4c\n==\n*-\n").moments[0].ids == ["note-L3F1"]
    own.close()


REFUSED = {"": "barline", "4c": "barline", "2.C  4ee\n=": "fields", "2.C\n=  =": "fields", "4H  4ee\n=  =": "4H",
           "*^  *\n2C  2C  2ee\n=  =  =": "one column", "2.C  4ee\n.  4cc\n=  =": "hold 2, 3 quarters",
           "16C  4ee\n2C  4cc\n=  =": "longer than another", "**kern\n=  =": "**kern"}


@pytest.mark.parametrize("text, why", REFUSED.items())
def test_refused(text, why):
    store = Corrections(make_book([page(1)]))
    kept = list(store.lines), list(store.measures)
    with pytest.raises(Refused) as e: edit(store, 3, text)
    assert why in str(e.value)
    assert (store.lines, store.measures, store.log) == (*kept, [])


def test_longer_and_shorter_measures_move_the_others():
    store = Corrections(make_book([page(1), page(2)]))
    last = store.text(8)
    edit(store, 2, "2.BB  8dd\n.  8cc\n.  4g\n.  4g\n=  =")
    edit(store, 3, "2.C  2.ee\n=  =")
    assert (store.text(8), [n for n, _ in flags(store)]) == (last, [7, 6])
    book = corrected(store)
    assert [book.kern.splitlines()[m.kern_lines[1] - 1][0] for m in book.measures] == ["="] * 8
    while undo(store): pass
    assert corrected(store) == store.book


def test_typing_is_one_correction():
    store = Corrections(make_book([page(1)]))
    before = store.text(3)
    edit(store, 3, "2C  4ee\n.  8cc\n.  8cc\n=  =")
    edit(store, 3, "2.C  2ee\n.  4cc\n=  =", more=True)
    assert [(c.before, c.after) for c in store.log] == [(before, store.text(3))]
    edit(store, 3, before, more=True)
    assert store.log == []


def test_excerpt_of_any_measure_sounds_as_in_the_whole():
    store = Corrections(make_book([page(1), page(2)]))
    whole = score_notes(corrected(store).kern, bpm=60)
    for m in store.measures:
        part = engrave_page(excerpt(store.lines, *m.kern_lines), 60)
        assert sorted(part.notes["pitch"]) and set(part.notes["pitch"]) <= set(whole["pitch"])


def test_a_dropped_file_in_pieces(desk, tmp_path):
    for i, piece in enumerate((b"not ", b"music")): say(desk, "chunk", [piece], id=1, name="a/b\\..\\x.png", i=i, n=2)
    assert desk.work.path.name == "x.png" and desk.work.path.read_bytes() == b"not music" and desk.sent == [({"taken": 0}, None)]


@pytest.mark.parametrize("content, word", [(b"not music", "not a page"), (b"%PDF-1.4 nothing", "damaged"), (b"", "empty")])
def test_a_bad_file_is_one_line(tmp_path, content, word):
    (file := tmp_path / "x.pdf").write_bytes(content)
    studio = read(module.Studio(file))
    assert word in studio.status and "\n" not in studio.status and not studio.busy and studio.measures == []


def test_an_error_of_ours_does_not_leave_a_person_waiting():
    def broken(*_): yield page(1); raise ZeroDivisionError("of ours")
    studio = read(module.Studio("x.pdf", read=broken))
    assert len(studio.measures) == 4 and not studio.busy


def test_two_files_for_the_server():
    with pytest.raises(InputError, match="2 files"): module.studio_server(["a", "b"])
    with pytest.raises(InputError, match="no such file"): module.studio_server(["missing.pdf"])
    with pytest.raises(InputError, match="no such file"): module.studio("missing.pdf")


def test_the_script_is_one_small_file_that_asks_nobody():
    sizes = {o.name: o.stat().st_size for o in module.STATIC.glob("studio.*")}
    assert set(sizes) == {"studio.js", "studio.css"} and sum(sizes.values()) < 50_000
    for name in sizes:
        text = (module.STATIC / name).read_text()
        assert "import " not in text and "fetch(" not in text and text.replace("http://www.w3.org/2000/svg", "").find("http") < 0
