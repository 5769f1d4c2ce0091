"Streams: generated staves with chords and voices come back, whatever a network answers becomes kern, and drawn signs are told as they are drawn."
import random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from omr.core import InputError
from omr.reading.steps import LIFT, NONOTE, NOTE, PITCH, RHYTHM, Step, join_recip, spell_recip
from omr.reading.streams import Streams, agree
from omr.scores.encodings import RECIPS, KernError, Written, quarters
from omr.scores.parts import staff_bars
from omr.scores.polyphony import chord_sample, staff_signs
from omr.scores.spines import canonical_score, parse_chord
from omr.scores.tunes import tunes

FEW = settings(max_examples=80, deadline=None, phases=[Phase.reuse, Phase.generate])
streams = Streams()

ACCIDS = ["", "", "#", "-", "##", "--"]
SIGNS = ["*clefG2", "*clefF4", "*k[]", "*k[f#c#]", "*k[b-]", "*M3/4", "*M6/8", "*met(c)", "=", "=||", "=:|!"]


@st.composite
def chords(draw):
    "A token: a rest, a note, or a chord of one duration whose lowest note may have a fermata."
    if draw(st.integers(0, 5)) == 0: return draw(st.sampled_from(["4r", "8r", "2.r", "1r", "16r;"]))
    recip = draw(st.sampled_from(["1", "2", "4", "4.", "8", "12", "16", "56", "40%3", "22", "8q", "16q", "96"]))
    q = "q" if recip.endswith("q") else ""
    heads = draw(st.lists(st.tuples(st.sampled_from("abcdefgABCDEFG"), st.integers(1, 4), st.sampled_from(ACCIDS)), min_size=1, max_size=4))
    parsed = sorted((n for n in parse_chord(" ".join(f"{recip.rstrip('q')}{p * t}{a}{q}" for p, t, a in heads))), key=lambda n: (n.midi, str(n)))
    first = str(parsed[0]) + ";" * draw(st.booleans())
    return " ".join([first, *map(str, parsed[1:])])


@st.composite
def staves(draw):
    "A staff whose voices split and join as they like, without ties."
    lines, width = ["**kern"], 1
    for _ in range(draw(st.integers(1, 25))):
        match draw(st.sampled_from(["data", "data", "data", "data", "sign", "split", "join"])):
            case "data":
                tokens = [draw(st.one_of(chords(), st.just("."))) for _ in range(width)]
                if set(tokens) != {"."}: lines.append("\t".join(tokens))
            case "sign": lines.append("\t".join([draw(st.sampled_from(SIGNS))] * width))
            case "split" if width < 4:
                at = draw(st.integers(0, width - 1))
                lines.append("\t".join(["*"] * at + ["*^"] + ["*"] * (width - at - 1)))
                width += 1
            case "join" if width > 1:
                at, many = draw(st.integers(0, width - 2)), 2
                lines.append("\t".join(["*"] * at + ["*v"] * many + ["*"] * (width - at - many)))
                width -= many - 1
    return "\n".join([*lines, "\t".join(["*-"] * width)]) + "\n"


@FEW
@given(staves().map(canonical_score))
def test_staff_comes_back(kern):
    steps = streams.encode(kern)
    assert all(map(agree, steps))
    assert all(step[k] in words for step in steps for k, words in enumerate((RHYTHM, PITCH, LIFT, NOTE)))
    assert streams.decode(steps) == kern


TIED = {
    "chord, one note held": "[4c 4e\n4c] 4f",
    "through a middle note": "[4c\n=\n2c_\n=\n4c]",
    "unison in the other voice": "*^\n2e\t[4c\n.\t4c]\n*v\t*v\n*^\n4c\t[4c\n4c\t4c]\n*v\t*v",
    "sharp held over the barline": "*^\n2e\t[2c#\n=\t=\n2e\t4c#]\n.\t4c#\n*v\t*v",
    "into the single voice": "*^\n2e\t[2c\n*v\t*v\n4c] 4f",
    "written-out arpeggio": "[8c\n[8e\n4c] 4e]",
    "a grace note between": "[4c\n8cq\n4c]",
}


@pytest.mark.parametrize("measures", TIED.values(), ids=TIED)
def test_ties(measures):
    kern = canonical_score(f"**kern\n{measures}\n*-\n")
    assert streams.from_kern(kern) == kern


