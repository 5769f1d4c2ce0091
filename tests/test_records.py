"""What a record says of its weights, and what the table makes of it."""
import json
import time

import house
import pytest

from omr import results

SETTINGS = dict(profile="smoke", seed=0)


@pytest.fixture
def place(tmp_path, monkeypatch):
    "An empty repository with a package that ships two readers."
    (tmp_path / "settings.ini").touch()
    for name in ("crnn", "tromr"):
        (tmp_path / "omr" / "weights" / name).mkdir(parents=True)
        (tmp_path / "omr" / "weights" / name / "model.safetensors").write_bytes(name.encode())
    monkeypatch.setattr(results.omr, "__file__", str(tmp_path / "omr" / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_other_weights_are_told(place):
    metrics = {f"{name} prints ser": results.metric(1, "f", staves=7) for name in ("crnn", "tromr")}
    results.record("readers", metrics, SETTINGS, time.time(), weights=["crnn", "tromr", "not shipped"])
    rows = [o for o in results.READERS if o.key in metrics]
    def told(): return ["other weights" in results.row_lines(o, results.records())[0] for o in rows]
    assert told() == [False, False]
    (place / "omr" / "weights" / "tromr" / "model.safetensors").write_bytes(b"trained again")
    assert told() == [False, True]
    (place / "omr" / "weights" / "crnn" / "model.safetensors").unlink()
    assert told() == [True, True]


def test_digest_is_that_of_sha256sum(place):
    from hashlib import sha256

    assert results.weights_of("crnn") == {"crnn": sha256(b"crnn").hexdigest()[:12]}


def test_records_without_weights_still_load():
    "Records of this repository, those from before the key too."
    found = results.records(house.ROOT / "results")
    assert found and all(results.measured_with(o) for o in found)
    assert all(results.row_lines(row, found) for row in results.ROWS)


@pytest.mark.parametrize("settings, text", [({}, "1.0 %"), (dict(staves=1500), "1.0 %, n = 1,500"), (dict(scores=9, taken=4, refused=5), "1.0 %, n = 4"),
    (dict(staves=20, steps=300), "1.0 %, n = 20, 300 steps")])
def test_counts_are_shown(settings, text): assert results.shown(results.metric(1, "f", **settings)) == text


def test_record_is_json(place):
    made = results.record("staves", {}, SETTINGS, time.time(), weights=["crnn"])
    assert json.loads((place / "results" / "staves-smoke.json").read_text()) == made
