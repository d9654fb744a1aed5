"""The estimate of training's memory is near what training takes."""

import json
import sys
from pathlib import Path

import pytest
from processes import run_process


SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "memory.py"


def run(*arguments):
    return run_process([sys.executable, SCRIPT, *arguments])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say what is resident")
def test_estimates_are_near_what_is_measured(tmp_path):
    """A padded batch of twins, packed titles, packed items, and an adapter."""
    names = ["8 rows, pre-training", "6 rows of 8 targets", "64 rows, all-patch recipe", "16 rows, LoRA"]
    done = run("--settings", *names, "--output_dir", tmp_path, "--json", tmp_path / "memory.json")
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / "memory.json").read_text())["settings"]
    assert settings.keys() == set(names)
    for name, result in settings.items():
        assert 1 / 1.5 < result["ratio"] < 1.5, f"{name}: {result}"
        assert result["estimate"] == sum(result["parts"].values())
        assert f"| {name} | {result['positions']:,} | " in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say what is resident")
def test_a_setting_that_is_too_large_is_not_run(tmp_path):
    done = run("--settings", "16 rows", "--max_gib", "0.1", "--output_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| not run | – |" in done.stdout
