"MusicTrOCR: what is refused, what is the same after a kill, alone and in company, with and without LoRA and kept answers."
import json, random
from pathlib import Path

import pytest
import torch
from torch import nn

from omr.cli import parse
from omr.core import InputError
from omr.reading import music_trocr_training as training_module
from omr.reading.adaptation import Teacher, adapt, adapted_layers, counts, distilled, merge
from omr.reading.encoders import SEVEN, VisionEncoder, small
from omr.reading.music_trocr import MusicTrOCR, image_size, load_music_trocr, read_images, save_weights
from omr.reading.music_trocr_training import build, run_one, train_music_trocr
from omr.reading.targets import BekernTarget, bekern_target
from omr.scores.corpora import parquet, record
from omr.scores.engraving import engrave
from omr.scores.melodies import melody

ROOT = Path(__file__).resolve().parent.parent
TINY = dict(width=32, depth=1, heads=2, feed=32, length=300, dropout=0.)
TEXTS = [melody(i) for i in range(6)]
TARGET = bekern_target(TEXTS)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    "Parquet with splits in the names of its files."
    folder = tmp_path_factory.mktemp("corpus")
    rows = [record(engrave(text), text, f"{i}.png", f"tune {i}") for i, text in enumerate(TEXTS)]
    (folder / "train.parquet").write_bytes(parquet(rows[:4]))
    (folder / "val.parquet").write_bytes(parquet(rows[4:]))
    return folder


def settings(corpus, **more):
    usual = dict(encoder="resnet-50", small=True, target="bekern", data=str(corpus), size="32", **TINY)
    return usual | dict(batch=2, accumulate=1, steps=3, evaluate_every=3, evaluate_on=2) | more


def tiny(name="resnet-50", mode="full", target=TARGET, size="32", seed=0):
    torch.manual_seed(seed)
    return build(name, target, size, reduced=True, mode=mode, **TINY)


def stir(net):
    for name, p in net.named_parameters():
        if "lora_B" in name: nn.init.normal_(p, std=.1)
    return net.eval()


@pytest.mark.parametrize("name", SEVEN)
def test_lora_on_each_family(name):
    eyes = VisionEncoder(small(SEVEN[name]["config"]), 32).double()
    images, whole = torch.randint(0, 255, (2, 64, 96), dtype=torch.uint8), counts(eyes.net)["parameters"]
    for p in eyes.net.parameters():
        if p.dim() > 1: nn.init.kaiming_normal_(p)  # what comes through an untrained network is faint otherwise
    for layer in eyes.modules():
        if hasattr(layer, "momentum"): layer.momentum = 1.
    eyes.train()(images); eyes.eval()  # means and deviations of these images
    before, names = eyes(images).states, set(eyes.state_dict())
    adapt(eyes.net, "lora", rank=2).double()
    assert torch.allclose(eyes.eval()(images).states, before, rtol=0, atol=1e-12)
    assert all(p.requires_grad == ("lora_" in k) for k, p in eyes.net.named_parameters())
    told = stir(eyes.net) and eyes(images).states
    change = (told - before).abs().max()
    merge(eyes.net)
    assert change > 1e-11 and (eyes(images).states - told).abs().max() < 1e-4 * change
    assert set(eyes.state_dict()) == names and counts(eyes.net)["parameters"] == whole


def test_attention_gets_queries_and_values_only():
    assert {n.rpartition(".")[2] for n in adapted_layers(tiny("vit-small").encoder.net)} <= {"q_proj", "v_proj", "query", "value"}


@pytest.mark.parametrize("mode", ["frozen", "lora"])
def test_what_is_frozen_stands_still(mode):
    model = tiny("mobilevit-small", mode)
    means = {k: v.clone() for k, v in model.encoder.net.state_dict().items() if "lora_" not in k}
    optimizer = torch.optim.AdamW(model.parameters(), lr=.1)
    for _ in range(2):
        model.train()
        logits, _ = model(torch.randint(0, 255, (2, 32, 64), dtype=torch.uint8), torch.tensor([64, 40]), torch.tensor([[1, 5], [1, 6]]))
        optimizer.zero_grad(); logits.sum().backward(); optimizer.step()
    assert all(torch.equal(v, model.encoder.net.state_dict()[k]) for k, v in means.items())


def test_published_sizes():
    words = BekernTarget(["<pad>", "<bos>", "<eos>", *(f"w{i}" for i in range(4093))]).to_dict()
    for name, found in SEVEN.items():
        with torch.device("meta"): model = MusicTrOCR(found["config"], words)
        assert abs(counts(model)["parameters"] / 1e6 / found["published"] - 1) < .02, name


