"""Request guards: the token, the size of the body, and the measure of the time, around every request."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .error_answers import error_answer
from .service_metrics import ServiceMetrics


OPEN_PATHS = ("/health", "/docs", "/openapi.json")
"""Paths that need no token."""
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class TokenGuard:
    """
    Refuses requests without the token, before anything of them is read.

    Args:
        app (`ASGIApp`):
            The application behind it.
        token (`str`):
            The token that the header `Authorization: Bearer TOKEN` must hold.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._is_right(scope):
            await self._app(scope, receive, send)
            return
        message = "This service needs a token: send the header `Authorization: Bearer TOKEN`, with the right token."
        answer = error_answer(401, message, headers={"WWW-Authenticate": "Bearer"})
        await answer(scope, receive, send)

    def _is_right(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        # The comparison takes the same time wherever the first difference is.
        return bool(secrets.compare_digest(token.strip(), self._token)) and scheme.lower() == b"bearer"


class BodyGuard:
    """
    Reads the body of a request. It refuses a large one before more of it is read or understood, and a slow one.

    Args:
        app (`ASGIApp`):
            The application behind it.
        max_bytes (`int`):
            Largest body, in bytes.
        timeout (`float`):
            How long a body may take to arrive, in seconds.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, timeout: float) -> None:
        self._app, self._max_bytes, self._timeout = app, max_bytes, timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._timeout):
                body = await self._read(scope, receive)
        except ClientDisconnect:  # nobody waits for an answer
            return
        except TimeoutError:
            text = f"The body has not arrived within {self._timeout:g} seconds. Send the request again."
            await error_answer(408, text, headers={"Connection": "close"})(scope, receive, send)
            return
        if body is None:
            text = f"The body is too large; at most {self._max_bytes} bytes are read. Send it in parts."
            detail = {"where": "body", "expected": f"at most {self._max_bytes} bytes", "got": "more"}
            await error_answer(413, text, [detail], {"Connection": "close"})(scope, receive, send)
            return
        whole: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def replay() -> Message:
            nonlocal whole
            message, whole = whole, None
            return await receive() if message is None else message

        await self._app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Returns the body; `None` if it is too large."""
        declared = [value for name, value in scope["headers"] if name == b"content-length" and value.isdigit()]
        size = int(declared[0][:20]) if declared else 0
        if size > self._max_bytes:
            return None
        parts: list[bytes] = []
        size, is_complete = 0, False
        while not is_complete:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_bytes:
                return None
            is_complete = not message.get("more_body", False)
        return b"".join(parts)


class RequestMeter:
    """
    Counts requests, and measures how long their answers take.

    Args:
        app (`ASGIApp`):
            The application behind it.
        metrics ([`ServiceMetrics`]):
            The metrics to write.
    """

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, start = 500, time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            # Paths and methods that clients make up would be labels without end.
            route: Any = scope.get("route")
            path = "other" if route is None else route.path_format
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.requests.labels(path, method, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - start)
