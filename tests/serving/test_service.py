"""The service awaits its threads: full queues, late answers, and the end."""

import asyncio
import threading

import pytest
from served import IDS, events, listed
from user_states import make_recommender

from patchrec_hf import ItemPatchLayout
from patchrec_hf.serving.history_store import StoreError
from patchrec_hf.serving.model_worker import RankOptions
from patchrec_hf.serving.service import RecommendationService, event_now
from patchrec_hf.serving.service_settings import ServiceSettings
from patchrec_hf.serving.sqlite_histories import SqliteHistories
from patchrec_hf.serving.work_queue import QueueFullError


class SlowStore(SqliteHistories):
    """Adds when it is let go. It keeps how many additions it got at a time."""

    def __init__(self, path):
        super().__init__(path, False)
        self.gate, self.started, self.sizes, self.fails = threading.Event(), threading.Event(), [], False

    def add(self, additions):
        self.sizes.append(len(additions))
        self.started.set()
        self.gate.wait()
        if self.fails:
            raise StoreError("The disk is full.")
        return super().add(additions)


def make_service(tmp_path, **settings):
    store = SlowStore(tmp_path / "histories.sqlite")
    recommender = make_recommender(ItemPatchLayout(0))
    return RecommendationService(recommender, store, ServiceSettings(**settings)), store, recommender


def test_requests_are_answered_together(tmp_path):
    async def ask(service):
        options = RankOptions(3)
        await asyncio.gather(*(service.add_events(f"user {n}", events(*IDS[n : n + 3])) for n in range(5)))
        users = [service.recommend_for_user(f"user {number}", options) for number in range(5)]
        plain = [service.recommend([IDS[n : n + 3]], None, options) for n in range(5)]
        return await asyncio.gather(*users, *plain, service.similar_items(IDS[0], 2))

    service, store, recommender = make_service(tmp_path, max_wait_ms=50)
    store.gate.set()
    answers = asyncio.run(ask(service))
    for number in range(5):
        expected = listed(recommender.recommend(IDS[number : number + 3], 3))
        assert listed(answers[number]) == listed(answers[5 + number][0]) == expected
    assert listed(answers[10]) == listed(recommender.similar_items(IDS[0], 2))
    count = "patchrec_batch_size_count"
    text = service.metrics.text().decode()
    sums = {line.split("{")[0]: float(line.split()[-1]) for line in text.splitlines() if 'queue="model"' in line}
    assert sums["patchrec_batch_size_sum"] == 11
    assert sums[count] < 11  # some were read together
    service.close()


def test_a_full_queue_and_a_late_answer(tmp_path):
    async def ask(service, store):
        first = asyncio.create_task(service.add_events("ada", events(IDS[0])))
        await asyncio.to_thread(store.started.wait)
        others = [asyncio.create_task(service.add_events("ada", events(IDS[1]))) for _ in range(3)]
        await asyncio.sleep(0)
        refused = [task for task in others if task.done()]
        assert len(refused) == 1
        with pytest.raises(QueueFullError, match="full: 2 of at most 2"):
            await refused[0]
        # No request is answered in time. The two that wait are canceled; the first one is being stored.
        for task in (first, *(task for task in others if task is not refused[0])):
            with pytest.raises(QueueFullError, match=r"no answer within 0\.1 seconds"):
                await task

    service, store, _ = make_service(tmp_path, max_queue=2, timeout_seconds=0.1)
    asyncio.run(ask(service, store))
    store.gate.set()
    service.close()
    stored = SqliteHistories(tmp_path / "histories.sqlite", False)
    assert stored.num_events(["ada"]) == [1]
    stored.close()


def test_a_failed_store_is_asked_once(tmp_path):
    async def ask(service):
        return await asyncio.gather(
            *(service.add_events("ada", events(item)) for item in IDS[:4]), return_exceptions=True
        )

    service, store, _ = make_service(tmp_path)
    store.fails = True
    store.gate.set()
    answers = asyncio.run(ask(service))
    assert all(isinstance(answer, StoreError) for answer in answers)
    assert sum(store.sizes) == 4  # none was sent once more
    service.close()


def test_closing_answers_what_waits(tmp_path):
    async def ask(service, store):
        waiting = [asyncio.create_task(service.add_events("ada", events(item))) for item in IDS[:6]]
        await asyncio.to_thread(store.started.wait)
        closing = asyncio.create_task(asyncio.to_thread(service.close))
        store.gate.set()
        await closing
        return await asyncio.gather(*waiting)

    service, store, _ = make_service(tmp_path)
    service.check()
    answers = asyncio.run(ask(service, store))
    assert sorted(answer.num_events for answer in answers) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(QueueFullError, match="shutting down"):
        service.check()


def test_an_event_happens_now_unless_it_says_when(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1234.9)
    assert event_now(3, None, None).timestamp == 1234
    assert event_now(3, 0, "a").timestamp == 0
