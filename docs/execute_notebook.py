"""
Executes the notebook of the manual, and keeps its outputs in the file.

    python docs/execute_notebook.py           # executes and writes
    python docs/execute_notebook.py --check   # executes, and fails if a cell fails, or the file is not up to date

Numbers in outputs differ a little from machine to machine, so `--check` compares the kinds of outputs, and whether the
outputs in the file come from the code that is in the file.
"""

import argparse
import hashlib
import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode


NOTEBOOK = Path(__file__).parent / "first_recommendations.ipynb"
# Nothing on this machine takes so long; a kernel that hangs is ended.
CELL_TIMEOUT = 30 * 60
_LOG_LINE = re.compile(r"^\[\d{4}-\d\d-\d\d .*\n", re.MULTILINE)


def digest(notebook: NotebookNode) -> str:
    """Returns a digest of all code cells."""
    code = "\n\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def execute(notebook: NotebookNode) -> NotebookNode:
    """
    Executes a copy of a notebook in a temporary directory.

    Returns:
        `NotebookNode`: the copy with new outputs, without anything that tells of the machine or the time.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    executed = nbformat.from_dict(notebook)
    with tempfile.TemporaryDirectory() as directory:
        client = NotebookClient(
            executed, timeout=CELL_TIMEOUT, record_timing=False, resources={"metadata": {"path": directory}}
        )
        client.execute()
    executed.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "executed_code": digest(executed),
        }
    )
    for cell in executed.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.outputs = cleaned(cell.outputs)
    return executed


def cleaned(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """
    Joins texts that a cell has printed one after the other, which come in pieces that depend on the machine. Leaves
    out stderr and lines with the time, by which libraries such as DeepSpeed tell what they find on the machine.
    """
    joined: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream":
            if output.name == "stderr":
                continue
            output.text = _LOG_LINE.sub("", output.text)
            if not output.text:
                continue
        if joined and output.output_type == joined[-1].output_type == "stream" and output.name == joined[-1].name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def kinds(notebook: NotebookNode) -> list[list[str]]:
    """Returns, for each code cell, the kinds of its outputs: streams by name, and data by its types."""
    return [
        [output.get("name") or ", ".join(sorted(output.get("data", {}))) for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    if check and notebook.metadata.get("executed_code") != digest(notebook):
        raise SystemExit(f"The outputs in {NOTEBOOK.name} are of other code. Run `python docs/execute_notebook.py`.")
    executed = execute(notebook)
    if not check:
        nbformat.write(executed, NOTEBOOK)
    elif kinds(executed) != kinds(notebook):
        raise SystemExit(
            f"{NOTEBOOK.name} holds outputs of the kinds {kinds(notebook)}, but its cells give {kinds(executed)}. Run "
            "`python docs/execute_notebook.py`, and read what has changed."
        )


if __name__ == "__main__":
    main()
