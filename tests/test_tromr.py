"TrOMR: what a notebook cannot show. Tiny networks, no weights of others, no network."
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omr.core import InputError
from omr.reading.attention import Memory
from omr.reading.streams import NONOTE, Streams, agree
from omr.reading.tromr import CONFIGS, PAD, TrOMR, consistency, generate, load_tromr, read_strips, save_weights, tromr_loss
from omr.scores.samples import Recipe, training_sample
from omr.scores.strips import pad_strips

TINY = dict(CONFIGS["light"], width=32, depth=2, heads=4, length=20, encoder={"kind": "strip", "depth": 1, "channels": (4, 4, 8, 8), "hidden": 8})


def tiny(seed=0):
    torch.manual_seed(seed)
    return TrOMR(**TINY).eval()


@pytest.fixture(scope="module")
def samples(): return [training_sample(7, i, Recipe(camera=0.0, texts=True)) for i in range(3)]


def memory_of(net, strips):
    array, widths = pad_strips(strips)
    with torch.no_grad(): return net.encoder(torch.from_numpy(array), torch.from_numpy(widths))


@pytest.mark.parametrize("beam", [1, 2, 4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cache_batch_and_repetition_change_nothing(samples, beam, seed):
    net, strips = tiny(seed), [s for s, _ in samples]
    memory = memory_of(net, strips)
    cached, whole, again = generate(net, memory, beam), generate(net, memory, beam, cache=False), generate(net, memory, beam)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(cached, whole, again))
    assert all(torch.equal(generate(net, memory_of(net, [s]), beam)[0], a) for s, a in zip(strips, cached))


def chance(net, memory, ids):
    "Log probability of a reading with its end, computed in one pass."
    told = torch.cat([torch.tensor([[1, 0, 0]]), ids, torch.tensor([[2, 0, 0]])])[None]
    logits, _ = net.say(told[:, :-1], net.look(memory), memory.seen)
    return sum(o.log_softmax(-1).gather(2, told[:, 1:, i, None]).sum().item() for i, o in enumerate(logits[:3]))


@torch.no_grad()
def test_beam_of_all_is_exhaustive(samples):
    "Three rhythm words, one pitch and one lift: every reading of two symbols tried, and the beam finds the best of those that end."
    words = {"rhythm": ["<pad>", "<bos>", "<eos>", "=", "note-4"], "pitch": [NONOTE, "c"], "lift": [NONOTE, "null"], "note": [NONOTE, "note"]}
    torch.manual_seed(5)
    net = TrOMR(**TINY | dict(length=3), vocabularies=words).eval()
    for p in net.heads.parameters(): p.mul_(4)
    net.heads[0].bias[2] += 3  # ends soon
    memory = memory_of(net, [samples[0][0]])
    symbols = [torch.tensor(s) for s in ([3, 0, 0], [4, 1, 1])]
    readings = [torch.empty(0, 3, dtype=torch.long), *(a[None] for a in symbols), *(torch.stack([a, b]) for a in symbols for b in symbols)]
    best = max(readings, key=lambda ids: chance(net, memory, ids))
    assert torch.equal(generate(net, memory, beam=16)[0], best)


def test_what_is_read_never_contradicts_itself(samples):
    for seed in range(3):
        for found in read_strips(tiny(seed), [s for s, _ in samples], beam=2):
            assert all(map(agree, found.tokens)) and len(found.tokens) == len(found.columns) == len(found.confidences)
            Streams().decode(found.tokens, errors="skip")


def test_padding_of_text_and_image_costs_nothing(samples):
    net = tiny()
    alone = [tromr_loss(net, (*pad_strips([s]), [t]), ctc=0.0, noise=0.0) for s, t in samples]
    kinds = [len(Streams().encode(t)) for _, t in samples]
    shares = torch.tensor([min(n + 1, TINY["length"]) for n in kinds], dtype=torch.float)
    both = tromr_loss(net, (*pad_strips([s for s, _ in samples]), [t for _, t in samples]), ctc=0.0, noise=0.0)
    assert torch.allclose(both, (torch.stack(alone) * shares).sum() / shares.sum(), atol=1e-3)


def test_flags_switch_their_losses_off(samples):
    net, batch = TrOMR(**TINY | dict(length=128)), (*pad_strips([samples[0][0]]), [samples[0][1]])
    plain = tromr_loss(net, batch, weight=0.0, ctc=0.0, noise=0.0)
    for flags in (dict(weight=10.0, ctc=0.0), dict(weight=0.0, ctc=0.3)): assert tromr_loss(net, batch, noise=0.0, **flags) > plain
    plain.backward()
    assert net.ctc.weight.grad.abs().sum() == 0 and net.embeddings[2].weight.grad.abs().sum() > 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-8, 8), min_size=8, max_size=8))
