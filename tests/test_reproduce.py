"""`omr reproduce` on two tiny experiments in a folder of their own: killed and resumed, refused, compared."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import house
import nbformat
import pytest

from omr import reproduce, results
from omr.core import InputError

OMR = Path(sys.executable).with_name("omr")
PARAMETERS = "profile = 'check'\nseed = 0\n"
RECORD = "from omr.results import metric, record\nimport time\nrecord('{name}', dict(x=metric(1, 'f', 's')), dict(profile=profile, seed=seed), time.time())\n"
LOG = "from pathlib import Path\nwith Path('{name}.log').open('a') as f: f.write(f'{{profile}} {{seed}}\\n')\n"
WAIT = "import os, time\nPath('pid').write_text(str(os.getpid()))\nwhile not Path('go').exists(): time.sleep(0.1)\n"


def notebook(path, *cells, tags=("parameters",)):
    "An experiment: the first cell is the one with the parameters."
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(o) for o in cells])
    nb.cells[0].metadata.tags = list(tags)
    nb.metadata = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    nbformat.write(nb, path)


def experiment(nbs, file, *cells, **how):
    "A tiny experiment that logs its runs and writes a record."
    name = reproduce.experiment_name(file)
    notebook(nbs / file, PARAMETERS, LOG.format(name=name), *cells, RECORD.format(name=name), **how)


@pytest.fixture
def place(tmp_path, monkeypatch):
    "An empty repository."
    (tmp_path / "settings.ini").touch()
    (tmp_path / "omr").symlink_to(house.ROOT / "omr")
    (tmp_path / "nbs").mkdir()
    (tmp_path / "README.md").write_text("# x\n<!-- results:begin -->\n<!-- results:end -->\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def until(condition, seconds=60):
    "Wait for something."
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "took too long"
        time.sleep(0.05)


def runs(place, name): return (place / f"{name}.log").read_text().splitlines()


def alive(pid):
    try: os.kill(pid, 0)
    except ProcessLookupError: return False
    return True


def test_killed_and_resumed(place):
    experiment(place / "nbs", "01_quick.ipynb")
    experiment(place / "nbs", "02_slow.ipynb", WAIT)
    with subprocess.Popen([OMR, "reproduce", "-p", "seed", "3"], stderr=subprocess.DEVNULL) as process:
        until(lambda: (place / "pid").exists() and (place / "pid").read_text())
        process.send_signal(signal.SIGKILL)
    assert (place / "executed" / "01_quick-smoke.ipynb").exists()
    assert not (place / "executed" / "02_slow-smoke.ipynb").exists() and not (place / "results" / "slow-smoke.json").exists()
    until(lambda: not alive(int((place / "pid").read_text())), 20)  # the killed one's notebook does not go on by itself
    (place / "go").touch()
    done = subprocess.run([OMR, "reproduce", "-p", "seed", "3"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "100%" in done.stderr and "| system | data |" in done.stdout
    assert runs(place, "quick") == ["smoke 3"] and runs(place, "slow") == ["smoke 3", "smoke 3"]
    assert json.loads((place / "results" / "slow-smoke.json").read_text())["parameters"] == {"profile": "smoke", "seed": 3}
    assert results.update_readme(check=True) is False


def test_what_changed_runs_again(place):
    experiment(place / "nbs", "01_quick.ipynb")
    for parameters in (None, None, {"seed": 5}): assert reproduce.reproduce(parameters=parameters) == 0
    assert runs(place, "quick") == ["smoke 0", "smoke 5"]
    experiment(place / "nbs", "01_quick.ipynb", "1+1")
    assert reproduce.reproduce(parameters={"seed": 5}) == 0
    (place / "executed" / "01_quick-smoke.ipynb").unlink()
    assert reproduce.reproduce(parameters={"seed": 5}) == 0
    assert len(runs(place, "quick")) == 4


def test_unknown_parameter_is_refused(place):
    experiment(place / "nbs", "01_quick.ipynb")
    done = subprocess.run([OMR, "reproduce", "-p", "sede", "3"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "01_quick.ipynb: unknown parameter 'sede'; did you mean 'seed'?" in done.stderr
    assert not (place / "executed").exists() and not (place / "quick.log").exists()


def test_lost_tag_is_refused(place):
    experiment(place / "nbs", "09b_staves.ipynb", tags=())
    with pytest.raises(InputError, match="09b_staves.ipynb: has 0 cells tagged 'parameters'"): reproduce.reproduce()


def test_lost_tag_is_seen_after_the_run(place):
    "papermill alone says nothing: it puts the values on top, the defaults win, and it exits with 0."
    experiment(place / "nbs", "01_quick.ipynb", tags=())
    path = place / "nbs" / "01_quick.ipynb"
    code = PARAMETERS.replace("check", "laptop")
    notebook(path, code, RECORD.format(name="quick"), tags=())
    nb = reproduce.execute(path, {"profile": "smoke"}, place / "executed" / "x.ipynb")
    os.rename(place / "results" / "quick-laptop.json", place / "results" / "quick-smoke.json")
    with pytest.raises(InputError, match="was given profile='smoke' but used 'laptop'"): reproduce.stamp(path, nb, "0" * 16, None)


def test_overridden_parameter_and_failing_notebook(place, capsys):
    "Both are told, the third experiment still runs, and neither counts as complete."
    experiment(place / "nbs", "01_overrides.ipynb", "seed = 7")
    experiment(place / "nbs", "02_breaks.ipynb", "raise ValueError('no ink')")
    experiment(place / "nbs", "03_quick.ipynb")
    assert reproduce.reproduce(parameters={"seed": 3}) == 1
    err = capsys.readouterr().err
    assert "overrides failed" in err and "was given seed=3 but used 7" in err and "breaks failed: ValueError: no ink" in err
    assert [o.name for o in (place / "executed").glob("*.ipynb")] == ["03_quick-smoke.ipynb"]


def test_notebook_without_a_record(place, capsys):
    notebook(place / "nbs" / "01_silent.ipynb", PARAMETERS, "1+1")
    assert reproduce.reproduce() == 1
    assert "wrote no record silent-smoke.json" in capsys.readouterr().err


def test_plain_papermill(place):
    experiment(place / "nbs", "01_quick.ipynb")
    papermill = Path(sys.executable).with_name("papermill")
    subprocess.run([papermill, "nbs/01_quick.ipynb", "out.ipynb", "-p", "profile", "smoke"], check=True, capture_output=True)
    assert (place / "results" / "quick-smoke.json").exists() and "run" not in json.loads((place / "results" / "quick-smoke.json").read_text())


def test_stale_table(place):
    assert results.update_readme() is True
    experiment(place / "nbs", "01_staves.ipynb")
    text = Path("README.md").read_text()
    Path("README.md").write_text(text.replace("5.1 / 13.1", "5.0 / 13.1"))
    done = subprocess.run([OMR, "results", "--check"], capture_output=True, text=True)
    assert done.returncode == 2 and "README.md: its table of results is not the current one" in done.stderr
    assert Path("README.md").read_text() != text


def test_readme_of_this_repository():
    "The table on the first page is the one that results/ makes."
    assert results.update_readme(house.ROOT / "README.md", house.ROOT / "results", check=True) is False