REFUSED = [("4c]", "a tie"), ("[4c\n4d", "a tie"), ("8c 4e", "unequal"), ("4c 4r", "unequal"), ("*clefX\n4c", "this sign"), ("*M13/32\n4c", "this sign"),
           ("82c", "this duration"), ("8rq", "this duration"), ("4" + "c" * 7, "this pitch"), ("*^\n4c\t4e\n=\t==\n*v\t*v", "barline")]


@pytest.mark.parametrize("measures, why", REFUSED)
def test_refused_by_name_or_left_out(measures, why):
    kern, skipped = f"**kern\n{measures}\n4f\n*-\n", []
    with pytest.raises(KernError, match=why): streams.encode(kern)
    mended = streams.decode(streams.encode(kern, "skip", skipped), "skip")
    assert len(skipped) == 1 and "4f" in mended
    assert streams.from_kern(mended) == mended


steps = st.builds(Step, st.sampled_from(RHYTHM), st.sampled_from(PITCH), st.sampled_from(LIFT), st.sampled_from(NOTE))
silent = st.sampled_from("<t> <b> *^ *v * tie fermata tuplet-7 %3 = *M3/4 R rest-8".split()).map(Step)
heads = st.builds(Step, st.sampled_from(["chord", "note-4", "note-8.", "grace-8"]), st.sampled_from(PITCH[20:40]), st.sampled_from(LIFT[1:]), st.just("note"))


@FEW
@given(st.lists(st.one_of(steps, silent, heads), max_size=60))
def test_whatever_a_network_says_becomes_kern(said):
    skipped = []
    kern = streams.decode(said, "skip", skipped)
    assert kern == canonical_score(kern)
    end = next((i for i, s in enumerate(said) if s.rhythm == "<eos>"), len(said))
    assert all(said[i] == s for i, s in skipped)
    assert {i for i, s in enumerate(said[:end]) if not agree(s)} <= {i for i, _ in skipped}
    if skipped:
        with pytest.raises(KernError): streams.decode(said)
    else: assert streams.decode(said) == kern
    streams.encode(kern, "skip")


def test_embedded_tunes_come_back():
    sample = random.Random(4).sample([e.kern for split in ("train", "validation", "test") for e in tunes(split)], 300)
    assert [k for k in sample if streams.from_kern(k) != k] == []


def test_generated_chords_and_voices_come_back_with_the_signs_that_are_engraved():
    for kern in map(chord_sample, range(30)):
        steps = streams.encode(kern)
        assert streams.decode(steps).replace(";", "") == kern.replace(";", "")  # a chord's fermata moves to its lowest note
        drawn = sorted(sign for sign in staff_signs(staff_bars(kern)[0]).values() if sign)
        assert sorted(s.lift for s in steps if s.lift not in (NONOTE, "null")) == drawn


def test_the_same_signs_as_one_voice_encodings():
    "For one voice the lifts are the drawn accidentals of `Written`, in the same order."
    for e in random.Random(5).sample(tunes("validation"), 100):
        drawn = [t for t in Written().encode(e.kern) if t in ("n", "#", "-", "##", "--")]
        assert [s.lift for s in streams.encode(e.kern) if s.lift not in (NONOTE, "null")] == drawn


@given(st.sampled_from([*RECIPS, "128", "256"]), st.sampled_from([3, 5, 7, 9, 11, 13, 39]), st.sampled_from([1, 3, 5, 7, 9]))
def test_durations(plain, odd, times):
    "Whatever duration the words can make is spelled by them again."
    recip = join_recip(plain, (f"tuplet-{odd}", *[f"%{times}"] * (times > 1)))
    spelled = spell_recip(recip)
    if spelled: assert quarters(join_recip(*spelled)) == quarters(recip)


def test_fingerprint_and_sizes():
    assert [len(words) for words in streams.vocabularies.values()] == [len(RHYTHM), 71, 7, 2]
    assert streams.vocabularies["rhythm"][:3] == ["<pad>", "<bos>", "<eos>"] and len(RHYTHM) <= 260
    assert streams.fingerprint == Streams().fingerprint


def test_several_staves_are_refused():
    with pytest.raises(InputError, match="one staff"): streams.encode("**kern\t**kern\n4c\t4e\n*-\t*-\n")
