"""Listening models: the networks, decoding, training that survives a kill, the search, and what is refused."""
import json, os, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest
import torch

from omr.core import InputError
from omr.listening.cqt_transformer import CQTTransformer
from omr.listening.decoding import Thresholds, choose_thresholds, decode, filled
from omr.listening.hppnet import HEADS, FGLSTM, HPPNet, PianoNet
from omr.listening.listeners import Listener, evaluate_listener, hear, load_listener, save_listener
from omr.listening.note_scores import piece_scores
from omr.listening.notes import note_array
from omr.listening.piano_training import open_study, train_piano
from omr.listening.prepared import FrontEnd, open_set, targets, write_piece
from omr.listening.runs import probabilities, windows
from omr.listening.sound import write_sound
from omr.listening.transformer_training import train_cqt_transformer
from omr.scores.notation import synthesize

FRONT = FrontEnd()


def random_notes(seed, seconds=4, keys=(40, 80)):
    rng = np.random.default_rng(seed)
    strikes = [(t, p) for t in np.arange(.1, seconds - .5, .3) for p in rng.choice(np.arange(*keys), 3, False)]
    return note_array([(t, t + rng.uniform(.1, .25), int(p), int(rng.integers(20, 120))) for t, p in strikes])


def make_set(folder, front=FRONT, splits=("train", "train", "validation", "test"), **how):
    open_set(folder, front, **how)
    for i, split in enumerate(splits):
        notes = random_notes(i)
        names = {k: v for k, v in how.items() if k == "only_note_names"}
        write_piece(folder, split, f"p{i}", 0.3 * synthesize(notes, front.rate), notes, front, source="random", **names)
    return str(folder)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory): return make_set(tmp_path_factory.mktemp("sets") / "piano")


SMALL = dict(stem=4, width=4, lstm=4, batch=2, segment=50, lr=2e-3, warmup=1, decay=2, threads=1, evaluate_on=1)


@pytest.mark.parametrize("size, published", [("sp", 1.24e6), ("base", 0.82e6), ("tiny", 0.151e6)])
def test_published_sizes(size, published): assert abs(sum(p.numel() for p in HPPNet(size).parameters()) / published - 1) < 0.01


def test_the_transformer_has_the_published_size(): assert abs(sum(p.numel() for p in CQTTransformer().parameters()) / 1.8e6 - 1) < 0.03


def test_the_piano_model_fits_the_package(): assert 2 * sum(p.numel() for p in PianoNet().parameters()) < 5e6


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("make", [PianoNet, lambda: HPPNet("tiny"), lambda: PianoNet(1, 3)])
def test_any_number_of_frames(make, frames):
    model = make().eval()
    bins, channels = {HPPNet: (352, 1)}.get(type(model)) or (88 * model.bins_per_key, model.channels)
    with torch.no_grad(): out = model(torch.rand(2, channels, bins, frames))
    assert {k: tuple(v.shape) for k, v in out.items()} == dict.fromkeys(HEADS, (2, frames, 88))


