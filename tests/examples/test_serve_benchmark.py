"""The benchmark of the service runs as its users run it, and finds no lost event."""

import json
import sys
from pathlib import Path

import pytest
from processes import run_process


SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "serve.py"


@pytest.mark.slow
def test_a_killed_server_loses_and_doubles_no_event(tmp_path):
    report = tmp_path / "serve.json"
    done = run_process([sys.executable, SCRIPT, "--quick", "--only", "events", "--json", report])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "1,000 acknowledged events, kills: 1, lost: 0, doubled: 0." in done.stdout
    found = json.loads(report.read_text())["events"]
    assert (found["acknowledged"], found["kills"], found["lost"], found["doubled"]) == (1000, 1, 0, 0)
