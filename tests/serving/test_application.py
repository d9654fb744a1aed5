"""The application: its page, its metrics, its end, and what it imports."""

import sys

import pytest
from processes import run_process
from served import IDS, TEXT_IDS, send, serving, text_recommender

from patchrec_hf.serving.work_queue import QueueFullError


def test_the_page_and_its_examples(tmp_path):
    with serving(tmp_path) as client:
        page = client.get("/docs")
        assert page.status_code == 200
        assert "swagger" in page.text
        schema = client.get("/openapi.json").json()
        assert set(schema["paths"]) == {
            "/recommend",
            "/users/{user_id}/events",
            "/users/{user_id}/recommendations",
            "/items/{item_id}/similar",
            "/health",
            "/metrics",
        }
        for path in ("/recommend", "/users/ada/events"):
            operation = schema["paths"][path.replace("ada", "{user_id}")]["post"]
            examples = operation["requestBody"]["content"]["application/json"]["examples"]
            assert len(examples) == 2
            for example in examples.values():  # the examples of the page work
                assert client.post(path, json=example["value"]).status_code == 200
            assert "ErrorAnswer" in str(operation["responses"]["422"])
        assert "whole numbers" in schema["info"]["description"]


def test_texts_in_the_page(tmp_path):
    with serving(tmp_path, text_recommender()) as client:
        schema = client.get("/openapi.json").json()
        assert TEXT_IDS[0] in str(schema["paths"]["/recommend"])
        assert "Item ids are texts" in schema["info"]["description"]


def test_metrics(tmp_path):
    with serving(tmp_path) as client:
        send(client, "ada", *IDS[:3], event_id=None)
        for _ in range(2):
            client.get("/users/ada/recommendations")
        answer = client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        lines = answer.text.splitlines()
        for line in (
            'patchrec_requests_total{method="GET",route="/users/{user_id}/recommendations",status="200"} 2.0',
            'patchrec_states_total{result="hit"} 1.0',
            'patchrec_states_total{result="miss"} 1.0',
            'patchrec_events_total{result="stored"} 3.0',
            'patchrec_queue_length{queue="model"} 0.0',
            'patchrec_batch_size_count{queue="events"} 1.0',
            "patchrec_cache_states 1.0",
        ):
            assert line in lines
        (cache,) = [line for line in lines if line.startswith("patchrec_cache_bytes")]
        assert float(cache.split()[1]) > 0


def test_the_end_closes_the_service(tmp_path):
    with serving(tmp_path) as client:
        service = client.service
        service.check()
    with pytest.raises(QueueFullError):
        service.check()


@pytest.mark.slow
def test_a_server_imports_no_training_code():
    code = """
import sys
import patchrec_hf.commands.serve
import patchrec_hf.serving.application, patchrec_hf.serving.http_server, patchrec_hf.serving.service
import patchrec_hf.serving.sqlite_histories
from patchrec_hf.runtime.recommender import PatchRecommender
heavy = ("trl", "datasets", "pandas", "matplotlib", "patchrec_hf.serving.redis_histories")
rooms = ("batches", "baselines", "evaluation", "training", "hub")
print([name for name in heavy if name in sys.modules])
print(sorted(name for name in sys.modules if name.startswith("patchrec_hf.data")))
print([room for room in rooms if f"patchrec_hf.{room}" in sys.modules])
"""
    done = run_process([sys.executable, "-c", code], check=True)
    assert done.stdout.splitlines() == ["[]", "['patchrec_hf.data', 'patchrec_hf.data.keywords']", "[]"]
