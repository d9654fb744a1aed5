"""
The option `--cpu-times`: prints the CPU seconds of the tests, and which tests belong to the slow ones.

The times that `--durations` prints also hold what other processes take from the machine; these do not. With
pytest-xdist, the workers measure, and the process that started them prints.
"""

import os
import time

import pytest


LIMIT = 0.5
"""CPU seconds above which a test is marked `slow`."""
BUDGET = 200.0
"""CPU seconds that the fast tier may take in all with two workers, so that it ends in two minutes on two cores."""
_START = pytest.StashKey[float]()


def cpu_seconds():
    """Returns the CPU seconds of this process, and of all processes that it has started and waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def pytest_addoption(parser):
    parser.addoption("--cpu-times", action="store_true", help="print CPU seconds, and tests that should be slow")


def pytest_configure(config):
    if config.getoption("--cpu-times"):
        config.pluginmanager.register(CPUTimes())


class CPUTimes:
    """Measures the tests that are not marked `slow`, and prints a summary."""

    def __init__(self):
        self.seconds = {}
        self.workers = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        item.stash[_START] = cpu_seconds()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        if call.when == "teardown" and not item.get_closest_marker("slow"):
            report.user_properties.append(("cpu_seconds", cpu_seconds() - item.stash[_START]))
        return report

    def pytest_runtest_logreport(self, report):
        self.seconds.update((report.nodeid, value) for key, value in report.user_properties if key == "cpu_seconds")

    def pytest_sessionfinish(self, session):
        if "PYTEST_XDIST_WORKER" in os.environ:  # a worker, which tells this to the process that started it
            session.config.workeroutput["cpu_seconds"] = cpu_seconds()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node, error):
        if error is None:
            self.workers.append(node.workeroutput["cpu_seconds"])

    def pytest_terminal_summary(self, terminalreporter):
        seconds, line = self.seconds, terminalreporter.line
        in_all = time.process_time() + sum(self.workers) if self.workers else cpu_seconds()
        terminalreporter.section("CPU seconds of the tests that are not marked slow")
        line(f"{sum(seconds.values()):.1f} in {len(seconds)} tests, of {in_all:.1f} in all")
        line(f"The fast tier may take {BUDGET:.0f} in all with two workers.")
        files = {name.split("::")[0] for name in seconds}
        sums = {file: sum(taken for name, taken in seconds.items() if name.split("::")[0] == file) for file in files}
        for file, taken in sorted(sums.items(), key=lambda pair: -pair[1])[:10]:
            line(f"{taken:8.1f}  {file}")
        for name, taken in sorted(seconds.items(), key=lambda pair: -pair[1]):
            if taken > LIMIT:
                line(f"{taken:8.1f}  {name}: mark it slow")
