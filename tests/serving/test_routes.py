"""The routes answer as the library does, and refuse whatever else is sent to them."""

import json
import random

import pytest
from served import IDS, TEXT_IDS, answered, assert_answers, listed, send, serving, text_recommender
from user_states import make_recommender

from patchrec_hf import ItemPatchLayout


@pytest.fixture(scope="module")
def recommender():
    return make_recommender(ItemPatchLayout(0))


@pytest.fixture(scope="module")
def client(recommender, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("routes"), recommender, max_k=20, max_items=50, max_histories=4) as client:
        yield client


def test_histories_of_a_request(client, recommender):
    one = client.post("/recommend", json={"history": IDS[:4], "k": 5})
    assert_answers(one, recommender.recommend(IDS[:4], 5))
    assert one.json()["is_exact"] is True
    batch = client.post("/recommend", json={"histories": [IDS[:4], IDS[3:20]], "k": 3, "exclude_seen": False})
    expected = recommender.recommend([IDS[:4], IDS[3:20]], 3, exclude_seen=False)
    found = [[(item["item_id"], item["title"]) for item in part["recommendations"]] for part in batch.json()["batch"]]
    assert found == [listed(part) for part in expected]
    some = client.post("/recommend", json={"history": IDS[:2], "candidates": IDS[5:8], "k": 20})
    assert_answers(some, recommender.recommend(IDS[:2], 20, candidates=IDS[5:8]))


def test_stored_histories(client, recommender):
    assert send(client, "ada", *IDS[:3]).json() == {"num_stored": 3, "num_known": 0, "num_events": 3}
    assert_answers(client.get("/users/ada/recommendations?k=5"), recommender.recommend(IDS[:3], 5))
    assert send(client, "ada", IDS[9], event_id="a").json()["num_events"] == 4
    assert send(client, "ada", IDS[9], event_id="a").json() == {"num_stored": 0, "num_known": 1, "num_events": 4}
    expected = recommender.recommend([*IDS[:3], IDS[9]], 10)
    assert_answers(client.get("/users/ada/recommendations"), expected)
    seen = recommender.recommend([*IDS[:3], IDS[9]], 10, exclude_seen=False)
    assert_answers(client.get("/users/ada/recommendations?exclude_seen=false"), seen)
    assert send(client, "ada", IDS[8], event_id="a").status_code == 409
    assert client.get("/users/ben/recommendations").status_code == 404


def test_users_whose_ids_are_no_path(client):
    for user in ("a%2Fb", "a/b", "%3Cb%3E", "Gr%C3%B6%C3%9Fe", "x%20y", "recommendations"):
        assert send(client, user, IDS[0]).status_code == 200
        assert client.get(f"/users/{user}/recommendations").status_code == 200
    assert client.get("/users/a%2Fb/recommendations").json() == client.get("/users/a/b/recommendations").json()
    for user in ("%00", "a%09b", "x" * 257, "%FF"):
        answer = send(client, user, IDS[0])
        assert answer.status_code == 422, user
        assert answer.json()["details"][0]["where"] == "path.user_id"


def test_similar_items(client, recommender):
    answer = client.get(f"/items/{IDS[2]}/similar?k=4").json()["similar"]
    assert [(item["item_id"], item["title"]) for item in answer] == listed(recommender.similar_items(IDS[2], 4))
    assert client.get("/items/101/similar").json()["error"] == (
        "101 is not in the catalog of 38 items. The nearest ids are 100 and 103."
    )


def test_texts_as_ids_and_a_checkpoint_without_an_item_head(tmp_path):
    recommender = text_recommender()
    with serving(tmp_path, recommender) as client:
        assert client.get("/health").json()["method"] == "exact"
        answer = client.post("/recommend", json={"history": TEXT_IDS[:3], "k": 3})
        assert_answers(answer, recommender.recommend(TEXT_IDS[:3], 3, max_title_tokens=1000))
        send(client, "ada", *TEXT_IDS[:3])
        assert answered(client.get("/users/ada/recommendations?k=3")) == answered(answer)
        unknown = client.post("/recommend", json={"history": ["SKU/99", "SKU/01"]}).json()["error"]
        assert unknown.startswith("'SKU/99' is not in the catalog of 38 items. The nearest ids are ")
        assert "'SKU/09'" in unknown
        assert "the ids of this catalog are texts" in client.post("/recommend", json={"history": [7]}).json()["error"]
        similar = client.get("/items/SKU%2F01/similar")
        assert similar.status_code == 422
        assert "no item head" in similar.json()["error"]


