"""Request guards: the token, the size of the body, and the measure of the time, around every request."""

from __future__ import annotations

import secrets
import time
from typing import Any

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
    Reads the body of a request, and refuses a large one before more of it is read or understood.

    Args:
        app (`ASGIApp`):
            The application behind it.
        max_bytes (`int`):
            Largest body, in bytes.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = [value for name, value in scope["headers"] if name == b"content-length" and value.isdigit()]
        size = int(declared[0][:20]) if declared else 0
        if size <= self._max_bytes:
            parts: list[bytes] = []
            size, is_complete = 0, False
            while size <= self._max_bytes and not is_complete:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                is_complete = not message.get("more_body", False)
        if size > self._max_bytes:
            text = f"The body is too large; at most {self._max_bytes} bytes are read. Send it in parts."
            detail = {"where": "body", "expected": f"at most {self._max_bytes} bytes", "got": f"{size} bytes or more"}
            await error_answer(413, text, [detail], {"Connection": "close"})(scope, receive, send)
            return
        body: Message | None = {"type": "http.request", "body": b"".join(parts), "more_body": False}

        async def replay() -> Message:
            nonlocal body
            message, body = body, None
            return await receive() if message is None else message

        await self._app(scope, replay, send)


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
