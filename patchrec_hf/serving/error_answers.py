"""Error answers: every error of the service as JSON, with where it is, what was expected and what came."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from reprlib import Repr
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from .history_store import EventConflictError, StoreError
from .item_ids import ItemIds, UnknownItemError
from .served_states import NoHistoryError
from .work_queue import QueueFullError


logger = logging.getLogger(__name__)

_RETRY = {"Retry-After": "1"}
_shown = Repr()
_shown.maxstring = _shown.maxother = _shown.maxlong = 80
_shown.maxlevel = 2


class SafeJSONResponse(Response):
    """
    JSON that a browser never takes for a page: its type is fixed by a header, and it holds no angle bracket. It is
    ASCII, so it can hold any text that a request held.
    """

    media_type = "application/json"

    def __init__(self, content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(content, status_code, {"X-Content-Type-Options": "nosniff", **(headers or {})})

    def render(self, content: Any) -> bytes:
        text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        # Outside of texts, JSON has none of these signs.
        for sign in "<>&":
            text = text.replace(sign, f"\\u{ord(sign):04x}")
        return text.encode("ascii")


class RequestError(Exception):
    """
    A request that cannot be answered as it is.

    Args:
        message (`str`):
            The fault, and how to mend it.
        where (`str`, *optional*):
            Where in the request.
        expected, got (`Any`, *optional*):
            The value that was expected there, and the one that came.
    """

    def __init__(self, message: str, where: str | None = None, expected: str | None = None, got: Any = None) -> None:
        super().__init__(message)
        self.details = [] if where is None else [_detail(where, expected or "", got)]


def _detail(where: str, expected: str, got: Any) -> dict[str, str]:
    return {"where": where, "expected": expected, "got": _shown.repr(got)}


def error_answer(
    status: int,
    message: str,
    details: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> SafeJSONResponse:
    """
    Makes the answer to a request that failed.

    Args:
        status (`int`):
            The HTTP status.
        message (`str`):
            The fault, and how to mend it.
        details (`Sequence[Mapping[str, str]]`, *optional*):
            For each fault `where` it is, what was `expected` and what was `got`.
        headers (`Mapping[str, str]`, *optional*):
            Headers of the answer.
    """
    return SafeJSONResponse({"error": message, "details": list(details)}, status, headers)


def add_error_answers(app: FastAPI, item_ids: ItemIds) -> None:
    """
    Adds the answers to all errors to an application.

    Args:
        app (`fastapi.FastAPI`):
            The application.
        item_ids ([`ItemIds`]):
            Names the ids nearest to an unknown one.
    """
    one_at_a_time = CapacityLimiter(1)

    async def invalid(_: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise error
        return _invalid_answer(error.errors())

    async def http(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        return error_answer(error.status_code, _http_message(app, request, error), headers=error.headers)

    async def unknown_item(_: Request, error: Exception) -> Response:
        if not isinstance(error, UnknownItemError):
            raise error
        # Comparing texts may take long, so it happens beside the event loop, for one request at a time.
        message = await to_thread.run_sync(item_ids.describe, error, limiter=one_at_a_time)
        status = 404 if error.where == "path" else 422
        return error_answer(status, message, [_detail(error.where, "an item id of the catalog", error.item_id)])

    async def known(_: Request, error: Exception) -> Response:
        if isinstance(error, RequestError):
            return error_answer(422, str(error), error.details)
        if isinstance(error, NoHistoryError):
            return error_answer(404, str(error))
        return error_answer(409, str(error))

    async def unavailable(_: Request, error: Exception) -> Response:
        return error_answer(503, f"{error} Try again in a moment.", headers=_RETRY)

    async def unforeseen(_: Request, error: Exception) -> Response:
        logger.error("A request failed.", exc_info=error)
        return error_answer(500, "The service failed at this request. Its log says more.")

    handlers = {
        RequestValidationError: invalid,
        HTTPException: http,
        UnknownItemError: unknown_item,
        RequestError: known,
        NoHistoryError: known,
        EventConflictError: known,
        QueueFullError: unavailable,
        StoreError: unavailable,
        Exception: unforeseen,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _invalid_answer(errors: Sequence[Mapping[str, Any]]) -> Response:
    """The answer to a request whose form is wrong, with one detail for each place."""
    details = []
    for error in errors[:10]:
        where = ".".join(map(str, error["loc"]))
        if error["type"] == "json_invalid":
            message = f"The body is no JSON: {error['ctx']['error']} at character {error['loc'][-1]}."
            return error_answer(400, message, [{"where": "body", "expected": "a JSON object", "got": "no JSON"}])
        if isinstance(error.get("input"), bytes):
            message = "The body is not read as JSON: send it with the header `Content-Type: application/json`."
            return error_answer(422, message, [_detail("body", "a JSON object", error["input"])])
        details.append(_detail(where, str(error["msg"]), error.get("input")))
    first = details[0]
    return error_answer(422, f"{first['where']}: {first['expected']}; got {first['got']}.", details)


def _http_message(app: FastAPI, request: Request, error: HTTPException) -> str:
    match error.status_code:
        case 404:
            paths = ", ".join(app.openapi()["paths"])
            return f"There is nothing at {_shown.repr(request.url.path)}. The routes are {paths}."
        case 405:
            return f"{request.method[:20]} is not allowed here, but {(error.headers or {}).get('Allow', 'GET')} is."
        case 400:
            return "The body cannot be read as JSON: it is nested too deeply, or is no text in UTF-8."
    return str(error.detail)
