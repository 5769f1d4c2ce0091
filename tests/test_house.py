"""The helpers of the guards, on notebooks made for the purpose: a guard that cannot fail guards nothing."""
import os

import house
import nbformat
import pytest
import run
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output


@pytest.mark.parametrize("source, found, lost", [
    ("#| export\nx = 1", ["export"], []),
    ("#|export", ["export"], []),
    ("#| exprot\nx = 1", ["exprot"], []),
    ("# why\n#| export\nx = 1", [], ["#| export"]),
    ("x = 1\n#| hide", [], ["#| hide"]),
    ("# export\nx = 1", [], ["# export"]),
    ("# hide the staff lines\nx = 1", [], []),
    ("#| code-fold: true\n#| eval: false\nx = 1", ["code-fold: true", "eval: false"], []),
])
def test_directives(source, found, lost):
    cell = new_code_cell(source)
    assert (house.directives(cell), house.misplaced(cell)) == (found, lost)


@pytest.fixture
def nbs(tmp_path, monkeypatch):
    monkeypatch.setattr(house, "NBS", tmp_path)

    def put(name, *cells):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(new_notebook(cells=list(cells)), path)
        return path

    return put


@pytest.mark.parametrize("name, cell, entry", [
    ("a.ipynb", new_code_cell("#| slow\ntrain()"), "a.ipynb: slow: train()"),
    ("a.ipynb", new_code_cell("#| eval: false\ntrain()"), "a.ipynb: eval: false: train()"),
    ("a.ipynb", new_code_cell("train()", metadata={"tags": ["NBVAL_SKIP"]}), "a.ipynb: nbval-skip: train()"),
    ("a.ipynb", new_markdown_cell("---\nskip_exec: true\n---"), "a.ipynb: skip_exec: whole notebook"),
    ("_a.ipynb", new_code_cell("train()"), "_a.ipynb: hidden from nbdev: whole notebook"),
    ("_old/a.ipynb", new_code_cell("train()"), "_old/a.ipynb: hidden from nbdev: whole notebook"),
])
def test_skips_are_seen(nbs, name, cell, entry):
    nbs(name, cell)
    assert house.all_skipped() == [entry]


def test_what_runs_is_not_skipped(nbs):
    nbs("a.ipynb", new_code_cell("#| export\ntrain()"), new_code_cell("#| eval: true\ntrain()"))
    assert house.all_skipped() == []


@pytest.mark.parametrize("value, same", [("2", True), ("3", False)])
def test_cited_outputs_are_compared(nbs, tmp_path, monkeypatch, value, same):
    "As nbdev_clean leaves them: without execution counts."
    monkeypatch.setattr(run, "COPIES", tmp_path / "copies")
    output = new_output("execute_result", {"text/plain": value})
    path = nbs("a.ipynb", new_code_cell("1 + 1", outputs=[output], metadata={"tags": ["NBVAL_CHECK_OUTPUT"]}), new_code_cell("1 + 1", outputs=[output]))
    assert house.cited(path)
    assert run.compared(path, dict(os.environ))[0] is same
