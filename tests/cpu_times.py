"""
The option `--cpu-times`: prints the CPU seconds of the tests, and which tests belong to the slow ones.

The times that `--durations` prints also hold what other processes take from the machine; these do not.
"""

import os

import pytest


LIMIT = 2.0
"""CPU seconds above which a test is marked `slow`."""
_SECONDS = pytest.StashKey[dict[str, float]]()


def cpu_seconds():
    """Returns the CPU seconds of this process, and of all processes that it has started and waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def pytest_addoption(parser):
    parser.addoption("--cpu-times", action="store_true", help="print CPU seconds, and tests that should be slow")


def pytest_configure(config):
    config.stash[_SECONDS] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    before = cpu_seconds()
    result = yield
    item.config.stash[_SECONDS][item.nodeid] = cpu_seconds() - before
    if item.get_closest_marker("slow"):
        del item.config.stash[_SECONDS][item.nodeid]
    return result


def pytest_terminal_summary(terminalreporter, config):
    if not config.getoption("--cpu-times"):
        return
    seconds = config.stash[_SECONDS]
    terminalreporter.section("CPU seconds of the tests that are not marked slow")
    terminalreporter.line(f"{sum(seconds.values()):.1f} in {len(seconds)} tests, of {cpu_seconds():.1f} in all")
    files = {name.split("::")[0] for name in seconds}
    sums = {file: sum(time for name, time in seconds.items() if name.split("::")[0] == file) for file in files}
    for file, time in sorted(sums.items(), key=lambda pair: -pair[1])[:10]:
        terminalreporter.line(f"{time:8.1f}  {file}")
    for name, time in sorted(seconds.items(), key=lambda pair: -pair[1]):
        if time > LIMIT:
            terminalreporter.line(f"{time:8.1f}  {name}: mark it slow")
