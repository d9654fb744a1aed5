"""Errors are JSON that no browser takes for a page, whatever a request held."""

import json

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from patchrec_hf import Catalog
from patchrec_hf.serving.error_answers import RequestError, SafeJSONResponse, add_error_answers, error_answer
from patchrec_hf.serving.history_store import Event, EventConflictError, StoreError
from patchrec_hf.serving.item_ids import ItemIds, UnknownItemError
from patchrec_hf.serving.served_states import NoHistoryError
from patchrec_hf.serving.work_queue import QueueFullError


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "a & b", "\ud800", "é\0\u2028"])
def test_any_text_is_answered(text):
    body = SafeJSONResponse({"error": text}).body
    assert not set(b"<>&") & set(body)
    assert json.loads(body) == {"error": text}
    with pytest.raises(ValueError, match="Out of range float"):
        SafeJSONResponse({"score": float("nan")})


def test_the_form_of_an_error():
    answer = error_answer(422, "Wrong.", [{"where": "body", "expected": "a", "got": "b"}], {"Retry-After": "1"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["retry-after"] == "1"
    assert json.loads(answer.body)["details"] == [{"where": "body", "expected": "a", "got": "b"}]


ERRORS = {
    "request": (RequestError("Wrong.", "body.k", "a number", "x" * 1000), 422, "Wrong."),
    "user": (NoHistoryError("No events."), 404, "No events."),
    "path": (UnknownItemError("path", 4), 404, "4 is not in the catalog of 1 items. The nearest id is 3."),
    "item": (UnknownItemError("body.history[0]", 4), 422, "4 is not in the catalog"),
    "conflict": (EventConflictError(Event(4, 0, "a"), 3), 409, "The event 'a' of this user"),
    "queue": (QueueFullError("The queue is full."), 503, "The queue is full. Try again in a moment."),
    "store": (StoreError("The disk is full."), 503, "The disk is full. Try again in a moment."),
    "fault": (RuntimeError("secret"), 500, "The service failed at this request. Its log says more."),
}


@pytest.mark.parametrize("name", ERRORS)
def test_each_error_has_its_status(name):
    error, status, message = ERRORS[name]
    app = FastAPI()
    add_error_answers(app, ItemIds(Catalog.from_titles({3: "Emma"})))

    @app.get("/")
    async def fail():
        raise error

    answer = TestClient(app, raise_server_exceptions=False).get("/")
    assert answer.status_code == status
    assert answer.json()["error"].startswith(message)
    assert ("retry-after" in answer.headers) == (status == 503)
    assert "secret" not in answer.text
    assert len(answer.text) < 500
