"From a clone in an empty folder to the first MIDI file: how long does it take? `make first-midi` writes results/first_midi-smoke.json."
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from omr.core import root
from omr.results import metric, record


def run(*words, cwd):
    subprocess.run(words, cwd=cwd, check=True, stdout=sys.stderr)


def first_midi(folder):
    "Clone, install, read; seconds."
    started, clone = time.time(), Path(folder) / "omr"
    run("git", "clone", "-q", root(), clone, cwd=folder)
    run("make", "install", cwd=clone)
    run(".venv/bin/omr", "read", "figures/staff.png", "-o", folder, cwd=clone)
    assert (Path(folder) / "staff.mid").read_bytes().startswith(b"MThd")
    return time.time() - started


if __name__ == "__main__":
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        seconds = first_midi(folder)
    record("first_midi", {"first_midi": metric(seconds, "tests.first_midi.first_midi", "s")}, {"profile": "smoke", "seed": None}, started)
    print(f"{seconds:.0f} s from clone to MIDI")
