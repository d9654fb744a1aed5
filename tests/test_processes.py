"""No test depends on the machine's speed: all time limits stand in `processes.py`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import PROCESS_TIMEOUT, TEST_TIMEOUT, run_process


TESTS = Path(__file__).parent
CLOCKS = re.compile(
    r"subprocess\.(run|Popen|check_\w+|call)\(|\btimeout\b\W*[=(:]|perf_counter|monotonic|time\.time\("
)


def test_limits_stand_in_one_place():
    own = {"processes.py", "test_processes.py"}
    found = [
        f"{path.relative_to(TESTS)}: {line.strip()}"
        for path in sorted(TESTS.rglob("*.py"))
        if path.name not in own
        for line in path.read_text(encoding="utf-8").splitlines()
        if CLOCKS.search(line)
    ]
    assert not found, "Use `run_process` and the limits of tests/processes.py:\n" + "\n".join(found)
    assert "timeout =" not in (TESTS.parent / "pyproject.toml").read_text(encoding="utf-8")


def test_pytest_has_the_limit_of_a_test(pytestconfig):
    """pytest-timeout has read the limit when pytest started. Later, the environment would change nothing."""
    assert pytestconfig.pluginmanager.hasplugin("timeout")
    assert pytestconfig._env_timeout == TEST_TIMEOUT


def test_a_process_has_its_own_limit(monkeypatch):
    assert run_process([sys.executable, "-c", "print(3)"]).stdout == "3\n"
    asked = {}
    monkeypatch.setattr(subprocess, "run", lambda command, **settings: asked.update(settings))
    run_process(["true"])
    assert asked["timeout"] == PROCESS_TIMEOUT
    assert TEST_TIMEOUT > PROCESS_TIMEOUT >= 30 * 60
    monkeypatch.undo()
    with pytest.raises(subprocess.TimeoutExpired):
        run_process([sys.executable, "-c", "import time; time.sleep(3600)"], timeout=0.01)
