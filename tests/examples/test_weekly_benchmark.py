"""`examples/benchmarks/weekly.py`: the times of a run that continues."""

import json
import time
from pathlib import Path

import pytest
from loaded_script import loaded_script


SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "weekly.py"


@pytest.fixture
def weekly():
    with loaded_script(SCRIPT) as script:
        yield script


def test_a_run_that_continues_adds_to_its_times(weekly, tmp_path, monkeypatch):
    path, clock = tmp_path / "run" / "steps.json", iter([0, 40, 100, 103, 200, 207])
    monkeypatch.setattr(time, "process_time", lambda: next(clock))

    def interrupted():
        raise KeyboardInterrupt

    steps = weekly.Steps(path)
    with pytest.raises(KeyboardInterrupt):
        steps.run("first", interrupted)
    for _ in range(2):  # a step that has ended is not repeated
        assert weekly.Steps(path).run("first", lambda: tmp_path / "final") == tmp_path / "final"
    steps = weekly.Steps(path)
    steps.run("updated", lambda: tmp_path)
    assert steps.seconds() == {"first": 40 + 3, "updated": 7}


def test_the_time_of_a_killed_step_is_unknown(weekly, tmp_path):
    path = tmp_path / "steps.json"
    seen = []

    def work():
        seen.append(json.loads(path.read_text()))  # what a kill would leave
        return tmp_path

    weekly.Steps(path).run("first", work)
    path.write_text(json.dumps(seen[0]))
    steps = weekly.Steps(path)
    assert steps.run("first", lambda: tmp_path / "final") == tmp_path / "final"
    assert steps.seconds() == {"first": None}
