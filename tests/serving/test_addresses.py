"""A server takes its port first, and says in one line why it cannot."""

import socket

import pytest

from patchrec_hf.serving.addresses import is_loopback, take_port


def test_a_free_port_is_taken_and_left_free_when_closed():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    take_port("127.0.0.1", port).close()
    socket.create_server(("127.0.0.1", port)).close()


def test_a_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=rf"^Port {port} of 127.0.0.1 is in use. Choose another one \(--port\)"):
            take_port("127.0.0.1", port)


def test_hosts_that_are_none():
    with pytest.raises(OSError, match="knows no host 'no such host'"):
        take_port("no such host", 0)
    with pytest.raises(OSError, match=r"no address 192\.0\.2\.1"):
        take_port("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_loopback(host, expected):
    assert is_loopback(host) is expected
