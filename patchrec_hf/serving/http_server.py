"""The HTTP server: takes the port, and runs an application on it until a signal ends it."""

from __future__ import annotations

import errno
import socket

import uvicorn
from fastapi import FastAPI


_KEEP_ALIVE_SECONDS = 60
"""How long a connection without a request stays open. Clients that keep connections expect about a minute."""


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
        raise _explained(error, host, port) from error
    return taken


def _explained(error: OSError, host: str, port: int) -> OSError:
    why = {
        errno.EADDRINUSE: f"Port {port} of {host} is in use. Choose another one (--port), or 0 for any free one",
        errno.EACCES: f"Port {port} of {host} is not allowed for you. Choose one above 1023 (--port)",
        errno.EADDRNOTAVAIL: f"This machine has no address {host}. Choose one of its own (--host)",
    }.get(error.errno or 0)
    return OSError(f"{why}." if why else f"Port {port} of {host} cannot be taken: {error}.")


def run_server(
    app: FastAPI, taken: socket.socket, log_level: str = "info", access_log: bool = False, grace_seconds: int = 60
) -> None:
    """
    Runs an application until SIGINT or SIGTERM. Then it takes no further connections, answers the requests that it
    has, and returns.

    Args:
        app (`fastapi.FastAPI`):
            The application.
        taken (`socket.socket`):
            As [`take_port`] returns it.
        log_level (`str`, *optional*, defaults to `"info"`):
            From which level on uvicorn logs.
        access_log (`bool`, *optional*, defaults to `False`):
            Whether each request is logged.
        grace_seconds (`int`, *optional*, defaults to `60`):
            How long the requests that it has may take after the signal.

    Raises:
        OSError: If another process listens on the port meanwhile.
    """
    host, port = taken.getsockname()[:2]
    config = uvicorn.Config(
        app,
        log_level=log_level,
        access_log=access_log,
        server_header=False,
        timeout_graceful_shutdown=grace_seconds,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )
    try:
        uvicorn.Server(config).run(sockets=[taken])
    except OSError as error:
        raise _explained(error, host, port) from error
    finally:
        taken.close()
