"""Guards stand around every request: the token, the size of the body, the measure of the time."""

import asyncio
import json

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from patchrec_hf.serving.request_guards import BodyGuard, RequestMeter, TokenGuard
from patchrec_hf.serving.service_metrics import ServiceMetrics


def make_app():
    app = FastAPI()

    @app.api_route("/echo", methods=["GET", "POST"])
    async def echo(request: Request):
        return {"body": (await request.body()).decode()}

    @app.get("/health")
    async def health():
        return {}

    return app


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "secret"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer secre"},
        {"Authorization": "Bearer secret2"},
        {"Authorization": "Basic secret"},
        {"Authorization": b"Bearer \xff"},
        [("Authorization", "Bearer secret"), ("Authorization", "Bearer other")],
    ],
)
def test_a_wrong_token(headers):
    client = TestClient(TokenGuard(make_app(), "secret"))
    answer = client.get("/echo", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer TOKEN" in answer.json()["error"]
    assert client.get("/health", headers=headers).status_code == 200


def test_the_right_token():
    client = TestClient(TokenGuard(make_app(), "secret"))
    for scheme in ("Bearer", "bearer"):
        assert client.get("/echo", headers={"Authorization": f"{scheme} secret"}).status_code == 200


@pytest.mark.parametrize("in_parts", [False, True])
def test_large_bodies(in_parts):
    client = TestClient(BodyGuard(make_app(), 100, 60.0))

    def post(size):
        return client.post("/echo", content=iter([b"x" * 10] * (size // 10)) if in_parts else b"x" * size)

    assert post(100).json() == {"body": "x" * 100}
    answer = post(110)
    assert answer.status_code == 413
    assert answer.json()["error"] == "The body is too large; at most 100 bytes are read. Send it in parts."
    assert client.get("/echo").json() == {"body": ""}


def test_no_more_is_read_of_a_large_body():
    parts = iter(range(1000))
    sent = []

    async def receive():
        next(parts)
        return {"type": "http.request", "body": b"x" * 10, "more_body": True}

    async def send(message):
        sent.append(message)

    guard = BodyGuard(make_app(), 100, 60.0)
    asyncio.run(guard({"type": "http", "headers": []}, receive, send))
    assert sent[0]["status"] == 413
    assert next(parts) == 11
    sent.clear()
    asyncio.run(guard({"type": "http", "headers": [(b"content-length", b"101")]}, receive, send))
    assert sent[0]["status"] == 413
    assert next(parts) == 12  # nothing was read
    assert json.loads(sent[1]["body"])["details"][0]["expected"] == "at most 100 bytes"


def test_a_body_that_does_not_arrive():
    sent = []

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    asyncio.run(BodyGuard(make_app(), 100, 0.01)({"type": "http", "headers": []}, receive, send))
    assert sent[0]["status"] == 408
    assert "has not arrived within 0.01 seconds" in json.loads(sent[1]["body"])["error"]


def test_a_client_that_leaves():
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])

    async def receive():
        return next(messages)

    async def never(*_):
        raise AssertionError("nothing is answered, and the application sees no half of a body")

    asyncio.run(BodyGuard(never, 100, 60.0)({"type": "http", "headers": []}, receive, never))
    assert not list(messages)


def test_requests_are_counted_by_their_routes():
    metrics = ServiceMetrics()
    client = TestClient(RequestMeter(make_app(), metrics))
    for path in ("/echo", "/echo", "/<b>", "/x"):
        client.get(path)
    client.request("<b>", "/echo")
    lines = metrics.text().decode().splitlines()
    counts = {line.rsplit(" ", 1)[0]: line.rsplit(" ", 1)[1] for line in lines if "requests_total{" in line}
    assert counts == {
        'patchrec_requests_total{method="GET",route="/echo",status="200"}': "2.0",
        'patchrec_requests_total{method="GET",route="other",status="404"}': "2.0",
        'patchrec_requests_total{method="other",route="/echo",status="405"}': "1.0",
    }
    assert 'patchrec_request_seconds_count{route="/echo"} 3.0' in lines
