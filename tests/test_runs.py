"What a training refuses, what it writes down, and that the command in a card is the command."
import json
import math
import shlex
from dataclasses import asdict

import pytest
import torch
from omr.cli import main, parse
from omr.core import InputError
from omr.reading import crnn, tromr_training
from omr.reading.cards import command_line, read_facts, saved_row, settings_of, weights_folder
from omr.reading.crnn import CRNN, RECIPES, load_crnn, train_crnn
from omr.reading.evaluation import evaluate_command
from omr.reading.export import export_model
from omr.reading.runs import begin_run, save_half
from omr.reading.tromr import TrOMR, load_tromr
from omr.reading.tromr_training import begin_with, train_tromr
from omr.training import Training, load_best, load_checkpoint, save_checkpoint
from test_crnn import TINY as TINY_CRNN
from test_tromr import TINY as TINY_TROMR

TRAIN = {"crnn": train_crnn, "tromr": train_tromr}
BAD = [("threads", -1), ("evaluate_on", 0), ("evaluate_on", -3), ("workers", 0), ("batch", 0), ("camera", 2), ("camera", -1), ("camera", math.nan),
       ("steps", 0), ("decay", -1), ("warmup", -1), ("lr", -1), ("lr", math.nan), ("accumulate", 0), ("seed", -1), ("seed", 2**63),
       ("save_every", 0), ("evaluate_every", 0), ("patience", -1),
       ("network", "huge"), ("scores", ["no/such/folder"]), ("start_from", "no/such/weights")]
WORSE = [("noise", 3), ("noise", -.1), ("noise", math.nan), ("consistency", -1), ("ctc", -1), ("ctc", math.inf), ("chords", 2)]  # flags that a TrOMR alone has


@pytest.mark.parametrize("name, flag, value", [("crnn", *o) for o in BAD] + [("tromr", *o) for o in BAD + WORSE])
def test_settings_are_refused_before_anything_is_done(tmp_path, name, flag, value):
    threads, folder = torch.get_num_threads(), tmp_path / "run"
    with pytest.raises(InputError) as caught: TRAIN[name](**dict(folder=str(folder), evaluate_on=1) | {flag: value})
    assert "\n" not in str(caught.value) and not folder.exists() and torch.get_num_threads() == threads


@pytest.mark.parametrize("words, why", [
    ("train crnn --threads -1", "threads = -1"), ("train tromr --noise 3", "noise = 3.0"), ("train tromr --consistency=-1", "consistency = -1"),
    ("train crnn --evaluate_on 0", "evaluate_on = 0"),
    ("evaluate --seed -1", "seed = -1"), ("evaluate --count 0", "count = 0"), ("evaluate --camera 3", "camera = 3")])
def test_the_command_says_it_in_a_line(tmp_path, monkeypatch, capsys, words, why):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path, net = tmp_path_factory.mktemp("run") / "checkpoint.pt", torch.nn.Linear(2, 1)
    save_checkpoint(path, net, torch.optim.AdamW(net.parameters()), 5, Training())
    return path.read_bytes()


