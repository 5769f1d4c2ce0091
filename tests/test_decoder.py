"The decoder of chapter 11: a cache, a batch and a beam change nothing but the time."
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omr.core import InputError
from omr.reading.decoder import FusedAttention, Kept, TextDecoder, attention_pictures, extend, generate, next_words

PAD, BOS, EOS, WORDS = 0, 1, 2, 8
MARKS = (BOS, EOS, PAD)
seeds = st.integers(0, 10_000)


def made(seed, words=WORDS, images=4, places=6, length=20):
    "A decoder with clear opinions, and images of several sizes."
    torch.manual_seed(seed)
    decoder = TextDecoder(words, 16, 2, 2, 24, length).eval()
    decoder.head.weight.data *= 6
    for o in (decoder.positions, decoder.words.weight): o.data *= 50  # no two steps alike, so that texts end early and late
    return decoder, 5 * torch.randn(images, places, 16), torch.arange(places) < torch.randint(1, places + 1, (images, 1))


def texts(found): return [o.tolist() for o, _ in found]


@torch.inference_mode()
def naive(decoder, states, seen, longest):
    ids = [BOS]
    while len(ids) <= longest and ids[-1] != EOS: ids.append(decoder(torch.tensor([ids]), states, seen)[0, -1, EOS:].argmax().item() + EOS)
    return [o for o in ids[1:] if o != EOS]


@torch.inference_mode()
def probability(decoder, states, seen, text):
    "Log probability of a text, with its end."
    return decoder(torch.tensor([[BOS, *text[:-1]]]), states, seen)[0].log_softmax(1)[range(len(text)), text].sum().item()


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(1, 20))
def test_greedy_is_the_plain_loop(seed, longest):
    decoder, states, seen = made(seed)
    want = [naive(decoder, states[i:i + 1], seen[i:i + 1], longest) for i in range(len(states))]
    assert texts(generate(decoder, states, seen, *MARKS, longest=longest)) == want


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(1, 4), st.booleans())
def test_cache_and_company_change_nothing(seed, beam, normalise):
    decoder, states, seen = made(seed)
    def said(i=slice(None), **more): return generate(decoder, states[i], seen[i], *MARKS, beam=beam, normalise=normalise, **more)
    together = said()
    assert texts(together) == texts(said()) == texts(said(cache=False)) == [texts(said(slice(i, i + 1)))[0] for i in range(len(states))]
    assert [p for _, p in together] == pytest.approx([p for _, p in said(cache=False)], abs=1e-3)


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_padding_is_not_seen(seed):
    decoder, states, seen = made(seed)
    other = torch.where(seen[..., None], states, torch.randn_like(states))
    assert texts(generate(decoder, states, seen, *MARKS)) == texts(generate(decoder, other, seen, *MARKS))


@settings(max_examples=10, deadline=None)
@given(seeds, st.booleans())
def test_wide_beam_is_exhaustive(seed, normalise):
    decoder, states, seen = made(seed, words=5, images=1)
    every = [[*o, *end] for n in range(4) for o in itertools.product((3, 4), repeat=n) for end in ([[]] if n == 3 else [[EOS]])]
    def worth(text): return probability(decoder, states, seen, text) / (len(text) if normalise else 1)
    (words, p), = generate(decoder, states, seen, *MARKS, beam=16, longest=3, normalise=normalise)
    best = max(every, key=worth)
    assert words.tolist() == [o for o in best if o != EOS]
    assert p == pytest.approx(probability(decoder, states, seen, best), abs=1e-3)


@settings(max_examples=10, deadline=None)
@given(seeds, st.integers(1, 3))
def test_says_its_probability(seed, beam):
    decoder, states, seen = made(seed)
    for i, (words, p) in enumerate(generate(decoder, states, seen, *MARKS, beam=beam, longest=12)):
        text = [*words.tolist(), *[EOS] * (len(words) < 12)]
        assert p == pytest.approx(probability(decoder, states[i:i + 1], seen[i:i + 1], text), abs=1e-3)


@settings(max_examples=10, deadline=None)
@given(seeds, st.integers(1, 3))
def test_grammar_is_kept(seed, beam):
    "Words go up; only texts that go on are asked about; a text that nothing may follow ends."
    decoder, states, seen = made(seed)
    asked = []
    def rising(prefixes):
        asked.extend(prefixes)
        return torch.tensor([[w > EOS and w > max(o, default=0) for w in range(WORDS)] for o in prefixes])
    found = texts(generate(decoder, states, seen, *MARKS, beam=beam, allow=rising))
    assert all(o == sorted(set(o)) and o[-1:] == [WORDS - 1] for o in found)
    assert [] in asked and not any({PAD, BOS, EOS} & set(o) for o in asked)


