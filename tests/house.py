"""What the suite knows of the notebooks: which are experiments, and which cells it may skip. Both lists stand here and nowhere else."""
import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"

# Notebooks that papermill runs with parameters: exactly one cell tagged `parameters` each.
EXPERIMENTS = {"1_scores/06d_scores.ipynb", *(f"2_reading/{o}.ipynb" for o in (
    "09b_staves", "09c_decoders", "09e_throughput", "10c_consistency", "11e_cache", "12_backbones", "13c_page_experiment", "14b_speed", "14c_export",
    "14e_readers", "14h_books_measured")),
    *(f"3_listening/{o}.ipynb" for o in ("16b_spectra_speed", "18b_variants", "19c_hearing_speed", "19d_augmentation", "19e_published", "20c_listeners")),
    *(f"4_matching/{o}.ipynb" for o in ("23b_towers", "24a_matchers", "24b_matcher_sweep", "25d_index_speed"))}

# "notebook: reason: first line of the cell" for all that a run of the suite passes over. Each one is a decision.
SKIPPED = []

FLAGS = {"notest", "slow", "cuda"}  # tst_flags in settings.ini
SKIP_TAGS = {"nbval-skip", "skip-execution"}
CITED = "nbval-check-output"
NBDEV = {"default_exp", "export", "exporti", "exports", "hide", "hide_line", "exec_doc", "filter_stream"}
QUARTO = set("eval echo output include warning error code-fold code-summary label fig-cap fig-alt tbl-cap column layout-ncol".split())
_directive = re.compile(r"\s*#\s*\|\s*(\S.*)?")


def notebooks(everything=False):
    "Paths of the notebooks that nbdev sees; `everything` adds those that it passes over without a word."
    found = sorted(o for o in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in o.parts)
    return found if everything else [o for o in found if not _hidden(o)]


def _hidden(path): return any(o[0] in "_." for o in path.relative_to(NBS).parts) or (path.parent / ".notest").exists()
def name(path): return path.relative_to(NBS).as_posix()
def read(path): return nbformat.read(path, 4)
def tags(cell): return {o.lower().replace("_", "-") for o in cell.metadata.get("tags", [])}
def code(nb): return [o for o in nb.cells if o.cell_type == "code" and o.source.strip()]


def directives(cell):
    "What stands behind `#|` in the lines that nbdev reads: those above the first line of code."
    found = []
    for line in cell.source.splitlines():
        if match := _directive.match(line): found.append((match.group(1) or "").strip())
        elif line.strip() and not line.startswith("%%"): break
    return found


def misplaced(cell):
    "Lines that look like directives but stand where nbdev does not read, or lack the bar."
    lines = [o for o in cell.source.splitlines() if _directive.match(o)][len(directives(cell)):]
    return lines + re.findall(r"(?m)^#\s*(?:default_exp|exporti?|exports|hide|slow|cuda|notest)\b *(?:$|[\w.]+$)", cell.source)


def word(directive): return re.split(r"[:\s]", directive)[0]


def skipped(path):
    "What the suite does not run of one notebook, as entries of `SKIPPED`."
    if _hidden(path): return [f"{name(path)}: hidden from nbdev: whole notebook"]
    nb, found = read(path), []
    if re.search(r"(?m)^\s*skip_exec:\s*true", "\n".join(o.source for o in nb.cells if o.cell_type in ("raw", "markdown")), re.I):
        found.append(f"{name(path)}: skip_exec: whole notebook")
    for cell in code(nb):
        flags = [word(o) for o in directives(cell) if word(o) in FLAGS]
        off = [o for o in directives(cell) if re.fullmatch(r"eval:\s*false", o, re.I)]
        for reason in [*flags, *off, *(tags(cell) & SKIP_TAGS)]: found.append(f"{name(path)}: {reason}: {_first(cell)}")
    return found


def _first(cell): return next((o for o in cell.source.splitlines() if o.strip() and not _directive.match(o)), "")


def all_skipped(): return sorted(entry for path in notebooks(everything=True) for entry in skipped(path))
def cited(path): return any(CITED in tags(o) for o in code(read(path)))