def test_all_keys_share_one_memory():
    head, x = FGLSTM(6, 3), torch.randn(1, 6, 20, 88)
    with torch.no_grad(): assert torch.allclose(head(x.flip(3)), head(x).flip(2), atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_decoding_what_the_truth_says(seed):
    notes = random_notes(seed, 8)
    roll = targets(notes, 50, 450)
    found = decode(roll["onset"].astype(float), roll["frame"].astype(float), roll["offset"].astype(float), roll["velocity"] / 127, 50, Thresholds(0.5, 0.5))
    scores = piece_scores(notes, found)
    assert scores["onset_f1"] == scores["velocity_f1"] == 1 and np.abs(np.sort(found["onset"]) - np.sort(notes["onset"])).max() <= 0.0101
    assert (found["offset"] > found["onset"]).all() and (found["confidence"] == 1).all()


@pytest.mark.parametrize("shape", [(0, 88), (1, 88), (30, 88)])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_decoding_the_extremes(shape, value):
    found = decode(*[np.full(shape, value)] * 4, 50)
    assert len(found) == (88 if value and shape[0] else 0) and (found["offset"] > found["onset"]).all()


def test_thresholds_are_refused():
    for bad in (dict(onset=-1), dict(frame="x"), dict(offset=float("nan"))):
        with pytest.raises(InputError): Thresholds(**bad)
    with pytest.raises(InputError, match="no piece"): choose_thresholds([], [], 50)


@pytest.mark.parametrize("frames, size, margin", [(1, 10, 4), (99, 10, 4), (100, 10, 0), (7, 100, 50)])
def test_windows_cover_everything_once(frames, size, margin):
    cut = windows(frames, size, margin)
    assert [t for _, a, b, _ in cut for t in range(a, b)] == list(range(frames))
    assert all(0 <= f <= a and b <= e <= frames for f, a, b, e in cut)


def test_windows_have_no_seams():
    torch.manual_seed(0)
    model, x = PianoNet(stem=8, width=8, lstm=4), torch.rand(3, 88, 700)
    whole, cut = probabilities(model, x, 10_000), probabilities(model, x, 200, 100)
    assert max(np.abs(whole[k] - cut[k]).max() for k in HEADS) < 1e-3


def test_heads_that_are_missing_are_filled_in():
    found = filled({"frame": np.eye(5)})
    assert set(found) == set(HEADS) and found["onset"].max() == 1


def run_piano(folder, prepared, **more): return train_piano(str(folder), [prepared], **SMALL | dict(steps=6, save_every=2, evaluate_every=6) | more)


def test_training_and_listening(prepared, tmp_path, capsys):
    weights = run_piano(tmp_path / "run", prepared)
    listener = load_listener(weights)
    assert listener.front == FRONT and listener.pedal
    facts, card = json.loads((weights / "training.json").read_text()), (weights / "README.md").read_text()
    assert facts["pieces"] == 2 and "omr train piano" in card and str(tmp_path) not in card + json.dumps(facts)
    figures = evaluate_listener(str(weights), [prepared], card=True)["piano (test)"]
    assert figures["pieces"] == 1 and 0 <= figures["note_f1"] <= 1 and "piano (test)" in (weights / "README.md").read_text()
    assert len(hear(listener, np.zeros(16000, np.float32))) == len(hear(listener, np.zeros(16000, np.float32)))


def test_weights_know_what_they_started_from(prepared, tmp_path):
    first = run_piano(tmp_path / "first", prepared)
    then = run_piano(tmp_path / "then", prepared, start_from=str(first), steps=2)
    before = json.loads((then / "training.json").read_text())["before"]
    assert before["steps_done"] == 6 and before["weights"] in (then / "README.md").read_text()


KILLED = """
import sys
from omr.listening.piano_training import train_piano
if __name__ == "__main__": train_piano(sys.argv[1], [sys.argv[2]], **{settings})
"""


def test_a_killed_training_goes_on_as_if_nothing_had_been(prepared, tmp_path):
    settings = SMALL | dict(steps=400, decay=3, save_every=2, evaluate_every=400)
    (tmp_path / "run.py").write_text(KILLED.replace("{settings}", repr(settings)))
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen([sys.executable, tmp_path / "run.py", tmp_path / "a", prepared], env=env, stderr=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            if (tmp_path / "a" / "checkpoint.pt").exists() or process.poll() is not None: break
            time.sleep(0.1)
    finally: process.send_signal(signal.SIGKILL); process.wait()
    done = torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)["step"]
    assert 0 < done < 380
    steps = done + 5
    for name in "ab": train_piano(str(tmp_path / name), [prepared], **settings | dict(steps=steps))
    one, two = (torch.load(tmp_path / o / "checkpoint.pt", weights_only=True)["model"] for o in "ab")
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_other_settings_do_not_go_on(prepared, tmp_path):
    run_piano(tmp_path, prepared)
    with pytest.raises(InputError, match="this run was started with"): run_piano(tmp_path, prepared, width=5, steps=8)


@pytest.mark.parametrize("wrong, says", [(dict(pos_weight=[1, 2]), "three numbers"), (dict(steps=0), "steps"), (dict(segment=0), "segment"),
    (dict(network="hppnet-sp"), "352 bins"), (dict(start_from="nowhere"), "nowhere")])
def test_wrong_settings(prepared, tmp_path, wrong, says):
    with pytest.raises(InputError, match=says): run_piano(tmp_path, prepared, **wrong)


def test_data_that_is_none(prepared, tmp_path):
    for data, says in (([], "no prepared set"), ([str(tmp_path)], "no prepared set")):
        with pytest.raises(InputError, match=says): train_piano(str(tmp_path / "run"), data)
    other = make_set(tmp_path / "other", FrontEnd(hop=512), ("train", "validation"))
    with pytest.raises(InputError, match="another front end"): train_piano(str(tmp_path / "run"), [prepared, other])


def test_the_search(prepared, tmp_path):
    pytest.importorskip("optuna")
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    flags = dict(n_trials=2, trial_steps=2, storage=storage)
    weights = run_piano(tmp_path / "a", prepared, **flags)
    chosen = json.loads((tmp_path / "a" / "chosen.json").read_text())
    assert set(chosen) == {"lr", "lstm"} and load_listener(weights).model.fast["onset"].memory.hidden_size == chosen["lstm"]
    run_piano(tmp_path / "b", prepared, **flags)  # another machine with the same command: nothing is left to try
    assert not (tmp_path / "b" / "trials").exists() and json.loads((tmp_path / "b" / "chosen.json").read_text()) == chosen
    with pytest.raises(InputError, match="no study can be kept"): open_study(tmp_path, "nonsense://x", "name")


def test_folders_that_are_no_listener(tmp_path):
    with pytest.raises(InputError): load_listener(tmp_path)
    folder = save_listener(Listener(PianoNet(stem=2, width=2, lstm=2), FRONT), tmp_path / "good")
    config = json.loads((folder / "config.json").read_text())
    wrong = [{"architecture": "crnn"}, {"front_end": {"colour": 1}}, {"thresholds": {"onset": 7}}, {"stem": 3}, {"norm": "layer"}, {"front_end": None}]
    for change in wrong:
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError): load_listener(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match="do not fit"): load_listener(folder)


