"""Plain `pytest tests` runs under the same conditions as `make test`: offline, no GPU, a cache of its own."""
import os
import runpy
import tempfile

import run

if "OMR_SUITE" not in os.environ:
    cache = tempfile.TemporaryDirectory(prefix="omr-suite-")
    os.environ.update(run.environment(cache.name))
    runpy.run_path(run.house.ROOT / "tests" / "guard" / "sitecustomize.py")
