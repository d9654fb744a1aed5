"""The notebook of the manual runs, and holds the outputs of its own code."""

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
from processes import run_process


DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("nbclient", reason="the extra `docs` is not installed")
    return import_module("execute_notebook")


@pytest.fixture(scope="module")
def notebook(script):
    return script.nbformat.read(script.NOTEBOOK, as_version=4)


def test_outputs_are_of_the_code(script, notebook):
    assert notebook.metadata.executed_code == script.digest(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_outputs_are_small_and_clean(script, notebook):
    assert script.NOTEBOOK.stat().st_size < 200_000
    kinds = [kind for cell in script.kinds(notebook) for kind in cell]
    assert sum("image/png" in kind for kind in kinds) == 1
    assert "stderr" not in kinds
    text = re.sub(r'"image/png": "[^"]*"', "", script.NOTEBOOK.read_text(encoding="utf-8"))
    assert not re.search(r"/(?:home|root|tmp|usr|Users)/|site-packages|\d{4}-\d\d-\d\d \d\d:\d\d", text)


def test_texts_are_joined_and_cleaned(script):
    stream = script.nbformat.v4.new_output
    outputs = [
        stream("stream", name="stdout", text="[2026-01-01 10:00:00,1] [WARNING] a machine\none\n"),
        stream("stream", name="stderr", text="a warning\n"),
        stream("stream", name="stdout", text="two\n"),
        stream("execute_result", data={"text/plain": "3"}),
        stream("stream", name="stdout", text="[2026-01-01 10:00:00,1] a machine\n"),
    ]
    kept = script.cleaned(outputs)
    assert [output.get("text") for output in kept] == ["one\ntwo\n", None]


def test_code_that_has_changed_is_found(script, notebook):
    changed = script.nbformat.from_dict(notebook)
    before = script.digest(changed)
    next(cell for cell in changed.cells if cell.cell_type == "code").source += "\n1"
    assert script.digest(changed) != before
    kept = script.digest(changed)
    next(cell for cell in changed.cells if cell.cell_type == "markdown").source += "More."
    assert script.digest(changed) == kept


@pytest.mark.slow
def test_the_notebook_runs(script):
    done = run_process([sys.executable, DOCS / "execute_notebook.py", "--check"])
    assert done.returncode == 0, done.stderr[-3000:]