def test_models_that_read_times(tmp_path):
    recommender = make_recommender(ItemPatchLayout(0), time_gaps=True)
    with serving(tmp_path, recommender) as client:
        body = {"history": IDS[:3], "k": 4}
        missing = client.post("/recommend", json=body)
        assert missing.status_code == 422
        assert "send `timestamps`" in missing.json()["error"]
        times = [10, 5000, 90_000]
        answer = client.post("/recommend", json={**body, "timestamps": times})
        assert_answers(answer, recommender.recommend(IDS[:3], 4, timestamps=times))
        batch = client.post("/recommend", json={"histories": [IDS[:3]], "histories_timestamps": [times], "k": 4})
        assert batch.json()["batch"] == [answer.json()]
        for wrong in ({"timestamps": times[:2]}, {"timestamps": times[::-1]}, {"histories_timestamps": [times]}):
            assert client.post("/recommend", json={**body, **wrong}).status_code == 422
        stored = [{"item_id": item, "timestamp": time} for item, time in zip(IDS, times, strict=False)]
        client.post("/users/ada/events", json={"events": stored})
        assert answered(client.get("/users/ada/recommendations?k=4")) == answered(answer)


@pytest.mark.parametrize(
    ("body", "where", "expected"),
    [
        ({}, "body", "exactly one of `history` and `histories`"),
        ({"history": [100], "histories": [[100]]}, "body", "exactly one of `history` and `histories`"),
        ({"history": []}, "body.history", "1 to 50 item ids"),
        ({"history": [100] * 51}, "body.history", "1 to 50 item ids"),
        ({"histories": [[100]] * 5}, "body.histories", "1 to 4 histories"),
        ({"histories": [[100], []]}, "body.histories[1]", "1 to 50 item ids"),
        ({"histories": [[100], [100, 101]]}, "body.histories[1][1]", "an item id of the catalog"),
        ({"history": [100], "k": 21}, "body.k", "a number from 1 to 20"),
        ({"history": [100], "candidates": []}, "body.candidates", "1 to 10000 item ids"),
        ({"history": [100], "candidates": [5]}, "body.candidates[0]", "an item id of the catalog"),
    ],
)
def test_errors_say_where_and_what_was_expected(client, body, where, expected):
    answer = client.post("/recommend", json=body)
    assert answer.status_code == 422
    assert answer.json()["details"][0]["where"] == where
    assert answer.json()["details"][0]["expected"] == expected


def test_nothing_is_left_to_recommend(client):
    answer = client.post("/recommend", json={"history": IDS[:2], "candidates": IDS[:2]})
    assert answer.status_code == 422
    assert answer.json()["error"]


ODD = [
    None, True, False, 0, -1, 1.5, 1e308, 10**30, -(2**70), "", "x", "<img src=x onerror=alert(1)>", "\ud800", "\0",
    "x" * 3000, [], {}, [[]], [None], [{}], {"a": [1]}, [[[[1]]]], ["100"], [100.0], [True], "100", float("nan"),
    float("inf"),
]  # fmt: skip
RAW = [
    b"", b"{", b"[1, 2", b"nul", b"\xff\xfe", b"{\"history\": [NaN]}", b"[" * 20_000, b'{"a":' * 20_000,
    b'{"history": [' + b"9" * 5000 + b"]}", b'{"history": ' + b"[" * 500 + b"]" * 500 + b"}", b"x" * (1 << 21),
    b'{"history": ["\\ud800"]}', b'{"history": [100], "history": "<b>"}', b"<html></html>", b"history=100", b"null",
]  # fmt: skip


