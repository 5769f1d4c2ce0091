"The rates against frozen numbers of other programs, and what holds for any reading."
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omr.core import InputError
from omr.reading.confusions import confusion_table, confusions
from omr.reading.conventions import bekern_tokens, legato, primus, primus_words, published, smt_words
from omr.reading.metrics import CONVENTIONS, ERROR_KINDS, align, edit_distance, error_table, lines, loose_symbols, rate, scores
from omr.reading.omr_ned import compare, omr_ned
from omr.scores.dialects import BekernSMT, Kern
from omr.scores.encodings import symbols
from omr.scores.foreign import chorales
from omr.scores.spines import canonical_score
from omr.scores.tunes import tunes

FROZEN = json.loads((Path(__file__).parent / "fixtures" / "metrics.json").read_text(encoding="utf-8"))["triples"]
MANY, FEW = settings(max_examples=300, deadline=None), settings(max_examples=60, deadline=None)


def ours(convention, truths, predictions):
    "The rates of one triple as the package computes them."
    if convention == "staff": return scores(truths, predictions, repeats=10)
    if convention == "omr-ned": return omr_ned(truths, predictions, repeats=10)
    if convention == "legato": return legato(truths, predictions, re.compile(r"[A-Ga-gz]\d*|\S|\s").findall, repeats=10)
    return published(convention)(truths, predictions, repeats=10)


@pytest.mark.parametrize("triple", FROZEN, ids=lambda t: t["name"])
def test_rates_are_those_of_independent_programs(triple):
    found = ours(triple["convention"], triple["truths"], triple["predictions"])
    assert {name: found[name] for name in triple["scores"]} == pytest.approx(triple["scores"], abs=1e-12)
    for name in triple["scores"]: assert found[f"{name}_low"] - 1e-12 <= found[f"{name}_high"]


def test_each_rate_is_frozen():
    staff = {name for t in FROZEN if t["convention"] == "staff" for name in t["scores"]}
    assert staff == set(CONVENTIONS)
    assert {t["convention"] for t in FROZEN} == {"staff", "smt", "bekern", "tf-end-to-end", "legato", "omr-ned"}


def ten_lines(a, b):
    "The edit distance as the chapter derives it."
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


sequences = [st.text("ab", max_size=90), st.text(max_size=20), st.lists(st.sampled_from(["4c", "4cc#", "=", "|4e"]), max_size=30)]


@given(st.one_of(*[st.tuples(s, s) for s in sequences]))
@MANY
def test_edit_distance_is_that_of_the_chapter(pair):
    a, b = pair
    assert edit_distance(a, b) == ten_lines(a, b) == edit_distance(b, a) == sum(x != y for x, y in align(a, b))


FIELDS = ["4c", "4cc#", "8.r", "4c 4e 4g", "[2d", "=", "==", "*clefG2", "*k[f#]", "*M3/4", ".", "4zzz", "*^", "*", "", "!x", "=:|!", "8q", "2c 4", "0"]
fields = st.sampled_from(FIELDS)
rough = st.lists(st.lists(fields, min_size=1, max_size=3).map("\t".join), max_size=12).map("\n".join)
VALID = ["**kern\n*clefG2\n4c\n=\n2d\n*-\n", "**kern\n*clefG2\n*^\n4cc 4ee\t2g\n4dd\t.\n*v\t*v\n=\n*-\n"]


@given(st.sampled_from(VALID), rough)
@FEW
def test_whatever_was_read_is_counted(truth, prediction):
    found = scores([truth], [prediction], repeats=5)
    assert error_table([truth], [prediction]).errors.sum() == found["errors"]
    assert (found["sequence_error"] == 0) == (loose_symbols(truth) == loose_symbols(prediction))
    assert set(error_table([truth], [prediction]).index) == set(ERROR_KINDS)
    assert confusion_table([truth], [prediction]).empty == (found["errors"] == 0)
    for name, units in {"smt": smt_words, "bekern": bekern_tokens, "primus": primus_words, "tf-end-to-end": primus_words}.items():
        assert published(name)([truth], [prediction], repeats=5)["ser"] == pytest.approx(ten_lines(units(truth), units(prediction)) / len(units(truth)))


@given(rough)
@FEW
def test_omr_ned_lies_between_0_and_1(prediction):
    found = compare(VALID[0], prediction)
    assert 0 <= found.edits <= found.symbols


def test_one_voice_is_read_as_by_the_strict_reader():
    for excerpt in tunes("validation"):
        assert loose_symbols(excerpt.kern) == symbols(excerpt.kern) == [s for moment in lines(excerpt.kern) for s in moment]


def test_the_tokens_are_those_of_the_dialects():
    bekern = BekernSMT()
    for _, kern in chorales(10):
        canonical = canonical_score(kern)
        assert bekern_tokens(canonical) == bekern_tokens(bekern.from_kern(kern)) == bekern.encode(bekern.from_kern(kern))[1:-1]
        assert smt_words(canonical) == [t for t in Kern().encode(canonical)[1:-1] if t != "<s>"]


def test_four_parts_read_right_have_no_errors():
    kern = [k for _, k in chorales(3)]
    assert scores(kern, kern, repeats=5)["errors"] == 0
    assert omr_ned(kern[:1], kern[:1], repeats=5)["omr_ned"] == 0
    assert omr_ned(kern[:1], [""], repeats=5)["omr_ned"] == 1


def test_what_has_no_rate_is_refused_in_one_line():
    refused = [lambda: scores([], []), lambda: scores(VALID, VALID[:1]), lambda: scores(["4c"], [""]), lambda: scores(["**kern\n*-\n"], [""]),
               lambda: rate([[0, 0]]), lambda: confusions([], []), lambda: primus(["a"], []), lambda: published("x"),
               lambda: omr_ned([], []), lambda: omr_ned(["x"], ["x"]), lambda: omr_ned(VALID, VALID, detail=["Heads"])]
    for call in refused:
        with pytest.raises(InputError) as error: call()
        assert "\n" not in str(error.value)
