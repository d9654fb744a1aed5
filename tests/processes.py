"""Processes that tests start, and the time limits of the tests. Only a test that hangs reaches a limit."""

import subprocess


PROCESS_TIMEOUT = 30 * 60  # seconds, for each process that a test starts
TEST_TIMEOUT = 4 * PROCESS_TIMEOUT  # for a whole test, which may start several processes


def run_process(command, **settings):
    """Runs a command to its end, as `subprocess.run` does, and returns what it printed."""
    settings = {"check": False, "timeout": PROCESS_TIMEOUT, **settings}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, **settings)


def start_process(command, **settings):
    """Starts a command that runs beside the test, as `subprocess.Popen` does. The test ends it."""
    return subprocess.Popen(list(map(str, command)), text=True, **settings)
