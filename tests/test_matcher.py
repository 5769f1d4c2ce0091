"""The matcher: published sizes, losses against their definitions, training that survives a kill, refining, and what is refused."""
import json, math, os, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F

from omr.cli import parse
from omr.core import InputError
from omr.matching.encoders import TwoTowers, info_nce, load_matcher, mean_reciprocal_rank, ranking_loss, ranks, save_matcher, weights_of
from omr.matching.pairs import Played, Snippets, open_pairs, read_pairs, write_pair
from omr.matching.training import evenly, latents, pair_batches, refine_matcher, retrieval_figures, shuffled, train_matcher, write_matcher_card
from omr.matching.unrolled import Unrolled

SMALL = dict(width=2, latent=4, batch=6, lr=2e-3, threads=1, evaluate_on=12, n_train=20)


def write_piece(folder, split, seed, notes=12):
    rng = np.random.default_rng(seed)
    sheet = rng.integers(0, 256, (160, 40 * notes + 200), np.uint8)
    played = [Played(rng.random((92, 12 * notes), np.float32), 10.0 + 8 * np.arange(notes), dict(tempo=t, timbre=f"piano {t}", rooms=0)) for t in (0.8, 1.0)]
    passage = Unrolled(sheet, np.arange(notes) / 2, 100 + 40 * np.arange(notes, dtype=np.float32), np.ones((notes, 3), np.int32), None)
    write_pair(folder, split, f"p{seed}", passage, played, composer=f"nobody {seed}", source="random")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "noise"
    open_pairs(folder)
    for i, split in enumerate(("train", "train", "validation")): write_piece(folder, split, i)
    return str(folder)


def numbers(model): return sum(v.numel() for v in model.state_dict().values() if v.is_floating_point())


def test_published_size(): assert numbers(TwoTowers()) == 669_424


@pytest.mark.parametrize("how", [{}, dict(towers="passage", cca=False, learned_scale=True, attention=True)])
def test_half_precision_weights_fit(how, tmp_path): assert (save_matcher(TwoTowers(**how), tmp_path) / "model.safetensors").stat().st_size < 3e6


@pytest.mark.parametrize("towers, head", [("published", "pool"), ("published", "dense"), ("passage", "pool")])
@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("context", [42, 84, 168])
def test_unit_vectors_in_every_form(towers, head, attention, context):
    model = TwoTowers(towers, context, head, attention, width=2, latent=8).eval()
    with torch.no_grad(): a, b = model.sheet(torch.rand(3, 1, 80, 100)), model.audio(torch.rand(3, 1, 92, context))
    assert a.shape == b.shape == (3, 8) and torch.allclose(a.norm(dim=1), torch.ones(3)) and torch.allclose(b.norm(dim=1), torch.ones(3))


def test_one_alone_is_as_one_of_many():
    model = TwoTowers("passage", attention=True, width=2).eval()
    sheet, spec = torch.rand(4, 1, 80, 100), torch.rand(4, 1, 92, 42)
    with torch.no_grad():
        assert torch.allclose(model.sheet(sheet[:1]), model.sheet(sheet)[:1], atol=1e-5)
        assert torch.allclose(model.audio(spec[2:3]), model.audio(spec)[2:3], atol=1e-5)
        together = model(sheet, spec)
        assert torch.allclose(together[0], model.sheet(sheet), atol=1e-6) and torch.allclose(together[1], model.audio(spec), atol=1e-6)