def test_consistency_is_the_mean_distance(numbers):
    heads = [torch.tensor(numbers[2 * i:2 * i + 2]) for i in range(4)]
    p = [torch.softmax(o, 0)[1] for o in heads]
    found = consistency(heads, [torch.tensor([0.0, 1.0])] * 3)
    assert abs(found - sum(abs(o - p[3]) for o in p[:3]) / 3) < 1e-5 and 0 <= found <= 1


def test_every_encoder_reads_the_same_alone_and_in_company(samples):
    from omr.reading.attention import HybridEncoder
    torch.manual_seed(0)
    net, strips = HybridEncoder(32, 4, 0.0, depth=1, stem=(1, 1, 1)).eval(), [s for s, _ in samples]
    array, widths = pad_strips(strips)
    array, widths = torch.from_numpy(array), torch.from_numpy(widths)
    with torch.no_grad(): both, alone = net(array, widths), net(torch.from_numpy(strips[0][None]), widths[:1])
    assert isinstance(both, Memory) and torch.allclose(both.states[0], alone.states[0], atol=1e-4) and both.at[0].max() <= widths[0].item() * 10


def test_weights_are_safetensors_and_refuse_other_words(tmp_path, samples):
    net = tiny()
    save_weights(net, tmp_path)
    assert {o.name for o in tmp_path.iterdir()} >= {"config.json", "model.safetensors"} and not list(tmp_path.glob("*.bin"))
    strip = [samples[0][0]]
    assert len(read_strips(load_tromr(tmp_path), strip)) == 1
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "tromr"
    config["vocabularies"]["rhythm"][3:5] = config["vocabularies"]["rhythm"][3:5][::-1]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="other vocabularies"): load_tromr(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError) as e: load_tromr(tmp_path)
    assert "\n" not in str(e.value)


def test_pretrained_vision_transformers_of_two_kinds(tmp_path, samples):
    from transformers import ConvNextConfig, ConvNextModel, ViTConfig, ViTModel
    from omr.reading.tromr_training import build
    vit = ViTModel(ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16))
    conv = ConvNextModel(ConvNextConfig(hidden_sizes=[4, 4, 8, 8], depths=[1, 1, 1, 1]))
    for net, places in ((vit, 640), (conv, 160)):
        folder = tmp_path / type(net).__name__
        net.save_pretrained(folder)
        model = build("light", encoder=str(folder)).eval()
        memory = memory_of(model, [samples[0][0]])
        assert memory.states.shape == (1, places, 256)
        kept = save_weights(model, tmp_path / "kept")
        for o in folder.iterdir(): o.unlink()
        again = memory_of(load_tromr(kept), [samples[0][0]])  # half precision
        assert torch.allclose(again.states, memory.states, atol=0.05)
    with pytest.raises(InputError, match="--encoder"): build("light", encoder=str(Path(tmp_path) / "nothing"))


def test_ids_of_padding():
    words = Streams.vocabularies
    assert PAD == 0 and words["rhythm"][:3] == ["<pad>", "<bos>", "<eos>"] and words["pitch"][0] == words["lift"][0] == NONOTE
