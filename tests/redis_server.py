"""A real Redis server on a port of its own, for tests. They skip where there is none."""

import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import pytest
from processes import start_process


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@contextmanager
def redis_server(directory):
    """The address of a server that keeps each write before it answers."""
    redis = pytest.importorskip("redis")
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no redis-server; `apt-get install redis-server` installs it")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
    durable = ["--appendonly", "yes", "--appendfsync", "always"]
    process = start_process([*command, *durable], stdout=subprocess.DEVNULL)
    url = f"redis://127.0.0.1:{port}/0"
    try:
        client = redis.Redis.from_url(url)
        while True:
            try:
                if client.info("server")["process_id"] == process.pid:  # not one of tests that run beside these
                    break
            except redis.exceptions.ConnectionError:
                assert process.poll() is None, "redis-server has ended"
                time.sleep(0.02)
        yield url
    finally:
        process.terminate()
        process.wait()