@pytest.mark.parametrize("how", [{}, dict(head="dense", attention=True), dict(towers="passage", cca=False, learned_scale=True)])
def test_every_weight_gets_a_gradient(how):
    torch.manual_seed(0)
    model = TwoTowers(width=2, latent=4, **how).train()
    a, b = model(torch.rand(8, 1, 80, 100), torch.rand(8, 1, 92, 42))
    (info_nce(a, b, model.scale) if model.log_scale is not None else ranking_loss(a, b)).backward()
    without = [k for k, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


def test_silence_and_paper_are_points_too():
    model = TwoTowers(attention=True, width=2).eval()
    with torch.no_grad(): points = model.audio(torch.zeros(2, 1, 92, 42)), model.sheet(torch.ones(2, 1, 80, 100))
    assert all(o.isfinite().all() for o in points)


@pytest.mark.parametrize("seed", range(4))
def test_losses_as_defined(seed):
    a, b = (F.normalize(torch.randn(7, 5, generator=torch.Generator().manual_seed(10 * seed + i))) for i in (0, 1))
    s = (a @ b.T).numpy()
    hinge = [[max(0, .7 - s[i, i] + s[i, j]) for j in range(7) if i != j] for i in range(7)]
    assert ranking_loss(a, b).item() == pytest.approx(np.mean(hinge), abs=1e-6)
    assert ranking_loss(a, b, both=True).item() == pytest.approx(ranking_loss(a, b).item() + ranking_loss(b, a).item(), abs=1e-6)
    right = -np.mean([math.log(math.exp(10 * s[i, i]) / sum(math.exp(10 * s[i, j]) for j in range(7))) for i in range(7)])
    left = -np.mean([math.log(math.exp(10 * s[i, i]) / sum(math.exp(10 * s[j, i]) for j in range(7))) for i in range(7)])
    assert info_nce(a, b, 10.0).item() == pytest.approx((right + left) / 2, abs=1e-5)
    order = [1 + sum(s[i, j] >= s[i, i] for j in range(7) if j != i) for i in range(7)]
    assert ranks(a, b).tolist() == order and mean_reciprocal_rank(a, b) == pytest.approx(np.mean([1 / o for o in order]))


def test_ranks_of_many_equal_those_of_parts():
    a, b = (F.normalize(torch.randn(3000, 4, generator=torch.Generator().manual_seed(i))) for i in (0, 1))
    similar = a @ b.T
    assert (ranks(a, b) - (similar >= similar.diagonal()[:, None]).sum(1)).abs().max() <= 1  # the last digit of a product depends on its company


@pytest.mark.parametrize("group", [1, 2, 4, 50])
def test_orders_never_end_and_never_miss(group):
    of = np.array([0] * 6 + [1] * 3 + [2] * 4)
    n = len(of)
    order = [o for o, _ in zip(shuffled(of, 3, 0, group), range(5 * n))]
    assert sorted(order) == list(range(5 * n))
    for first in (1, n, n + 4, 3 * n - 1): assert [o for o, _ in zip(shuffled(of, 3, first, group), range(20))] == order[first:first + 20]


def test_batches_go_on_where_they_stopped(pairs):
    data = Snippets(read_pairs(pairs, "train"), augment=True, seed=2)
    whole = [b for b, _ in zip(pair_batches(data, 10, 0, 5), range(12))]
    rest = [b for b, _ in zip(pair_batches(data, 10, 7, 5), range(5))]
    assert all(torch.equal(x, y) for a, b in zip(whole[7:], rest) for x, y in zip(a, b))


def test_workers_load_the_same(pairs):
    data = Snippets(read_pairs(pairs, "train"), augment=True)
    here, there = ([b for b, _ in zip(pair_batches(data, 4, 3, workers=n, strength=0.5), range(2))] for n in (0, 1))
    assert all(torch.equal(x, y) for a, b in zip(here, there) for x, y in zip(a, b))


def test_train_save_load_card(pairs, tmp_path):
    weights = train_matcher(str(tmp_path / "run"), [pairs], steps=4, evaluate_every=2, **SMALL)
    facts, card = json.loads((weights / "training.json").read_text()), (weights / "README.md").read_text()
    assert facts["pieces"] == 2 and facts["steps_done"] == 4 and "omr train matcher" in card and "not measured" in card
    assert str(tmp_path) not in card + json.dumps(facts)
    assert json.loads((weights / "config.json").read_text())["architecture"] == "two-towers"
    model, data = load_matcher(weights), Snippets(read_pairs(pairs, "validation"))
    figures = retrieval_figures(model, *latents(model, data, evenly(data, 12)))
    assert 0 < figures["mrr"] <= 1 and figures["mrr_error"] == 1 - figures["mrr"]
    one = dict(pool=12, sheet_to_audio=dict(r1=.5, r1_low=.4, r1_high=.6, r25=1, mrr=.7))
    (weights / "scores.json").write_text(json.dumps({"noise (test)": one}))
    text = write_matcher_card(weights).read_text()
    assert "| noise (test) | 12 | sheet to audio | 50.0 (40.0 to 60.0) | 100.0 | 0.700 |" in text


KILLED = """
import sys
from omr.matching.training import train_matcher
if __name__ == "__main__": train_matcher(sys.argv[1], [sys.argv[2]], **{settings})
"""


def test_a_killed_training_goes_on_as_if_nothing_had_been(pairs, tmp_path):
    settings = SMALL | dict(steps=400, save_every=2, evaluate_every=400)
    (tmp_path / "run.py").write_text(KILLED.replace("{settings}", repr(settings)))
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen([sys.executable, tmp_path / "run.py", tmp_path / "a", pairs], env=env, stderr=subprocess.DEVNULL)
    try:
        for _ in range(3000):
            if (tmp_path / "a" / "checkpoint.pt").exists() or process.poll() is not None: break
            time.sleep(0.1)
    finally: process.send_signal(signal.SIGKILL); process.wait()
    done = torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)["step"]
    assert 0 < done < 380
    for name in "ab": train_matcher(str(tmp_path / name), [pairs], **settings | dict(steps=done + 4))
    one, two = (torch.load(tmp_path / o / "checkpoint.pt", weights_only=True)["model"] for o in "ab")
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert weights_of(tmp_path / "a" / "weights")["fingerprint"] == weights_of(tmp_path / "b" / "weights")["fingerprint"]


