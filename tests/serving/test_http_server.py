"""The server runs an application on the port that it was given."""

import pytest

from patchrec_hf.serving.addresses import take_port
from patchrec_hf.serving.http_server import run_server


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


def test_a_free_port():
    with take_port("localhost", 0) as taken:
        assert taken.getsockname()[1] > 0
