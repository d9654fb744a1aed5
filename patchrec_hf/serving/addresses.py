"""Addresses: takes the port of a server, before anything is loaded, and finds out who reaches it."""

from __future__ import annotations

import errno
import ipaddress
import socket


def take_port(host: str, port: int) -> socket.socket:
    """
    Takes a port, so that a wrong one is found before a checkpoint is loaded.

    Args:
        host (`str`):
            Name or address of the network interface.
        port (`int`):
            The port; 0 for any free one.

    Returns:
        `socket.socket`: bound, and not yet listening.

    Raises:
        OSError: If the port is in use or not allowed, or the machine has no such host.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind, protocol)
    except socket.gaierror as error:
        raise OSError(f"This machine knows no host {host!r} ({error.strerror}). Such as 127.0.0.1 is expected.") from (
            error
        )
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(address)
    except OSError as error:
        taken.close()
        raise explained(error, host, port) from error
    return taken


def explained(error: OSError, host: str, port: int) -> OSError:
    """Returns the error of an address that cannot be taken, with the reason and how to mend it."""
    why = {
        errno.EADDRINUSE: f"Port {port} of {host} is in use. Choose another one (--port)",
        errno.EACCES: f"Port {port} of {host} is not allowed for you. Choose one above 1023 (--port)",
        errno.EADDRNOTAVAIL: f"This machine has no address {host}. Choose one of its own (--host)",
    }.get(error.errno or 0)
    return OSError(f"{why}." if why else f"Port {port} of {host} cannot be taken: {error}.")


def is_loopback(host: str) -> bool:
    """Returns whether only this machine reaches a host, given by its name or address."""
    try:
        addresses = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in addresses)
