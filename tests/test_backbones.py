"The backbone benchmark: sweeps that are killed, spread over a cluster, refused; the commands of the original; the step's arithmetic."
import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch
from dask.distributed import LocalCluster

from omr import reproduce as reproduce_module
from omr.cli import parse
from omr.core import InputError
from omr.reading.encoders import SEVEN
from omr.reading.music_trocr_training import train_music_trocr
from omr.reading.sweeps import benchmark, commands, finished, key_of, matrix_share, more_seeds, over_seeds, sweep, teachers_first

RUNS = [{"encoder": f"e{n}"} for n in range(4)]
RUNS.append({"encoder": "student", "teacher": RUNS[3]})

WORK = '''
import time
from pathlib import Path

def work(settings, folder):
    "Leaves a mark when it starts and one when it ends; the third waits until it may go on."
    place = Path(__file__).parent
    with (place / "started").open("a") as f: f.write(settings["encoder"] + "\\n")
    while settings["encoder"] == "e2" and not (place / "go").exists(): time.sleep(.05)
    if "teacher" in settings: assert (Path(settings["teacher"]).parent / "row.json").exists()
    with (place / "ended").open("a") as f: f.write(settings["encoder"] + "\\n")
    return {"validation_loss": len(settings["encoder"])}
'''
SCRIPT = '''
import json, sys
from omr.reading.sweeps import sweep
from toy_work import work
if __name__ == "__main__": sweep(json.loads(sys.argv[1]), "sweep", workers=int(sys.argv[2]), work=work)
'''


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "toy_work.py").write_text(WORK)
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    yield tmp_path
    sys.modules.pop("toy_work", None)


def words(path): return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_gone_on_with(place, workers):
    "No run is lost, and none that ended is repeated."
    command = [sys.executable, "script.py", json.dumps(RUNS), str(workers)]
    with subprocess.Popen(command, start_new_session=True) as process:
        end = time.time() + 120
        while "e2" not in words(place / "started") or len(words(place / "ended")) < 2 + (workers > 0):
            assert time.time() < end and process.poll() is None
            time.sleep(.05)
        process.send_signal(signal.SIGKILL)
    time.sleep(3)  # a worker that outlived the sweep would end its run
    done = words(place / "ended")
    assert "e2" not in done
    written = {s["encoder"] for s in RUNS if finished(s, "sweep")}
    assert written <= set(done)
    (place / "go").touch()
    from toy_work import work
    rows = sweep(RUNS, "sweep", work=work)
    assert [r["figures"]["validation_loss"] for r in rows.values()] == [len(s["encoder"]) for s in RUNS]
    again = words(place / "ended")[len(done):]
    assert len(again) == len(set(again)) and not set(again) & written and "e2" in again
    sweep(RUNS, "sweep", work=work)
    assert len(words(place / "ended")) == len(done) + len(again)


def test_one_gpu_each_on_a_cluster(place):
    (place / "go").touch()
    from toy_work import work
    with LocalCluster(n_workers=2, threads_per_worker=2, resources={"GPU": 1}, dashboard_address="127.0.0.1:0") as cluster:
        rows = sweep(RUNS, "sweep", scheduler=cluster.scheduler_address, work=work)
    assert all("figures" in r for r in rows.values()) and sorted(words(place / "ended")) == sorted(s["encoder"] for s in RUNS)
    assert list(teachers_first(RUNS)) == list(rows)


def test_a_failure_costs_one_row(tmp_path):
    def work(settings, folder):
        if settings["encoder"] == "e1": raise InputError("no such thing", hint="try another")
        return {"validation_loss": 1}
    rows = sweep(RUNS, tmp_path, work=work)
    assert [r.get("error") for r in rows.values()] == [None, "no such thing; try another", None, None, None]
    assert not finished(RUNS[1], tmp_path)


def test_a_worker_that_dies_costs_its_row(place):
    (place / "deadly.py").write_text("import os\ndef work(settings, folder): return os._exit(1) if settings['encoder'] == 'e1' else dict(validation_loss=1)\n")
    from deadly import work
    rows = sweep(RUNS[:2], "sweep", workers=1, work=work)
    assert ["error" in r for r in sorted(rows.values(), key=lambda r: r["settings"]["encoder"])] == [False, True]


@pytest.mark.parametrize("theirs, ours", commands())
def test_commands_of_the_original(theirs, ours, monkeypatch):
    "Each is accepted, and means what it meant there."
    from omr.core import root
    monkeypatch.chdir(root())
    given = parse(train_music_trocr, "omr train music-trocr", shlex.split(ours)[3:])
    flags = shlex.split(theirs)[3:]
    for flag in (o for o in flags if o.startswith("--") and o != "--config"):
        value = flags[flags.index(flag) + 1] if flag != "--strip-non-pitch" else True
        assert str(given[flag[2:].replace("-", "_")]) == str(value)


def test_the_plan():
    plan = benchmark({"seed": 0}, "256")
    assert len({key_of(s) for s in plan.values()}) == 25 and {e for e, _ in plan} == set(SEVEN)
    assert plan["mobilevit-small", "distilled"]["teacher"] == plan["deit-small", "full"]
    rows = {key_of(s): {"settings": s, "figures": {"validation_loss": 9 - i}} for i, s in enumerate(plan.values())}
    rows[key_of(plan["deit-small", "proportions kept"])] = {"settings": {}, "error": "x"}
    best = more_seeds(plan, rows, 2, 3)
    assert [(s.get("blind"), s.get("teacher") is not None, s["seed"]) for s in best] == [(True, False, 1), (True, False, 2), (None, True, 1), (None, True, 2)]


def test_means_over_seeds():
    rows = [{"figures": {"ser": x, "ser_low": x - .1, "ser_high": x + .1, "convention": "legato"}} for x in (.2, .4)]
    assert round(over_seeds(rows[:1])["ser_high"], 9) == .3
    line = over_seeds(rows)
    assert (round(line["ser"], 9), line["ser_low"], line["ser_high"], line["seeds"], line["interval"]) == (.3, .2, .4, 2, "of the seeds")


def test_scheduler_that_does_not_answer():
    with pytest.raises(InputError, match="no Dask scheduler answers"): reproduce_module.reproduce(only=["backbones"], scheduler="tcp://127.0.0.1:1")


def test_scheduler_for_nothing():
    with pytest.raises(InputError, match="nothing here can be spread"): reproduce_module.reproduce(only=["staves"], scheduler="tcp://127.0.0.1:1")


def test_what_a_step_is_made_of():
    a = torch.randn(64, 64)
    assert matrix_share(lambda: a + a) == 0 and matrix_share(lambda: a @ a) > 0