def malformed_requests():
    """Five hundred requests, each of them wrong in some way."""
    random_choice = random.Random(0).choice
    good = {
        "/recommend": {"history": IDS[:3], "k": 5, "exclude_seen": True, "candidates": IDS[3:9], "time": 5},
        "/users/eve/events": {"events": [{"item_id": IDS[0], "timestamp": 5, "event_id": "a"}]},
    }
    requests = []
    for raw in RAW:
        for path in good:
            requests.append(("POST", path, {"content": raw, "headers": {"content-type": "application/json"}}))
            requests.append(("POST", path, {"content": raw, "headers": {"content-type": "text/html"}}))
    for path in ("/recommend", "/users/eve/events", "/users/eve/recommendations", "/items/100/similar", "/health"):
        requests += [(method, path, {}) for method in ("PUT", "DELETE", "PATCH", "TRACE", "<B>")]
    for query in ("k=0", "k=-1", "k=x", "k=21", "k=1e3", "k=<b>", "exclude_seen=7", "time=-1", "time=9999999999999"):
        requests.append(("GET", f"/users/eve/recommendations?{query}", {}))
    for item in (
        "0",
        "-1",
        "x",
        "1e2",
        "100.0",
        "%3Cb%3E",
        "%00",
        "%FF",
        "0100",
        "9" * 400,
        "100/similar",
        "..%2F..",
        " 100",
    ):
        requests.append(("GET", f"/items/{item}/similar", {}))
    for path in (
        "/",
        "/<script>",
        "/users",
        "/users/eve",
        "/items/100",
        "/recommend/x",
        "/docs/x",
        "/%00",
        "/" + "x" * 3000,
    ):
        requests.append(("GET", path, {}))
    while len(requests) < 500:
        path = random_choice(list(good))
        body = json.loads(json.dumps(good[path]))
        part = body if path == "/recommend" or random_choice([True, False]) else body["events"][0]
        key, value = random_choice([*part, "<b>", "histories"]), random_choice(ODD)
        right = {
            "history": (), "candidates": (None,), "k": (), "exclude_seen": (True, False), "events": (),
            "histories": (), "item_id": (), "timestamp": (None, 0), "event_id": (None,), "time": (None, 0),
        }.get(key, ())  # fmt: skip
        is_right = any(value is other or (value == other and type(value) is type(other)) for other in right)
        is_name = key == "event_id" and isinstance(value, str) and value.isprintable() and 0 < len(value) < 257
        if is_right or is_name or (key == "histories" and value is None):
            continue
        part[key] = value
        content = json.dumps(body).encode()
        requests.append(("POST", path, {"content": content, "headers": {"content-type": "application/json"}}))
    return requests[:500]


@pytest.mark.slow
def test_five_hundred_malformed_requests(client):
    requests = malformed_requests()
    assert len(requests) == 500
    before = client.service._store.num_events(["eve"])
    for number, (method, path, more) in enumerate(requests):
        answer = client.request(method, path, **more)
        shown = f"request {number}: {method} {path[:80]} {str(more)[:200]} → {answer.status_code} {answer.text[:200]}"
        assert 400 <= answer.status_code < 500, shown
        assert answer.headers["content-type"] == "application/json", shown
        assert answer.headers["x-content-type-options"] == "nosniff", shown
        assert not set("<>&") & set(answer.text), shown
        assert len(answer.text) < 3000, shown
        body = answer.json()
        assert isinstance(body["error"], str), shown
        assert body["error"], shown
        assert all({"where", "expected", "got"} == set(detail) for detail in body["details"]), shown
    assert client.get("/health").json()["status"] == "ok"
    assert client.service._store.num_events(["eve"]) == before == [0]
    assert client.post("/recommend", json={"history": IDS[:3]}).status_code == 200


def test_wrong_tokens(tmp_path, recommender):
    with serving(tmp_path, recommender, token="right-token") as client:
        for headers in ({}, {"Authorization": "Bearer <b>"}, {"Authorization": "Bearer right-toke"}):
            for method, path in (("POST", "/recommend"), ("GET", "/metrics"), ("GET", "/nothing"), ("PUT", "/")):
                answer = client.request(method, path, headers=headers)
                assert answer.status_code == 401
                assert "token" in answer.json()["error"]
        right = {"Authorization": "Bearer right-token"}
        assert client.post("/recommend", json={"history": IDS[:2]}, headers=right).status_code == 200
        assert client.get("/health").status_code == 200
        assert str(IDS[0]) not in client.get("/openapi.json").text
