import socket

import pytest

from patchrec_hf.demo.address import check_address, is_loopback


def test_a_free_port_can_be_used_and_is_left_free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    check_address("127.0.0.1", port)
    socket.create_server(("127.0.0.1", port)).close()


def test_a_port_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ValueError, match=rf"^Port {port} of 127.0.0.1 is in use\. .*`--port`\.$"):
            check_address("127.0.0.1", port)


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_a_number_that_is_no_port_is_refused(port):
    with pytest.raises(ValueError, match=f"between 1 and 65535, got {port}"):
        check_address("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(ValueError, match=r"`--host` must be .* got '192\.0\.2\.1'"):  # reserved for documentation
        check_address("192.0.2.1", 7860)


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_loopback(host, expected):
    assert is_loopback(host) is expected
