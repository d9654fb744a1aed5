"""The example runs as its users run it: from the command line, interrupted and repeated."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest


SCRIPT = Path(__file__).parent.parent / "examples" / "train_goodreads.py"


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_train_goodreads(tmp_path):
    settings = [
        "--output_dir", str(tmp_path / "run"), "--max_steps", "4", "--per_device_train_batch_size", "4",
        "--max_history", "8", "--max_test_rows", "12", "--save_steps", "2",
    ]  # fmt: skip
    first = run(*settings)
    assert first.returncode == 0, first.stderr
    assert "synthetic" in first.stdout
    assert "| PatchRec " in first.stdout
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [row["method"] for row in results] == ["popularity", "vanilla", "PatchRec"]

    # As if it had been stopped during the last stage: the finished stages are not trained again.
    (tmp_path / "run" / "results.json").unlink()
    (tmp_path / "run" / "finetune" / "final").rename(tmp_path / "moved")
    resumed = run(*settings)
    assert resumed.returncode == 0, resumed.stderr
    assert "== finetune ==" in resumed.stdout
    assert "== vanilla ==" not in resumed.stdout
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results


def test_readme_is_filled_in():
    text = (SCRIPT.parent.parent / "README.md").read_text(encoding="utf-8")
    assert "@@" not in text
    for name in re.findall(r"\]\(([^)#]+)\)", text):
        assert name.startswith("http") or (SCRIPT.parent.parent / name).exists(), name