def test_reading_alone_and_in_company(tmp_path):
    model = tiny("vit-small")
    images = [engrave(text) for text in TEXTS]
    together = read_images(model, images, batch=4, longest=20)
    assert [o.ids for o in together] == [o.ids for image in images for o in read_images(model, [image], longest=20)]
    assert [o.ids for o in together] == [o.ids for o in read_images(model, images, batch=4, longest=20)]
    masked, grammar = read_images(model, images[:2], grammar=True, longest=40), model.target.grammar()
    assert all(len(o.ids) > 9 and grammar([o.ids[:n]])[0, word] for o in masked for n, word in enumerate(o.ids))
    assert not all(grammar([o.ids[:n]])[0, word] for o in together for n, word in enumerate(o.ids))  # it has something to forbid
    back = load_music_trocr(save_weights(model, tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == "music-trocr"
    assert all(torch.equal(a.half().float(), b) for a, b in zip(model.state_dict().values(), back.state_dict().values()) if a.is_floating_point())


@pytest.mark.parametrize("file, content, why", [
    ("config.json", b"{", "do not fit"), ("config.json", b"[]", "do not fit"), ("model.safetensors", b"x", "do not fit"),
    ("model.safetensors", None, "no weights")])
def test_broken_weights_are_refused(tmp_path, file, content, why):
    save_weights(tiny(), tmp_path)
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=why): load_music_trocr(tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_kept_answers_are_the_fresh_ones(tmp_path, seed):
    rng, model, student = random.Random(seed), tiny("vit-small", seed=seed), tiny("resnet-50")
    widths = torch.tensor([rng.randint(20, 90) for _ in range(3)])
    images = torch.full((3, 32, int(widths.max())), 255, dtype=torch.uint8)
    for image, w in zip(images, widths): image[:, :w] = torch.randint(0, 255, (32, int(w)))
    rows = [torch.tensor([1, *(rng.randint(3, 20) for _ in range(rng.randint(1, 9))), 2]) for _ in range(3)]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    fresh, keeping = Teacher(model)(images, widths, ids), Teacher(model, "me", tmp_path)
    keeping(images, widths, ids); model.forward = None  # from here on nobody can be asked
    kept = keeping(images, widths, ids)
    assert torch.equal(fresh[0], kept[0]) and torch.equal(fresh[1].states, kept[1].states) and torch.equal(fresh[1].seen, kept[1].seen)
    logits, memory = student(images, widths, ids[:, :-1])
    assert torch.equal(distilled(logits, ids[:, 1:], memory, fresh, nn.Identity()), distilled(logits, ids[:, 1:], memory, kept, nn.Identity()))


def test_a_killed_run_is_the_same_run(corpus, tmp_path, monkeypatch):
    want = run_one(settings(corpus, save_every=1, evaluate_every=2), tmp_path / "whole")
    real = training_module.validation_loss
    def killed(*args): raise KeyboardInterrupt
    monkeypatch.setattr(training_module, "validation_loss", killed)
    with pytest.raises(KeyboardInterrupt): run_one(settings(corpus, save_every=1, evaluate_every=2), tmp_path / "killed")
    assert (tmp_path / "killed/checkpoint.pt").exists()
    monkeypatch.setattr(training_module, "validation_loss", real)
    found = run_one(settings(corpus, save_every=1, evaluate_every=2), tmp_path / "killed")
    assert found["validation_loss"] == want["validation_loss"]
    assert (tmp_path / "whole/weights/model.safetensors").read_bytes() == (tmp_path / "killed/weights/model.safetensors").read_bytes()
    monkeypatch.setattr(training_module, "fit", None)  # what is done is not repeated
    assert run_one(settings(corpus, save_every=1, evaluate_every=2), tmp_path / "killed") == found
    with pytest.raises(InputError, match="started with lr = 0.0003, not 0.1"): run_one(settings(corpus, lr=.1), tmp_path / "killed")


@pytest.mark.parametrize("more", [
    dict(target="abc", vocabulary=300), dict(target="abc", strip_non_pitch=True, vocabulary=300, blind=True),
    dict(encoder_mode="lora", size="32x64"), dict(encoder_mode="frozen", grammar=True)])
def test_each_way_to_train(corpus, tmp_path, more):
    found = run_one(settings(corpus, **more | dict(steps=1, evaluate_every=1)), tmp_path)
    assert found["records"] == 4 and 0 <= found["coverage"] <= 1 and found["convention"] == ("legato" if more.get("target") == "abc" else "smt")
    assert (found["trained"] == found["parameters"]) == (more.get("encoder_mode", "full") == "full")
    assert found["parameters"] == counts(load_music_trocr(tmp_path / "weights"))["parameters"]  # LoRA is merged
    assert "omr train music-trocr" in (tmp_path / "weights/README.md").read_text()


@pytest.mark.parametrize("more, why", [
    (dict(size="0x9"), "no size '0x9'"), (dict(encoder="rsnet-50"), "did you mean 'resnet-50'"), (dict(encod="x"), "did you mean 'encoder'"),
    (dict(data="no/folder"), "no such folder"), (dict(data="pdmx-synth"), "omr download --pdmx-synth"), (dict(teacher="no/folder"), "in this folder"),
    (dict(strip_non_pitch=True), "--target abc"), (dict(encoder_mode="half"), "full, frozen, lora"), (dict(encoder_mode="lora", lora_rank=0), "rank"),
    (dict(batch=0), "batch = 0"), (dict(threads=-1), "threads = -1"), (dict(lr=-1.), "lr = -1"), (dict(width=30), "multiple of 4"),
    (dict(length=3), "none of 4 texts"), (dict(epochs=0, steps=0), "steps = 0")])
def test_refused(corpus, tmp_path, monkeypatch, more, why):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=why) as e: run_one(settings(corpus, **more), tmp_path / "run")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("more, why", [
    (dict(size="48"), "another size"), (dict(target="abc"), "its target is 'bekern', not 'abc'"), (dict(target="abc", strip_non_pitch=True), "its target")])
def test_teachers_must_fit(corpus, tmp_path, more, why):
    save_weights(tiny(), tmp_path / "teacher")
    with pytest.raises(InputError, match=why): run_one(settings(corpus, teacher=str(tmp_path / "teacher"), **more), tmp_path / "a")


def test_kept_answers_belong_to_weights_description_and_precision(tmp_path):
    save_weights(tiny(), tmp_path)
    flags = dict(teacher=str(tmp_path), teacher_cache="said")
    def key(precision): return training_module._teach(tiny(), load_music_trocr(tmp_path), flags | dict(precision=precision)).folder.name
    usual, config = key("no"), (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config + " ")
    assert len({usual, key("no"), key("bf16")}) == 3


def test_what_is_not_measured_is_counted(corpus, tmp_path):
    lengths = [len(TARGET.encode(text, "skip")) for text in TEXTS]
    length = max(lengths[4:]) - 1
    assert min(lengths) <= length
    found = run_one(settings(corpus, length=length, evaluate_on=0), tmp_path)
    assert found["validation_left_out"] >= 1 and found["measured"] + found["validation_left_out"] == 2
    assert f"{found['validation_left_out']} more images were not measured" in (tmp_path / "weights/README.md").read_text()


def test_figures_are_those_of_the_saved_weights(corpus, tmp_path):
    save_weights(tiny("vit-small"), tmp_path / "teacher")
    found = run_one(settings(corpus, teacher=str(tmp_path / "teacher"), encoder_mode="lora"), tmp_path / "run")
    model = load_music_trocr(tmp_path / "run/weights")
    known, ids = training_module.numbered(training_module.open_set(str(corpus), "validation"), model.target, 300, "skip")
    pages = training_module.Pages(known, ids, lambda image: training_module.fit_image(image, model.size))
    assert found["validation_loss"] == round(training_module.validation_loss(model, training_module.once(pages, 2)), 5)
    assert found["parameters"] == counts(model)["parameters"]


@pytest.mark.parametrize("path", sorted(o for o in (ROOT / "configs").glob("*.yaml") if not o.stem.startswith("matcher-")), ids=lambda p: p.stem)
def test_configs_are_flags(path):
    found = parse(train_music_trocr, "omr train music-trocr", ["--config", str(path), "--seed", "3"])
    assert found["seed"] == 3 and len(found) > 3 and image_size(found.get("size", "224x224"))


def test_unknown_key_names_the_nearest(tmp_path):
    (tmp_path / "c.yaml").write_text("encoder_mod: lora\n")
    with pytest.raises(InputError, match="did you mean '--encoder_mode'"): parse(train_music_trocr, "omr train", ["--config", str(tmp_path / "c.yaml")])