def test_end_of_text_is_allowed_by_the_grammar():
    decoder, states, seen = made(0)
    assert texts(generate(decoder, states, seen, *MARKS, allow=lambda o: torch.arange(WORDS).eq(EOS).expand(len(o), -1))) == [[]] * 4


def test_empty_batch_and_bad_settings():
    decoder, states, seen = made(0)
    assert generate(decoder, states[:0], seen[:0], *MARKS) == []
    for wrong in (dict(beam=0), dict(longest=0), dict(longest=-1)):
        with pytest.raises(InputError, match="1 or more"): generate(decoder, states, seen, *MARKS, **wrong)
    with pytest.raises(InputError, match="a text of 21 words"): decoder(torch.full((4, 21), 3), states, seen)
    assert all(len(o) <= 20 for o in texts(generate(decoder, states, seen, *MARKS, longest=99)))


def test_work_shrinks_with_the_texts_that_go_on(monkeypatch):
    decoder, states, seen = made(3)
    rows, say = [], decoder.say
    monkeypatch.setattr(decoder, "say", lambda ids, *rest: rows.append(len(ids)) or say(ids, *rest))
    ends = sorted(min(len(o) + 1, 20) for o in texts(generate(decoder, states, seen, *MARKS)))
    assert rows == [sum(end > step for end in ends) for step in range(ends[-1])] and len(set(ends)) > 1


def test_kept_goes_on_with_some():
    kept = Kept(4)
    pair = torch.randn(3, 2, 1, 4), torch.randn(3, 2, 1, 4)
    assert kept.add(pair)[0].shape == (3, 2, 1, 4)
    kept.select(torch.tensor([2, 0]))
    keys, values = kept.add(tuple(o[:2] for o in pair))
    assert torch.equal(keys[:, :, 0], pair[0][[2, 0], :, 0]) and torch.equal(values[:, :, 1], pair[1][:2, :, 0])


def test_training_sees_no_future_and_learns():
    decoder, states, seen = made(5)
    decoder.train()
    ids = torch.randint(3, WORDS, (4, 9))
    logits = decoder.eval()(ids, states, seen)
    changed = ids.clone()
    changed[:, 5:] = 3
    assert torch.allclose(decoder(changed, states, seen)[:, :5], logits[:, :5], atol=1e-4)
    optimizer, losses = torch.optim.AdamW(decoder.parameters(), lr=.05), []
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(decoder(ids[:, :-1], states, seen).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad(); loss.backward(); optimizer.step(); losses.append(loss.item())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in decoder.parameters())
    assert losses[-1] < .2 * losses[0]


def test_mixed_precision():
    decoder, states, seen = made(6)
    with torch.autocast("cpu", torch.bfloat16):
        one, other = (generate(decoder, states, seen, *MARKS, cache=cache) for cache in (True, False))
    assert texts(one) == texts(other) and all(p <= 0 for _, p in (*one, *other)) and len(one) == 4
    assert all(p == pytest.approx(q, rel=.05, abs=.1) for (_, p), (_, q) in zip(one, other))


def test_pictures():
    decoder, states, seen = made(7)
    pictures = attention_pictures(decoder, torch.tensor([BOS, 4, 5]), states[:1], seen[:1], 2)
    assert pictures.shape == (3, 2, 3)
    assert torch.allclose(pictures.sum((1, 2)), torch.ones(3), atol=1e-4) and not pictures.flatten(1)[:, ~seen[0]].any()


def test_published_size():
    with torch.device("meta"): decoder = TextDecoder(4096)
    assert sum(p.numel() for p in decoder.parameters()) == 36_775_936


def test_names_of_the_steps():
    "Attention keeps the weights of chapter 09d; a beam step keeps the better text twice; the end is followed by padding alone."
    assert set(dict(FusedAttention(8, 2).named_parameters())) == {f"{o}.{p}" for o in ("query", "key_value", "out") for p in ("weight", "bias")}
    assert [o.tolist() for o in extend(torch.tensor([[-1., -2.]]), torch.tensor([[[-9., -8.], [-.5, -1.]]]))][1:] == [[[1, 1]], [[0, 1]]]
    assert next_words(torch.zeros(1, 4), torch.tensor([[BOS, 3, EOS]]), *MARKS).exp().tolist() == [[1, 0, 0, 0]]
