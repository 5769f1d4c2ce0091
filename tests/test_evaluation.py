"Measuring any reader: the staves, the photographs, the rates, the card, and what can be wrong with the command."
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from omr.cli import parse
from omr.core import InputError
from omr.reading import crnn, evaluation, metrics
from omr.reading.cards import weights_folder
from omr.reading.reader import read_many
from omr.reading.runs import BLANK, as_photo
from omr.scores.encodings import Written
from omr.scores.engraving import Failure, Style, engrave
from omr.scores.melodies import melody
from omr.scores.parts import part_excerpts

KERN = "**kern\n*clefG2\n4c\n4d\n4e\n4f\n=\n2g\n2g\n=\n*-\n"


@pytest.fixture
def mine(tmp_path):
    "A copy of shipped weights, so that their card may change."
    return Path(shutil.copytree(weights_folder("crnn"), tmp_path / "mine"))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shelf") / "songs"
    folder.mkdir()
    for i, who in enumerate(["Brahms", "Beethoven", "Reichardt", "Smyth", "Viardot"]): (folder / f"{who}.krn").write_text(f"!!!COM: {who}, X.\n" + melody(i))
    return str(folder)


@pytest.mark.parametrize("engraver", ["verovio", "sixth", "lilypond"])
def test_same_arguments_same_pictures(engraver):
    (first, truths), (again, same) = (evaluation.test_images("test", 2, 5, engraver, workers=1) for _ in range(2))
    assert truths == same and all(np.array_equal(a, b) for a, b in zip(first, again))
    photos, _ = evaluation.test_images("test", 2, 5, engraver, .5, workers=1)
    assert all(np.array_equal(as_photo(a, .5, 5, i), b) and not np.array_equal(a, b) for i, (a, b) in enumerate(zip(first, photos)))


@pytest.mark.parametrize("engraver", ["verovio", "sixth", "lilypond"])
def test_real_scores_of_composers_of_the_split(shelf, engraver):
    images, truths = evaluation.test_images("test", 3, 0, engraver, scores=[shelf], workers=1)
    pool = {e.kern for e in part_excerpts([shelf], "test")}
    assert len(images) == 3 and set(truths) <= pool and not set(truths) & {e.kern for e in part_excerpts([shelf], "train")}


def test_what_cannot_be_drawn_is_blank_and_read_as_empty(monkeypatch):
    monkeypatch.setattr(evaluation, "render_many", lambda jobs, workers: (Failure(job, "no") if i == 1 else engrave(*job) for i, job in enumerate(jobs)))
    images, truths = evaluation.test_images("test", 3, 0)
    kerns = evaluation.read_kern(images, "crnn")
    assert len(truths) == 3 and (images[1] == 255).all() and kerns[1] == "" and all(kerns[::2])


def test_figures_are_those_of_the_reader(mine, capsys):
    figures = evaluation.evaluate_command(str(mine), "validation", 3, seed=1, camera=.3, workers=1, card=True)
    images, truths = evaluation.test_images("validation", 3, 1, "verovio", .3)
    assert figures == metrics.scores(truths, evaluation.read_kern(images, str(mine)), seed=1) | {"refused": 0}
    said, name = capsys.readouterr().out, "validation tunes, five fonts, photographed at strength 0.3"
    kept = json.loads((mine / "scores.json").read_text())
    assert kept[name] == figures and f"| {name} | 3 |" in (mine / "README.md").read_text()
    assert "refused            0 of 3" in said
    assert all(f"{rate:15} {100 * figures[rate]:6.2f} %   " in said for rate in ("ser", "cer", "ler", "sequence_error"))


def test_a_convention_is_printed_and_not_kept(mine, capsys):
    kept = {path.name: path.read_bytes() for path in mine.iterdir()}
    figures = evaluation.evaluate_command(str(mine), "validation", 2, convention="tf-end-to-end", workers=1)
    assert {"ser", "sequence_error", "edits"} <= set(figures) and "cer" not in figures
    assert "convention tf-end-to-end" in capsys.readouterr().out and {path.name: path.read_bytes() for path in mine.iterdir()} == kept