def test_the_rate_is_halved_from_the_best_weights(pairs, tmp_path):
    train_matcher(str(tmp_path), [pairs], steps=30, evaluate_every=1, patience=2, halvings=2, **SMALL)
    rates = [torch.load(tmp_path / o / "checkpoint.pt", weights_only=True)["training"]["lr"] for o in ("", "halved-1", "halved-2")]
    assert rates == [2e-3, 1e-3, 5e-4]


def test_runs_stand_where_the_environment_says(pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("EXP_ROOT", str(tmp_path))
    assert train_matcher(data=[pairs], steps=1, **SMALL).parent == tmp_path / "matcher"

def test_refining_changes_the_projection_alone(pairs, tmp_path):
    torch.manual_seed(0)
    model = TwoTowers(width=2, latent=4)
    before = load_matcher(save_matcher(model, tmp_path / "model")).state_dict()
    after = load_matcher(refine_matcher(str(tmp_path / "model"), [pairs], 30, str(tmp_path / "refined"), threads=1)).state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed and all(k.startswith("projection.") for k in changed)
    assert weights_of(tmp_path / "model") != weights_of(tmp_path / "refined")


@pytest.mark.parametrize("how, words", [
    (dict(data=[]), "no set of pairs"), (dict(batch=1000), "less than one batch"), (dict(halvings=1), "--patience"), (dict(tempos=[1.0]), "two factors"),
    (dict(tempos=[3.0, 4.0]), "no onset"), (dict(timbres=["organ"]), "no onset"), (dict(margin=-1), "margin"), (dict(towers="residual"), "no towers"),
    (dict(batch=1), "batch"), (dict(start_from="nowhere"), "nowhere"), (dict(context=3), "context"), (dict(vary=2), "vary")])
def test_refusals(pairs, tmp_path, how, words):
    with pytest.raises(InputError, match=words): train_matcher(str(tmp_path), **dict(data=[pairs], steps=2) | SMALL | how)


def test_other_settings_do_not_go_on(pairs, tmp_path):
    train_matcher(str(tmp_path), [pairs], steps=2, **SMALL)
    with pytest.raises(InputError, match="this run was started with"): train_matcher(str(tmp_path), [pairs], steps=2, **SMALL | dict(margin=.2))


def test_broken_weights_are_refused(tmp_path):
    save_matcher(TwoTowers(width=2), tmp_path)
    with pytest.raises(InputError, match="no such file"): load_matcher(tmp_path / "none")
    with pytest.raises(InputError, match="no weights"): weights_of(tmp_path / "none")
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="weights that do not fit"): load_matcher(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "crnn"}))
    with pytest.raises(InputError, match="no matcher"): load_matcher(tmp_path)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "configs").glob("matcher-*.yaml")), ids=lambda o: o.stem)
def test_configs_name_flags_that_exist(path, pairs, tmp_path):
    settings = yaml.safe_load(path.read_text())
    small = dict(data=[pairs], steps=1, decay=0, warmup=0, folder=str(tmp_path / "run"), **SMALL) | dict(evaluate_every=1, halvings=0, patience=0)
    assert train_matcher(**settings | small).is_dir()


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "configs").glob("matcher-*.yaml")), ids=lambda p: p.stem)
def test_configs_are_flags(path):
    found = parse(train_matcher, "omr train matcher", ["--config", str(path), "--seed", "3"])
    assert found["seed"] == 3 and len(found) > 2
