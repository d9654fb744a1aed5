"""Routes: what each path of the service takes and answers."""

# Without `from __future__ import annotations`: FastAPI reads the annotations of functions that know their examples.
from collections.abc import Awaitable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Body, Path, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic_core import PydanticCustomError

from ..runtime.recommendations import Recommendation
from .error_answers import RequestError, SafeJSONResponse
from .model_worker import RankOptions
from .request_bodies import (
    LATEST_TIME,
    ErrorAnswer,
    EventsAnswer,
    EventsBody,
    Health,
    RecommendationBatch,
    Recommendations,
    RecommendBody,
    SimilarItems,
    checked_name,
)
from .service import RecommendationService, event_now


T = TypeVar("T")
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": description}
    for status, description in {
        401: "The token is missing or wrong.",
        404: "There is no such user, item or path.",
        409: "An event has the id of another event.",
        413: "The body is too large.",
        422: "The request is not as it should be.",
        503: "Too much waits, or the store does not answer. `Retry-After` says when to try again.",
    }.items()
}


def make_routes(service: RecommendationService, example_ids: Sequence[int | str]) -> APIRouter:
    """
    Makes the routes of a service.

    Args:
        service ([`RecommendationService`]):
            The service.
        example_ids (`Sequence[int | str]`):
            Item ids that the examples of the OpenAPI page show.

    Returns:
        `fastapi.APIRouter`
    """
    router, limits, ids = APIRouter(), service.settings, list(example_ids)
    recommend_examples = {
        "one history": {"value": {"history": ids, "k": 5}},
        "a batch": {"value": {"histories": [ids, ids[:1]], "k": 5}},
    }
    event_examples = {
        "one event": {"value": {"events": [{"item_id": ids[0], "event_id": "order-1"}]}},
        "several events": {
            "value": {
                "events": [
                    {"item_id": item_id, "timestamp": 1_700_000_000 + 60 * place, "event_id": f"order-{place}"}
                    for place, item_id in enumerate(ids, start=1)
                ]
            }
        },
    }

    @router.post("/recommend", response_model=Recommendations | RecommendationBatch, responses=_only(413, 422, 503))
    async def recommend(body: Annotated[RecommendBody, Body(openapi_examples=recommend_examples)]) -> Response:
        """Recommends for a history, or a batch of histories, that the request holds. Nothing is stored."""
        is_single = body.history is not None
        if is_single == (body.histories is not None):
            raise RequestError(
                "Send either `history`, a list of item ids, or `histories`, a list of such lists.",
                "body", "exactly one of `history` and `histories`", body.model_dump(exclude_unset=True),
            )  # fmt: skip
        histories = [body.history or []] if is_single else body.histories or []
        times = body.histories_timestamps
        if is_single:
            times = None if body.timestamps is None else [body.timestamps]
        _check_histories(service, histories, times, "history" if is_single else "histories")
        if (body.histories_timestamps if is_single else body.timestamps) is not None:
            raise RequestError(
                "`timestamps` belong to `history`, and `histories_timestamps` to `histories`.",
                "body", "timestamps in the form of the histories", "the other form",
            )  # fmt: skip
        if body.candidates is not None:
            _check_length("body.candidates", body.candidates, limits.max_candidates, "item ids")
            service.item_ids.check(body.candidates, "body.candidates")
        candidates = None if body.candidates is None else tuple(body.candidates)
        options = RankOptions(_checked_k(service, body.k), body.exclude_seen, candidates, body.time)
        answer = [_listed(found) for found in await _ranked(service.recommend(histories, times, options))]
        return SafeJSONResponse(answer[0] if is_single else {"batch": answer})

    @router.post("/users/{user_id:path}/events", response_model=EventsAnswer, responses=_only(409, 413, 422, 503))
    async def add_events(
        user_id: Annotated[str, Path(examples=["ada"])],
        body: Annotated[EventsBody, Body(openapi_examples=event_examples)],
    ) -> Response:
        """Stores events of a user. All of them are stored, or none is; the answer comes when they are safe."""
        user_id = _checked_user(user_id)
        _check_length("body.events", body.events, limits.max_items, "events")
        service.item_ids.check([event.item_id for event in body.events], "body.events")
        events = [event_now(event.item_id, event.timestamp, event.event_id) for event in body.events]
        return SafeJSONResponse(vars(await service.add_events(user_id, events)))

    @router.get(
        "/users/{user_id:path}/recommendations", response_model=Recommendations, responses=_only(404, 422, 503)
    )
    async def recommend_for_user(
        user_id: Annotated[str, Path(examples=["ada"])],
        k: Annotated[int, Query(ge=1, description="Number of items to recommend.")] = 10,
        exclude_seen: Annotated[bool, Query(description="Whether to leave out the user's items.")] = True,
        time: Annotated[int | None, Query(ge=0, le=LATEST_TIME, description="The moment of asking.")] = None,
    ) -> Response:
        """Recommends for the stored events of a user."""
        options = RankOptions(_checked_k(service, k, "query.k"), exclude_seen, None, time)
        return SafeJSONResponse(_listed(await _ranked(service.recommend_for_user(_checked_user(user_id), options))))

    @router.get("/items/{item_id:path}/similar", response_model=SimilarItems, responses=_only(404, 422, 503))
    async def similar_items(
        item_id: Annotated[str, Path(examples=[str(ids[0])])],
        k: Annotated[int, Query(ge=1, description="Number of items.")] = 10,
    ) -> Response:
        """Finds the items whose vectors are most similar to an item's. This needs an item head."""
        if not service.has_item_head:
            raise RequestError(
                "This checkpoint has no item head, so its items have no vectors to compare. Train one with "
                "`objective='item'` or `'both'`."
            )
        known, number = service.item_ids.from_path(item_id), _checked_k(service, k, "query.k")
        found = await _ranked(service.similar_items(known, number))
        return SafeJSONResponse({"similar": _listed(found)["recommendations"]})

    @router.get("/health", response_model=Health, responses=_only(503))
    async def health() -> Response:
        """Says whether the service can answer. It needs no token."""
        await run_in_threadpool(service.check)
        facts = Health(
            status="ok", num_items=len(service.item_ids), method=service.method, waiting=service.num_waiting
        )
        return SafeJSONResponse(facts.model_dump())

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(
            service.metrics.text(),
            media_type=service.metrics.content_type,
            headers={"X-Content-Type-Options": "nosniff"},
        )

    return router