def test_recordings_with_their_truth(tmp_path):
    notes = random_notes(0)
    write_sound(tmp_path / "a.flac", 0.3 * synthesize(notes, 16000), 16000)
    with pytest.raises(InputError, match="holds no sound with its notes"): evaluate_listener(Listener(PianoNet(stem=2, width=2, lstm=2), FRONT), [tmp_path])
    (tmp_path / "a.tsv").write_text("# onset,offset,note,velocity\n" + "\n".join("\t".join(map(str, o.item())) for o in notes))
    listener = Listener(PianoNet(stem=2, width=2, lstm=2), FRONT)
    figures = evaluate_listener(listener, [tmp_path])[tmp_path.name]
    assert figures["pieces"] == 1
    (tmp_path / "a.tsv").write_text("0.5 nonsense\n")
    with pytest.raises(InputError, match="no note"): evaluate_listener(listener, [tmp_path])


def test_the_transformer_trains_goes_on_and_is_tested_once(prepared, tmp_path):
    small = dict(data=[prepared], n_layers=1, embed_dim=16, c=1, batch_size=4, threads=1, evaluate_on=1, heads=["onset", "frame", "velocity"])
    weights = train_cqt_transformer(str(tmp_path), epochs=2, **small)
    assert json.loads((weights / "test.json").read_text())["pieces"] == 1
    listener = load_listener(weights)
    assert listener.model.heads == ("onset", "frame", "velocity") and len(hear(listener, np.zeros(8000, np.float32))) >= 0
    for which in ("main", "dev"): assert train_cqt_transformer(str(tmp_path), epochs=1, load_weights=which, **small).parts[-2] == f"from-{which}"
    with pytest.raises(InputError, match="another network"):
        train_cqt_transformer(str(tmp_path), epochs=1, load_weights="main", **small | dict(embed_dim=32))


def test_the_transformer_hears_names(tmp_path):
    names = make_set(tmp_path / "names", splits=("train", "validation"), only_note_names=True)
    weights = train_cqt_transformer(str(tmp_path / "run"), [names], epochs=1, n_layers=1, embed_dim=16, c=1, threads=1)
    assert load_listener(weights).model.keys == 12