def test_a_tromr_is_measured_like_any_other(tmp_path, capsys):
    from test_tromr import tiny
    from omr.reading.tromr import save_weights as save
    from omr.training import Training
    save(tiny(), tmp_path)
    facts = dict(network="light", encoder="", start_from="", scores=[], camera=.5, chords=.3, consistency=10., ctc=.3, noise=.1, batch=2)
    facts |= dict(staves=4, threads=1, minutes=1, steps_done=2, cpu="none", torch="2", training=vars(Training(2)))
    (tmp_path / "training.json").write_text(json.dumps(facts))
    figures = evaluation.evaluate_command(str(tmp_path), "validation", 2, workers=1, card=True)
    assert figures["refused"] == 2 and figures["ser"] == 1  # of chance weights nothing can be read
    card = (tmp_path / "README.md").read_text()
    assert "TrOMR for one staff" in card and "| validation tunes, five fonts | 2 | 100.00 %" in card


def test_a_network_of_words_is_read_through_the_same_door(tmp_path, monkeypatch):
    "Weights whose tokens are PrIMuS words give kern like all others."
    words = "clef-G2 note-C4_quarter note-D4_quarter note-E4_quarter note-F4_quarter barline note-G4_half note-G4_half barline".split()
    crnn.save_weights(crnn.CRNN(**dict(crnn.CONFIGS["light"], hidden=8), encoding="semantic", tokens=sorted(set(words))), tmp_path)
    found = crnn.Decoded(words, [10. * i for i in range(9)], [.9] * 9)
    monkeypatch.setattr(crnn, "read_strips", lambda network, strips, batch: [found for _ in strips])
    reading, = read_many([engrave(KERN, Style(space=6, margin=20))], str(tmp_path))
    assert Written().encode(reading.kern)[:-1] == Written().encode(KERN)[:-1] and [sign.text for sign in reading.signs] == words
    assert evaluation.read_kern([engrave(KERN, Style(space=6, margin=20)), BLANK], str(tmp_path)) == [reading.kern, ""]


@pytest.mark.parametrize("wrong, why", [
    (dict(model="crn"), "crn: no weights"), (dict(count=10 ** 6), "1000000 staves asked for"), (dict(count=0), "count = 0"),
    (dict(split="train"), "no split 'train'"), (dict(engraver="lilypond", count=10 ** 6), "1000000 staves"), (dict(engraver="finale"), "no engraver 'finale'"),
    (dict(camera=2.), "camera = 2"), (dict(scores=["no/such"]), "no score in this folder"), (dict(convention="legato"), "no convention 'legato'"),
    (dict(convention="smt", card=True), "leave out --convention")], ids=str)
def test_bad_input_is_one_line(wrong, why):
    with pytest.raises(InputError) as caught: evaluation.evaluate_command(**dict(model="crnn", workers=1) | wrong)
    assert why in str(caught.value) and "\n" not in str(caught.value)


def test_weights_without_facts_have_no_card(mine):
    (mine / "training.json").unlink()
    with pytest.raises(InputError, match="no training.json"): evaluation.evaluate_command(str(mine), count=1, card=True)
    with pytest.raises(InputError, match="no weights"): evaluation.evaluate_command(str(mine / "none"), count=1, card=True)


@pytest.mark.parametrize("words, why", [
    (["--convention", "smtt"], "argument --convention: invalid choice: 'smtt'"), (["--engraver", "finale"], "argument --engraver: invalid choice"),
    (["--model", "nothing", "--camera", "1"], "nothing: no weights")])
def test_flags(words, why):
    with pytest.raises(InputError) as caught: evaluation.evaluate_command(**parse(evaluation.evaluate_command, "omr evaluate", words))
    assert why in str(caught.value)
