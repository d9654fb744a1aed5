"""A small service, and what its tests ask it."""

from contextlib import contextmanager

from families import TITLES, shared_model
from fastapi.testclient import TestClient
from user_states import make_recommender

from patchrec_hf import Catalog, ItemPatchLayout, PatchRecommender
from patchrec_hf.serving.application import create_app
from patchrec_hf.serving.history_store import Event
from patchrec_hf.serving.service import RecommendationService
from patchrec_hf.serving.service_settings import ServiceSettings
from patchrec_hf.serving.sqlite_histories import SqliteHistories


IDS = [100 + 3 * index for index in range(len(TITLES))]
TEXT_IDS = [f"SKU/{index:02}" for index in range(len(TITLES))]


def text_recommender():
    """A recommender of titles alone, whose catalog has texts for ids."""
    base = make_recommender(ItemPatchLayout(0))
    processor = base.processor
    catalog = Catalog.from_titles(dict(zip(TEXT_IDS, TITLES, strict=True)))
    plain = type(processor)(processor.tokenizer, catalog, processor.prompt, ItemPatchLayout(0), 8)
    return PatchRecommender(shared_model("llama_untied"), plain)


@contextmanager
def serving(directory, recommender=None, token=None, store=None, **settings):
    """A client of a running application."""
    recommender = make_recommender(ItemPatchLayout(0)) if recommender is None else recommender
    if store is None:
        store = SqliteHistories(directory / "histories.sqlite", recommender.catalog.has_text_ids)
    service = RecommendationService(recommender, store, ServiceSettings(**settings))
    with TestClient(create_app(service, token), raise_server_exceptions=False) as client:
        client.service = service
        yield client


def events(*item_ids, start=1000, ids=None):
    return [
        Event(item_id, start + place, None if ids is None else ids[place]) for place, item_id in enumerate(item_ids)
    ]


def send(client, user, *item_ids, **first):
    """Sends events of a user in one request, and returns the answer."""
    body = {"events": [{"item_id": item_id, **first} for item_id in item_ids]}
    return client.post(f"/users/{user}/events", json=body)


def listed(recommendations):
    return [(item.item_id, item.title) for item in recommendations]


def answered(answer):
    assert answer.status_code == 200, answer.text
    return [(item["item_id"], item["title"]) for item in answer.json()["recommendations"]]


def assert_answers(answer, expected):
    """The answer recommends what the library does, with the same scores up to rounding."""
    assert answer.status_code == 200, answer.text
    found = answer.json()["recommendations"]
    assert [item["item_id"] for item in found] == [item.item_id for item in expected]
    assert [item["title"] for item in found] == [item.title for item in expected]
    for item, other in zip(found, expected, strict=True):
        assert abs(item["score"] - other.score) < 1e-4
