"""The application: the service behind its routes, guards and error answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

from .error_answers import add_error_answers
from .request_guards import BodyGuard, RequestMeter, TokenGuard
from .routes import make_routes
from .service import RecommendationService


_DESCRIPTION = """
Recommends items of a catalog for histories, and for users whose events it keeps.

Item ids are {kind}, as in the catalog. An id in a path is text; {in_path}. Errors are JSON:
`{{"error": …, "details": [{{"where": …, "expected": …, "got": …}}]}}`.
"""


def create_app(service: RecommendationService, token: str | None = None) -> FastAPI:
    """
    Makes the ASGI application of a service. When the application shuts down, it closes the service, which answers all
    requests that wait.

    Args:
        service ([`RecommendationService`]):
            The service.
        token (`str`, *optional*):
            The token that requests must hold.

    Returns:
        `fastapi.FastAPI`

    Example:
    ```python
    >>> from patchrec_hf import PatchRecommender
    >>> from patchrec_hf.serving.sqlite_histories import SqliteHistories
    >>> recommender = PatchRecommender.from_pretrained("outputs/final")
    >>> store = SqliteHistories("outputs/histories.sqlite", recommender.catalog.has_text_ids)
    >>> app = create_app(RecommendationService(recommender, store))
    ```
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    ids = service.item_ids
    app = FastAPI(
        title="patchrec",
        version=version("patchrec-hf"),
        description=_DESCRIPTION.format(
            kind="texts" if ids.has_text_ids else "whole numbers",
            in_path="it is taken as it is" if ids.has_text_ids else "`17` there is the number 17",
        ),
        lifespan=lifespan,
        redoc_url=None,
    )
    # The page needs no token, so with a token it shows made-up ids.
    made_up: list[int | str] = ["B-17", "B-09"] if ids.has_text_ids else [3, 14]
    app.include_router(make_routes(service, ids.first if token is None else made_up))
    add_error_answers(app, ids)
    # The guard that is added last stands outermost.
    limits = service.settings
    app.add_middleware(BodyGuard, max_bytes=limits.max_body_bytes, timeout=limits.timeout_seconds)
    if token is not None:
        app.add_middleware(TokenGuard, token=token)
    app.add_middleware(RequestMeter, metrics=service.metrics)
    return app
