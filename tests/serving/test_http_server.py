"""The server takes its port first, and says in one line why it cannot."""

import socket

import pytest

from patchrec_hf.serving.http_server import run_server, take_port


def test_a_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=rf"^Port {port} of 127.0.0.1 is in use. Choose another one \(--port\)"):
            take_port("127.0.0.1", port)


def test_a_port_that_is_taken_while_the_checkpoint_is_loaded():
    with take_port("127.0.0.1", 0) as mine:
        port = mine.getsockname()[1]
        with take_port("127.0.0.1", port) as other:  # neither of both listens yet
            other.listen()
            with pytest.raises(OSError, match=f"Port {port} of 127.0.0.1 is in use"):
                run_server(nothing, mine, log_level="critical")


async def nothing(scope, receive, send):
    message = await receive()
    while message["type"] != "lifespan.shutdown":
        await send({"type": f"{message['type']}.complete"})
        message = await receive()
    await send({"type": "lifespan.shutdown.complete"})


def test_hosts_that_are_none():
    with pytest.raises(OSError, match="knows no host 'no such host'"):
        take_port("no such host", 0)
    with pytest.raises(OSError, match=r"no address 192\.0\.2\.1"):
        take_port("192.0.2.1", 0)


def test_a_free_port():
    with take_port("localhost", 0) as taken:
        assert taken.getsockname()[1] > 0
