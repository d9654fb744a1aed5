"""The HTTP server: runs an application on it until a signal ends it."""

from __future__ import annotations

import socket

import uvicorn
from fastapi import FastAPI

from .addresses import explained


_KEEP_ALIVE_SECONDS = 60
"""How long a connection without a request stays open. Clients that keep connections expect about a minute."""


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
        raise explained(error, host, port) from error
    finally:
        taken.close()
