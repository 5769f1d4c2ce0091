"Targets and masks: every score comes back from its numbers, the mask never forbids it, and whatever is written under the mask is read by the strict parsers."
import json
import random
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from omr.core import InputError
from omr.reading.masks import BOS, EOS, PAD, Grammar, wander
from omr.reading.targets import Target, abc_target, as_kern, bekern_target
from omr.scores.abc import ABC, strip_non_pitch
from omr.scores.dialects import DIALECTS
from omr.scores.encodings import KernError
from omr.scores.foreign import chorales
from omr.scores.rendering import excerpt
from omr.scores.spines import canonical_score
from omr.scores.tunes import tunes
from test_dialects import scores

FEW = settings(max_examples=60, deadline=None)


@lru_cache(maxsize=1)
def corpus():
    "Tunes of one staff, chorales of four, and a piano piece with splits and grace notes."
    import music21

    rng = random.Random(1)
    piano = (Path(music21.__file__).parent / "corpus" / "chopin" / "mazurka06-2.krn").read_text()
    parts = [e.kern for e in rng.sample(tunes("validation"), 40)] + [excerpt(k, 0, 2) for _, k in rng.sample(chorales(), 8)]
    return parts + [canonical_score(excerpt(piano, i, i + 2)) for i in range(0, 24, 4)]


@lru_cache(maxsize=None)
def made(kind, strip=False, decorations=False):
    target = bekern_target(corpus(), decorations) if kind == "bekern" else abc_target(corpus(), 1500, strip)
    return target, target.grammar()


def check(target, grammar, ids):
    "The mask lets a text pass, all prefixes at once."
    for i, may in zip(ids[1:], grammar([ids[1:n] for n in range(1, len(ids))])): assert may[i], target.words[i]
    assert grammar([ids]).nonzero().tolist() == [[0, PAD]]


@pytest.mark.parametrize("kind,strip,decorations", [("bekern", False, False), ("bekern", False, True), ("abc", False, False), ("abc", True, False)])
def test_scores_come_back_and_pass_the_mask(kind, strip, decorations):
    target, grammar = made(kind, strip, decorations)
    for kern in corpus():
        lost = []
        try: ids = target.encode(kern)
        except InputError as e:
            assert kind == "abc" and "ABC cannot say" in str(e)
            if strip: continue
            ids = target.encode(kern, "skip", lost)
            assert lost
        assert ids[0] == BOS and ids[-1] == EOS and {PAD, BOS, EOS}.isdisjoint(ids[1:-1])
        check(target, grammar, ids)
        if not strip: assert (target.to_kern(ids, "strict") == canonical_score(kern)) == (not lost)
        else: assert target.decode(ids, "strict") == strip_non_pitch(ABC().from_kern(kern))


@FEW
@given(scores())
def test_generated_scores_of_bekern(text):
    target = bekern_target([text])
    ids = target.encode(text)
    check(target, target.grammar(), ids)
    assert target.to_kern(ids, "strict") == canonical_score(text)


@FEW
@given(scores(most=2))
def test_generated_scores_of_abc(text):
    try: abc = ABC().from_kern(text)
    except InputError: return  # ABC cannot say it
    target, grammar = made("abc")
    ids = target.encode(abc)
    check(target, grammar, ids)
    assert target.decode(ids, "strict") == abc


@pytest.mark.parametrize("kind,strip", [("bekern", False), ("abc", False), ("abc", True)])
def test_what_ends_under_the_mask_is_a_score(kind, strip):
    "200 texts each by dice that are loaded with how often words occur, and 20 by fair dice."
    target, grammar = made(kind, strip)
    often = torch.full((len(target),), .02)
    for kern in corpus(): often += torch.bincount(torch.tensor(target.encode(kern, "skip")), minlength=len(target))
    ended, seed = [], 0
    while len(ended) < 200 and seed < 400:
        ended += [ids for ids in [wander(grammar, often, seed, longest=250)] if ids]
        seed += 1
    assert len(ended) == 200, f"{len(ended)} of {seed} ended"
    fair = often ** 0 + 20 * (torch.arange(len(target)) == EOS)
    for ids in ended + [ids for i in range(20) if (ids := wander(grammar, fair, i, longest=150))]:
        assert target.to_kern(ids, "strict").endswith("*-\n")