def _only(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: _ERRORS[status] for status in (401, *statuses)}


async def _ranked(answer: Awaitable[T]) -> T:
    """Awaits a ranking. The library's own checks of histories end as errors of the request."""
    try:
        return await answer
    except ValueError as error:
        raise RequestError(str(error)) from error


def _listed(found: Sequence[Recommendation]) -> dict[str, Any]:
    return {
        "recommendations": [{"item_id": item.item_id, "title": item.title, "score": item.score} for item in found],
        "is_exact": all(item.is_exact for item in found),
    }


def _checked_k(service: RecommendationService, k: int, where: str = "body.k") -> int:
    most = service.settings.max_k
    if k > most:
        raise RequestError(f"{where} is at most {most} here, got {k}.", where, f"a number from 1 to {most}", k)
    return k


def _checked_user(user_id: str) -> str:
    try:
        return checked_name(user_id)
    except PydanticCustomError as error:
        raise RequestError(f"path.user_id: {error.message()}.", "path.user_id", error.message(), user_id) from None


def _check_length(where: str, values: Sequence[Any], most: int, kind: str) -> None:
    if not 0 < len(values) <= most:
        raise RequestError(
            f"{where} holds {len(values)} {kind}, and a request takes 1 to {most}.",
            where, f"1 to {most} {kind}", f"{len(values)} {kind}",
        )  # fmt: skip


def _check_histories(
    service: RecommendationService,
    histories: Sequence[Sequence[int | str]],
    times: Sequence[Sequence[int]] | None,
    name: str,
) -> None:
    limits = service.settings
    if name == "histories":
        _check_length("body.histories", histories, limits.max_histories, "histories")
    if times is not None and len(times) != len(histories):
        raise RequestError(
            f"There are {len(histories)} histories, but {len(times)} lists of timestamps. Send one for each.",
            "body.histories_timestamps", f"{len(histories)} lists", f"{len(times)} lists",
        )  # fmt: skip
    for row, history in enumerate(histories):
        where = "body.history" if name == "history" else f"body.histories[{row}]"
        _check_length(where, history, limits.max_items, "item ids")
        service.item_ids.check(history, where)
        if times is not None and len(times[row]) != len(history):
            raise RequestError(
                f"{where} has {len(history)} items, but {len(times[row])} timestamps. Send one for each.",
                where, f"{len(history)} timestamps", f"{len(times[row])} timestamps",
            )  # fmt: skip
    if times is None and service.reads_timestamps:
        raise RequestError(
            "This model reads the times of items: send `timestamps` (`histories_timestamps` for a batch), in seconds "
            "since 1970 UTC.",
            "body.timestamps", "a time for each item", None,
        )  # fmt: skip
