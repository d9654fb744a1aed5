"""The reproduction of the paper's tables, in seconds: it runs what is missing, resumes, and writes results."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent
REPRODUCE, WRITE = ROOT / "examples" / "reproduce_paper.py", ROOT / "examples" / "write_results.py"
METHODS = ["CoVisitation", "SASRec", "Vanilla", "PatchRec-I", "Vanilla (equal time)", "Fusion"]


def run(script, *arguments, cwd=ROOT):
    command = [sys.executable, script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.mark.slow
def test_table_2(tmp_path):
    settings = ["--scale", "tiny", "--table", "2", "--output_dir", tmp_path / "study"]
    done = run(REPRODUCE, *settings, "--methods", *METHODS)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "study" / "table_2" / "results.json").read_text())
    rows = {row["method"]: row for row in results["methods"]}
    assert list(rows) == METHODS
    assert [row["budget"] for row in rows.values()] == [None, None, "examples", "examples", "time", None]
    vanilla, reference, longer = (rows[name] for name in ("Vanilla", "PatchRec-I", "Vanilla (equal time)"))
    assert vanilla["examples_seen"] == reference["examples_seen"] == 320
    assert [stage["examples"] for stage in reference["stages"]] == [160, 160]
    ratio = reference["train_seconds"] / vanilla["train_seconds"]
    assert longer["examples_seen"] == round(320 * ratio)
    assert reference["history_tokens"] < vanilla["history_tokens"]
    assert rows["Vanilla"]["latency"] == 1.0
    assert rows["PatchRec-I"]["latency"] > 0
    # On what it was chosen on, the fusion is at least as good as its parts.
    best = max(rows[name]["validation"]["hr@20"][0] for name in rows["Fusion"]["settings"]["parts"])
    assert rows["Fusion"]["validation"]["hr@20"][0] >= best
    for row in rows.values():
        value, low, high = row["test"]["hr@20"]
        assert low <= value <= high
    assert "| Vanilla (equal time) | equal time |" in (tmp_path / "study" / "table_2" / "table.md").read_text()
    assert (tmp_path / "study" / "table_2" / "plot.svg").exists()

    # As if it had been stopped while it ranked: what was trained stays.
    directory = tmp_path / "study" / "methods" / "patchrec_i"
    (directory / "results.json").unlink()
    before = (directory / "finetune" / "stage.json").stat().st_mtime_ns
    again = run(REPRODUCE, *settings, "--methods", "PatchRec-I", "SASRec")
    assert again.returncode == 0, again.stderr
    assert "2 of 2: SASRec is done." in again.stdout
    assert (directory / "finetune" / "stage.json").stat().st_mtime_ns == before
    repeated = json.loads((tmp_path / "study" / "table_2" / "results.json").read_text())
    assert {row["method"]: row["test"] for row in repeated["methods"]} == {n: row["test"] for n, row in rows.items()}

    written = run(WRITE, tmp_path / "study" / "table_2", "--output", tmp_path / "page" / "results.md")
    assert written.returncode == 0, written.stderr
    page = (tmp_path / "page" / "results.md").read_text()
    assert "--scale tiny --dataset sample --table 2" in page
    for name in re.findall(r"\]\(([^)#]+\.svg)\)", page):
        assert (tmp_path / "page" / name).exists()
    assert run(WRITE, "--output", tmp_path / "page" / "results.md").returncode == 0
    assert (tmp_path / "page" / "results.md").read_text() == page  # made of what is kept, it is the same


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table", "9"], "There is no table 9"),
        ([], "exactly one of --table and --figure"),
        (["--table", "2", "--methods", "BERT4Rec"], "There is no method 'BERT4Rec'"),
        (["--table", "2", "--scale", "tiny", "--methods", "Fusion"], "needs 'PatchRec-I' and at least one baseline"),
        (["--table", "2", "--scale", "tiny", "--methods", "Vanilla (equal time)"], "to be run first"),
    ],
)
def test_mistakes_are_named(tmp_path, arguments, message):
    done = run(REPRODUCE, *arguments, "--output_dir", tmp_path)
    assert done.returncode == 1
    assert message in done.stderr


def test_the_page_of_results_is_what_the_command_writes(tmp_path):
    """Nothing in docs/results.md is typed by hand."""
    kept = ROOT / "docs" / "results"
    folders = []
    for path in sorted(kept.glob("*/results.json")):
        values = json.loads(path.read_text())
        folder = tmp_path / path.parent.name / values["title"].lower().replace(" ", "_")
        folder.mkdir(parents=True)
        (folder / "results.json").write_bytes(path.read_bytes())
        folders.append(folder)
    done = run(WRITE, *folders, "--output", tmp_path / "results.md")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results.md").read_text() == (ROOT / "docs" / "results.md").read_text()