DAMAGE = {"empty": lambda b: b"", "begun": lambda b: b[:40], "half": lambda b: b[:len(b) // 2], "cut": lambda b: b[:-1], "text": lambda b: b"no checkpoint"}


@pytest.mark.parametrize("name", ["checkpoint.pt", "best.pt"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_a_line(tmp_path, checkpoint, name, damage):
    (tmp_path / name).write_bytes(DAMAGE[damage](checkpoint))
    net = torch.nn.Linear(2, 1)
    with pytest.raises(InputError) as caught:
        if name == "best.pt": load_best(tmp_path, net)
        else: load_checkpoint(tmp_path / name, net, torch.optim.AdamW(net.parameters()), Training())
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_checkpoints_of_other_things(tmp_path, checkpoint):
    (path := tmp_path / "checkpoint.pt").write_bytes(checkpoint)
    other = torch.nn.Linear(3, 1)
    with pytest.raises(InputError, match="of another network"): load_checkpoint(path, other, torch.optim.AdamW(other.parameters()), Training())
    torch.save({"model": 3}, path)
    with pytest.raises(InputError, match="damaged"): load_checkpoint(path, other, torch.optim.AdamW(other.parameters()), Training())


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    "Its checkpoint does not know the settings that came later; they had their defaults."
    net = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(net.parameters())
    save_checkpoint(path := tmp_path / "checkpoint.pt", net, optimizer, 5, Training())
    state = torch.load(path, weights_only=True)
    del state["training"]["betas"]
    torch.save(state, path)
    assert load_checkpoint(path, net, optimizer, Training()) == 5
    with pytest.raises(InputError, match="betas"): load_checkpoint(path, net, optimizer, Training(betas=(.9, .999)))


KINDS = {"crnn": (lambda: CRNN(**TINY_CRNN), load_crnn), "tromr": (lambda: TrOMR(**TINY_TROMR), load_tromr)}
CONFIGS = ["", "{", "[]", "3", "null", '"text"', '{"height": "tall"}', '{"height": -64}', '{"encoding": 3}', '{"decoder": []}',
           '{"tokens": 5}', '{"channels": "many"}', '{"pools": [[0, 0]]}', '{"hidden": 0}', '{"dropout": 7}']
OF_TROMR = ["[]", "{", '{"encoder": "strip"}', '{"encoder": {}}', '{"encoder": {"kind": "eye"}}', '{"heads": 0}', '{"width": "wide"}',
            '{"depth": -1}', '{"vocabularies": {"rhythm": 1}}', '{"length": null}']


@pytest.mark.parametrize("name, text", [("crnn", o) for o in CONFIGS] + [("tromr", o) for o in OF_TROMR])
def test_a_broken_config_is_a_line(tmp_path, name, text):
    build, load = KINDS[name]
    save_half(build(), tmp_path, architecture=name)
    path = tmp_path / "config.json"
    whole = json.loads(path.read_text())
    try: change = json.loads(text)
    except ValueError: change = None
    path.write_text(json.dumps(whole | change) if isinstance(change, dict) else text)
    with pytest.raises(InputError) as caught: load(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    path.unlink()
    with pytest.raises(InputError, match="no description of the network"): load(tmp_path)


def test_no_config_no_export(tmp_path):
    save_half(CRNN(**TINY_CRNN), tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match="config.json"): export_model(str(tmp_path), str(tmp_path / "out.onnx"))
    with pytest.raises(InputError): begin_with(TrOMR(**TINY_TROMR), str(tmp_path))
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"staves": 3}', '{"staves": "many", "minutes": 1, "threads": 1, "cpu": "", "torch": "", "training": {}}'])
def test_facts_that_make_no_card(tmp_path, monkeypatch, text):
    "Refused before the measuring."
    save_half(CRNN(**TINY_CRNN), tmp_path, architecture="crnn")
    (tmp_path / "training.json").write_text(text)
    before = {o.name: o.read_bytes() for o in tmp_path.iterdir()}
    monkeypatch.setattr("omr.reading.evaluation.test_images", None)
    with pytest.raises(InputError, match="training.json") as caught: evaluate_command(str(tmp_path), card=True)
    assert "\n" not in str(caught.value) and {o.name: o.read_bytes() for o in tmp_path.iterdir()} == before


@pytest.mark.parametrize("change", [dict(camera="much"), dict(scores=3), dict(batch="x"), dict(training=dict(steps=0), steps_done=0), dict(processes="two")])
@pytest.mark.parametrize("card", [crnn.write_card, tromr_training.write_card])
def test_odd_facts_are_a_line(tmp_path, card, change):
    (tmp_path / "training.json").write_text(json.dumps(json.loads((weights_folder("crnn") / "training.json").read_text()) | change))
    with pytest.raises(InputError) as caught: card(tmp_path)
    assert "\n" not in str(caught.value)


TOLD = dict(start_from="crnn", scores=["openscore-lieder", "old songs"], camera=.25, steps=40, decay=10, warmup=3, lr=1e-3, batch=8, accumulate=2, seed=5,
            precision="bf16", workers=2, threads=1, save_every=9, evaluate_every=7, evaluate_on=3, metric="photo_ser", patience=2)
MORE = {"crnn": dict(network="camera-primus", decoder="gru"), 
        "tromr": dict(network="camera-tromr", encoder="some/vit", chords=.3, consistency=0., ctc=0., noise=.2)}


@pytest.mark.parametrize("name", TRAIN)
def test_the_command_of_a_card_is_the_command(name):
    told = TOLD | MORE[name]
    line = command_line(name, TRAIN[name], dict(training=asdict(Training())) | told)
    assert shlex.split(line)[:3] == ["omr", "train", name]
    assert parse(TRAIN[name], f"omr train {name}", shlex.split(line)[3:]) == told
    assert set(settings_of(TRAIN[name], dict(training={}))) == set(told)  # all flags but where it lies and who watches
    assert command_line(name, TRAIN[name], dict(training={})) == f"omr train {name}"


def test_facts_of_earlier_versions_make_a_card(tmp_path):
    "The staves of an update in the place of a batch, and fewer flags."
    run = asdict(Training(9000, 3000, 300, 7e-4, precision="bf16", save_every=250, evaluate_every=1500, accumulate=2))
    del run["betas"]
    facts = dict(network="light", encoder="", start_from="crnn", scores=["polish-parts"], camera=.5, chords=.35, consistency=10., ctc=.3, noise=.1)
    facts |= dict(batch=32, staves=288000, threads=1, minutes=600.5, steps_done=9000, cpu="any", torch="2.13.0", training=run, curve=[], validation=[])
    (tmp_path / "training.json").write_text(json.dumps(facts))
    card = tromr_training.write_card(tmp_path).read_text()
    command = ("omr train tromr --start_from crnn --scores polish-parts --chords 0.35 --steps 9000 --decay 3000 --warmup 300 --accumulate 2 --precision bf16 "
               "--threads 1 --save_every 250 --evaluate_every 1500")
    assert f"`{command}`" in card and "9,000 steps of 32, 600.5 minutes" in card
    (tmp_path / "training.json").write_text((weights_folder("crnn") / "training.json").read_text())
    assert "3,600 steps of 16" in crnn.write_card(tmp_path).read_text()
    assert read_facts(tmp_path)["training"]["betas"]


def test_the_figure_of_the_weights_is_their_own():
    rows = [dict(step=s, ser=e) for s, e in ((1, .2), (2, .1), (3, .3))]
    assert saved_row(dict(validation=rows, training=asdict(Training())))["ser"] == .3
    assert saved_row(dict(validation=rows, training=asdict(Training(patience=2))))["ser"] == .1
    assert saved_row(json.loads((weights_folder("crnn") / "training.json").read_text()))["step"] == 3600


@pytest.mark.parametrize("name, network, height", [("crnn", "light", 64), ("crnn", "camera-primus", 128), ("tromr", "light", 64),
                                                   ("tromr", "camera-tromr", 128)])
def test_a_network_is_trained_on_strips_of_its_own_height(tmp_path, monkeypatch, name, network, height):
    module, seen = dict(crnn=crnn, tromr=tromr_training)[name], []
    def fit(model, batches, loss, training, *rest):
        batches(0)
        seen.append((model.height, training.betas))
        raise InputError("enough")
    monkeypatch.setattr(module, "fit", fit)
    monkeypatch.setattr(module, "training_batches", lambda *args, recipe: seen.append(recipe.height))
    with pytest.raises(InputError, match="enough"): TRAIN[name](str(tmp_path), network=network, evaluate_on=1)
    assert seen == [height, (height, (.9, .999) if network == "camera-primus" else (.9, .99))]


def test_recipes_give_way_to_flags():
    flags = dict(steps=None, lr=.5, batch=1, workers=1, evaluate_on=1, threads=0)
    made = begin_run(flags, "", **RECIPES["camera-primus"])
    assert (made.steps, made.lr, made.weight_decay) == (64_000, .5, 0)