def test_dice_without_a_mask_write_nothing_readable():
    "so that the test above tests something"
    target, _ = made("bekern")
    rng = random.Random(0)
    for _ in range(50):
        ids = [rng.randrange(3, len(target)) for _ in range(30)] + [EOS]
        with pytest.raises(KernError): target.to_kern(ids, "strict")


@pytest.mark.parametrize("kind", ["bekern", "abc"])
def test_a_network_may_write_what_it_likes(kind):
    target, grammar = made(kind)
    rng = random.Random(0)
    for n in range(100):
        ids = [rng.randrange(len(target)) for _ in range(n)]
        assert target.to_kern(ids).startswith("**kern") and target.decode(ids) is not None
        assert grammar([ids]).any()


@pytest.mark.parametrize("kind", ["bekern", "abc"])
def test_masks_do_not_depend_on_what_was_asked_before(kind):
    target, warm = made(kind)
    ids = target.encode(corpus()[-1])[1:-1]
    cold = Grammar(target)
    for n in random.Random(0).sample(range(len(ids)), 20): assert (warm([ids[:n]]) == cold([[BOS, *ids[:n]]])).all()
    assert grammar_of_nothing(cold, target)


def grammar_of_nothing(grammar, target): return grammar([]).shape == (0, len(target)) and grammar([[PAD]]).nonzero().tolist() == [[0, EOS]]


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("kind", ["bekern", "abc"])
def test_a_decoder_that_learned_nothing_writes_scores(kind, beam):
    decoder = pytest.importorskip("omr.reading.decoder")
    target, grammar = made(kind)
    torch.manual_seed(0)
    net = decoder.TextDecoder(len(target), width=16, depth=1, heads=2, feed=16, length=60)
    for ids, _ in decoder.generate(net, torch.randn(3, 4, 16), torch.ones(3, 4, dtype=torch.bool), BOS, EOS, PAD, beam=beam, allow=grammar):
        may = grammar([ids[:n].tolist() for n in range(len(ids))])
        assert may[torch.arange(len(ids)), ids].all()
        if len(ids) < 60 and grammar([ids.tolist()])[0, EOS]: target.to_kern(ids, "strict")


def test_every_dialect_is_read():
    kern = canonical_score(corpus()[-1])
    for name in ("kern", "ekern", "ekern_1.0"):
        assert canonical_score(as_kern(DIALECTS[name]().from_kern(kern))) == kern
    assert as_kern(ABC().from_kern(corpus()[0])) == canonical_score(corpus()[0])


def test_unknown_words():
    target, skipped = bekern_target([]), []
    with pytest.raises(KernError, match="'cccccc'"): target.encode("**kern\n4cccccc\n*-\n")
    assert target.to_kern(target.encode("**kern\n4cccccc\n4d\n*-\n", "skip", skipped)) == "**kern\n4d\n*-\n" and skipped
    with pytest.raises(InputError): target.encode("no score")
    with pytest.raises(InputError): target.decode([len(target)])
    assert made("abc")[0].decode(made("abc")[0].encode("X:1\nT:Gánc ☃\nK:C\nC |\n")).startswith("X:1\nT:Gánc ☃")


@pytest.mark.parametrize("kind", ["bekern", "abc"])
def test_config(kind):
    target, _ = made(kind)
    kept = json.loads(json.dumps(target.to_dict()))
    again = Target.from_dict(kept)
    assert again.to_dict() == kept and again.fingerprint == target.fingerprint and again.encode(corpus()[0]) == target.encode(corpus()[0])
    for broken in [None, [], {}, {"kind": kind}, {**kept, "kind": "x"}, {**kept, "fingerprint": "0"}, {**kept, "words": "abc", "bpe": "abc"},
                   {**kept, "words": [1, 2, 3], "bpe": {"a": 1}},
                   {**kept, "words": ["a"], "bpe": {}}, {**kept, "decorations": True, "strip_non_pitch": True}]:
        with pytest.raises(InputError) as e: Target.from_dict(broken)
        assert "\n" not in str(e.value)


def test_fingerprints_differ():
    prints = {made(*o)[0].fingerprint for o in [("bekern",), ("bekern", False, True), ("abc",), ("abc", True)]}
    assert len(prints) == 4
