"""The suite: every notebook as a test, cited outputs compared, then pytest; says at the end how long each notebook took. `make test` runs it."""
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import house
import nbformat

WORKERS = 2
COPIES = house.ROOT / "executed" / "nbval"


def environment(cache):
    "Offline, without a GPU, one thread per process since two run at a time, a cache of its own, exercises checked."
    here = {"OMR_SUITE": "1", "OMR_OFFLINE": "1", "OMR_CACHE": cache, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYDEVD_DISABLE_FILE_VALIDATION": "1", "COLUMNS": "120"}
    path = os.pathsep.join(filter(None, [str(house.ROOT / "tests" / "guard"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, **here, "PYTHONPATH": path, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


def contents():
    "Digest of each file that a run of the suite has no business with; the suite must leave all of them as they were."
    files = [o for folder in ("nbs", "omr", "results", "figures") for o in (house.ROOT / folder).rglob("*") if o.is_file()]
    left = {"__pycache__", ".ipynb_checkpoints", ".hypothesis"}
    return {str(o.relative_to(house.ROOT)): hashlib.sha256(o.read_bytes()).hexdigest() for o in files if not left & set(o.parts) and o.name != ".last_checked"}


def unchanged(before):
    "Whether the files are still those of `before`; names the others."
    after = contents()
    changed = sorted(o for o in before | after if before.get(o) != after.get(o))
    print("as they were" if not changed else f"the suite changed {', '.join(changed)}")
    return not changed, {}


def run(command, env, keep=False):
    "Run `command` in the repository's root, shown as it goes; (whether it passed, what it said when `keep`)."
    with subprocess.Popen(command, cwd=house.ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if not keep: print(line, end="", flush=True)
    return process.returncode == 0, "".join(lines)


def as_tests(env):
    "nbdev_test over all notebooks: (passed, {notebook: seconds})."
    passed, said = run(["nbdev_test", "--n_workers", str(WORKERS), "--timing", "--do_print"], env)
    seconds = {house.name(o): float(s) for file, s in re.findall(r"(?m)^(\S+\.ipynb): (\d+) secs$", said) for o in house.notebooks() if o.name == file}
    return passed, seconds


def numbered(path):
    "A copy with the cells counted 1..n: nbdev_clean takes the counts away, and without them nbval fails every cell that has an output."
    nb, copy = house.read(path), COPIES / house.name(path)
    for i, cell in enumerate((o for o in nb.cells if o.cell_type == "code"), 1):
        cell.execution_count = i
        # nbval reads NBVAL_CHECK_OUTPUT in a comment, but only its lower-case form in a tag, and says nothing about the other.
        cell.metadata.tags = sorted(house.tags(cell))
        for output in cell.outputs:
            if output.output_type == "execute_result": output.execution_count = i
    copy.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, copy)
    return copy


def compared(path, env):
    "nbval on a copy of one notebook: the outputs of the cells tagged NBVAL_CHECK_OUTPUT must come out again."
    start = time.time()
    # IN_TEST makes nbdev_export, a chapter's last line, do nothing: a copy must not write the package.
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-cell-timeout=600", str(numbered(path))]
    passed, said = run(command, {**env, "IN_TEST": "1"}, keep=True)
    print(f"{house.name(path)}: {'as cited' if passed else said}", flush=True)
    return passed, time.time() - start


def compare_all(env):
    "`compared` over the notebooks that cite an output: (passed, {notebook: seconds})."
    shutil.rmtree(COPIES, ignore_errors=True)
    files = [o for o in house.notebooks() if house.cited(o)]
    with ThreadPoolExecutor(WORKERS) as pool: results = list(pool.map(lambda o: compared(o, env), files))
    return all(o for o, _ in results), {house.name(f): s for f, (_, s) in zip(files, results)}


def report(tests, comparisons, stages, total):
    "One line for each notebook, slowest last, then what was skipped and how each stage ended."
    print(f"\n{'notebook':44} {'test [s]':>9} {'outputs [s]':>12}")
    for o in sorted(map(house.name, house.notebooks()), key=lambda o: tests.get(o, 0) + comparisons.get(o, 0)):
        print(f"{o:44} {_cell(tests, o):>9} {_cell(comparisons, o):>12}")
    skips = house.all_skipped()
    print(f"\nskipped cells: {len(skips)}", *skips, sep="\n  ")
    for stage, (passed, seconds) in stages.items(): print(f"{stage:12} {'passed' if passed else 'FAILED':7} {seconds:6.0f} s")
    print(f"{'all':12} {'passed' if all(o for o, _ in stages.values()) else 'FAILED':7} {total:6.0f} s")


def _cell(seconds, o): return f"{seconds[o]:.0f}" if o in seconds else "-"


def main():
    start, stages, before = time.time(), {}, contents()

    def stage(title, run_it):
        print(f"\n== {title}", flush=True)
        begun = time.time()
        passed, seconds = run_it()
        stages[title] = passed, time.time() - begun
        return seconds

    with tempfile.TemporaryDirectory(prefix="omr-suite-") as cache:
        env = environment(cache)
        tests = stage("nbdev_test", lambda: as_tests(env))
        comparisons = stage("nbval", lambda: compare_all(env))
        stage("pytest", lambda: (run([sys.executable, "-m", "pytest", "tests"], env)[0], {}))
        stage("files", lambda: unchanged(before))
    report(tests, comparisons, stages, time.time() - start)
    return 0 if all(o for o, _ in stages.values()) else 1


if __name__ == "__main__": sys.exit(main())
