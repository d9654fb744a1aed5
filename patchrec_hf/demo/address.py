"""The address of the page: checks that a host and a port can be used, before anything is loaded."""

from __future__ import annotations

import errno
import ipaddress
import socket


def check_address(host: str, port: int) -> None:
    """
    Checks that a server can listen at an address.

    Args:
        host (`str`):
            Name or address of a network interface of this machine.
        port (`int`):
            The port.

    Raises:
        ValueError: If the port is no port, is in use or needs more rights, or the host is not one of this machine.
    """
    if not 1 <= port <= 65_535:
        raise ValueError(f"`--port` must lie between 1 and 65535, got {port}.")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            mend = "Stop the program that uses it, or choose another port by `--port`."
            raise ValueError(f"Port {port} of {host} is in use. {mend}") from None
        if error.errno == errno.EACCES:
            raise ValueError(f"Port {port} of {host} needs more rights. Choose one from 1024 on.") from None
        raise ValueError(
            f"`--host` must be a name or an address of this machine, such as 127.0.0.1, got {host!r} "
            f"({error.strerror})."
        ) from None


def is_loopback(host: str) -> bool:
    """Returns whether only this machine reaches a host, given by its name or address."""
    try:
        addresses = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in addresses)
