"CTC by hand against PyTorch and against trying everything; four decoders; weights, old and new; a training from other weights."
import itertools, json, math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from omr.core import InputError
from omr.reading.crnn import CONFIGS, CRNN, DECODERS, ctc_loss, kern_of, labels_of, load_crnn, read_strips, save_weights, start_from_weights, train_crnn
from omr.reading.ctc import best_path, collapse, columns_needed, ctc_by_hand, ctc_gradient, occupancy, places, prefix_beam
from omr.scores.encodings import Written
from omr.scores.primus import Semantic
from omr.scores.samples import Recipe, training_sample
from omr.scores.strips import pad_strips

many = settings(max_examples=40, deadline=None)
cases = st.tuples(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 3), st.sampled_from([.5, 2., 5.]))  # seed, columns, labels, spread
TINY = dict(CONFIGS["light"], channels=(4, 4, 8, 8), hidden=8)


def logits_of(seed, columns, labels, spread): return spread * torch.randn(columns, labels + 1, dtype=torch.float64, generator=torch.manual_seed(seed))
def paths(columns, labels): return itertools.product(range(labels + 1), repeat=columns)


def said(logp):
    "The probability of each sequence, by trying all paths."
    found = {}
    for p in paths(len(logp), logp.shape[1] - 1):
        text = tuple(collapse(p))
        found[text] = found.get(text, 0) + math.exp(sum(float(logp[t, k]) for t, k in enumerate(p)))
    return found


@many
@given(cases, st.lists(st.integers(1, 3), max_size=5))
def test_loss_and_gradient_are_torchs(case, labels):
    logits, labels = logits_of(*case), [min(k, case[2]) for k in labels]
    x = logits.clone().requires_grad_()
    if columns_needed(labels) > case[1]:
        assert ctc_by_hand(logits.log_softmax(1), labels) > 1e29
        with pytest.raises(InputError): occupancy(logits, labels)
        return
    sizes = torch.tensor([case[1]]), torch.tensor([len(labels)])
    want = F.ctc_loss(x.log_softmax(1)[:, None], torch.tensor([labels], dtype=torch.long), *sizes, reduction="sum")
    want.backward()
    assert torch.allclose(ctc_by_hand(logits.log_softmax(1), labels), want, atol=1e-9)
    assert torch.allclose(ctc_gradient(logits, labels), x.grad, atol=1e-9)


@many
@given(cases)
def test_decoding_is_exhaustive_search(case):
    logp = logits_of(*case).log_softmax(1)
    best = max(paths(case[1], case[2]), key=lambda p: sum(float(logp[t, k]) for t, k in enumerate(p)))
    assert best_path(logp)[0] == collapse(best)
    found, want = prefix_beam(logp, beam=None, least=0), said(logp)
    assert {tuple(s) for s, _ in found} == set(want) and all(math.isclose(math.exp(p), want[tuple(s)], rel_tol=1e-9) for s, p in found)
    top = prefix_beam(logp)[0]
    assert math.exp(top[1]) <= max(want.values()) * (1 + 1e-9)
    columns, sure = places(logp, top[0])
    assert len(columns) == len(sure) == len(top[0]) and columns == sorted(columns)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_staff_reads_the_same_in_a_batch_and_from_a_file(decoder, tmp_path):
    torch.manual_seed(0)
    net = CRNN(**TINY, decoder=decoder).eval()
    strips = [training_sample(0, i, Recipe(camera=0))[0] for i in (1, 2)]
    batch, widths = pad_strips(strips)
    with torch.no_grad():
        both, columns = net(torch.tensor(batch), torch.tensor(widths))
        for strip, row, n in zip(strips, both, columns):
            assert torch.allclose(net(torch.tensor(strip[None]), torch.tensor([strip.shape[1]]))[0][0], row[:n], atol=1e-5)
    again = load_crnn(save_weights(net.half().float(), tmp_path))
    assert [d.tokens for d in read_strips(again, strips)] == [d.tokens for d in read_strips(net, strips)]
    assert len(read_strips(net, strips, beam=3)) == 2


def test_weights_of_the_first_version_load(tmp_path):
    net = CRNN(**TINY).half().float()
    config = tmp_path / "config.json"
    save_weights(net, tmp_path)
    assert json.loads(config.read_text())["architecture"] == "crnn"
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k not in ("decoder", "last_dropout", "architecture")}))
    again = load_crnn(tmp_path)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in net.state_dict().items())
    assert load_crnn("omr/weights/crnn").layers[0].ahead.weight_ih_l0.shape[0] == 4 * CONFIGS["light"]["hidden"]


def test_bad_choices_say_what_to_choose():
    with pytest.raises(InputError, match="no decoder 'mamba'; choose one of lstm, gru, rnn, transformer"): CRNN(**TINY, decoder="mamba")
    with pytest.raises(InputError, match="encoding 'abc'"): CRNN(**TINY, encoding="abc")
    with pytest.raises(InputError, match="weights of another network"): start_from_weights(CRNN(**TINY), "crnn")


def test_words_of_camera_primus():
    "The faithful configuration: its sizes, and a staff that its columns can say."
    net = CRNN(**CONFIGS["camera-primus"], tokens=["barline", "clef-G2", *(f"note-{p}4_quarter" for p in "CDEFGAB")])
    assert net.stride == 16 and net.layers[0].ahead.weight_ih_l0.shape == (2048, 2048) and net.layers[1].back.weight_ih_l0.shape == (2048, 1024)
    assert [b[0].out_channels for b in net.blocks] == [32, 64, 128, 256] and net.dropout.p == .5 and net.last_dropout.p == 0
    kern = "**kern\n*clefG2\n4c\n4d\n4e\n4f\n=\n4g\n*-\n"
    labels = labels_of(net, Written().encode(kern))
    assert len(labels) == len(Semantic().spell(kern)) == 7
    assert Written().encode(kern_of(net, net.vocabulary.decode([k - 1 for k in labels]))) == Written().encode(kern)
    small = CRNN(**dict(CONFIGS["camera-primus"], hidden=8, channels=(4, 4, 8, 8)), tokens=net.vocabulary.tokens)
    strips = torch.full((1, 64, 320), 255, dtype=torch.uint8)  # of the other height: scaled
    assert small(strips, torch.tensor([320]))[1].tolist() == [40]
    assert 0 < ctc_loss(small, (strips, torch.tensor([320]), [Written().encode(kern)])).item() < 100


def test_a_training_that_starts_from_other_weights(tmp_path, monkeypatch):
    monkeypatch.setitem(CONFIGS, "tiny", TINY)
    first = save_weights(CRNN(**TINY), tmp_path / "first")
    short = dict(steps=2, decay=1, warmup=1, batch=2, threads=1, evaluate_every=1, evaluate_on=2, patience=5)
    weights = train_crnn(str(tmp_path / "run"), network="tiny", decoder="gru", start_from=str(first), camera=0, **short)
    facts, net = json.loads((weights / "training.json").read_text()), load_crnn(weights)
    assert facts["decoder"] == "gru" and len(facts["curve"]) == 2 and len(facts["validation"]) == 2 and facts["staves"] == 4
    assert "weight_hh_l0" in dict(net.layers[0].ahead.named_parameters()) and net.layers[0].ahead.weight_hh_l0.shape[0] == 24
    card = (weights / "README.md").read_text()
    assert facts["left_out"] == {} and {"workers", "evaluate_on", "lr", "seed"} <= set(facts)
    assert f"omr train crnn --network tiny --decoder gru --start_from {first} --camera 0 --steps 2 --decay 1 --warmup 1" in card
    assert f"started from {first}" in card and "Not trained on photos" in card
