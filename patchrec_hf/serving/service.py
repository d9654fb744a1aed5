"""The service: puts requests into the queues of the model and of the store, and awaits their answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TypeVar

from ..runtime.item_index import ItemIndex
from ..runtime.recommendations import Recommendation
from ..runtime.recommender import PatchRecommender
from .history_store import Added, Addition, Event, HistoryStore, StoreError
from .item_ids import ItemIds
from .model_worker import HistoriesJob, Job, Lists, ModelWorker, RankOptions, SimilarJob, UserJob
from .served_states import ServedStates
from .service_metrics import ServiceMetrics
from .service_settings import ServiceSettings
from .work_queue import QueueFullError, WorkQueue


Result = TypeVar("Result")


class RecommendationService:
    """
    Recommends for many clients at once. One thread owns the model and the user states, and one thread writes events.
    The methods only put jobs into the queues of these threads, so they never block the event loop.

    Args:
        recommender ([`PatchRecommender`]):
            The recommender.
        store ([`HistoryStore`]):
            Where the events of users are kept. `close` closes it.
        settings ([`ServiceSettings`], *optional*):
            The limits.
        index ([`ItemIndex`], *optional*):
            Proposes items of a large catalog. The method of ranking is then `"item"`, or `"exact"`.

    Raises:
        ValueError, TypeError: If the checkpoint lacks what the method of ranking needs, the method does not go with an
            index, or the backbone cannot be read in parts.
    """

    def __init__(
        self,
        recommender: PatchRecommender,
        store: HistoryStore,
        settings: ServiceSettings | None = None,
        index: ItemIndex | None = None,
    ) -> None:
        self.settings = settings = ServiceSettings() if settings is None else settings
        self.metrics = metrics = ServiceMetrics()
        self.item_ids = ItemIds(recommender.catalog)
        self.max_history = recommender.processor.max_history
        self.reads_timestamps = recommender.processor.reads_timestamps()
        self._store = store
        states = ServedStates(recommender, self.item_ids, store, settings, metrics)
        worker = ModelWorker(recommender, states, settings, index)
        worker.warm_up()
        self.method, self.has_item_head = worker.method, worker.has_item_head
        self._model_queue: WorkQueue[Job, Lists] = WorkQueue(
            "patchrec-model",
            worker.work,
            settings.max_batch_size,
            settings.max_wait_ms / 1000,
            settings.max_queue,
            metrics.batch_size.labels("model").observe,
        )
        # Commits wait for the disk, so the next batch gathers by itself.
        self._event_queue: WorkQueue[Addition, Added] = WorkQueue(
            "patchrec-events",
            self._add,
            settings.max_queue,
            0.0,
            settings.max_queue,
            metrics.batch_size.labels("events").observe,
        )
        metrics.watch_queue("model", lambda: len(self._model_queue))
        metrics.watch_queue("events", lambda: len(self._event_queue))

    def _add(self, additions: list[Addition]) -> Sequence[Added | Exception]:
        try:
            return self._store.add(additions)
        except StoreError as error:
            # Perhaps they were stored and the answer was lost. So they are not sent once more.
            return [error] * len(additions)

    async def recommend(
        self,
        histories: Sequence[Sequence[int | str]],
        timestamps: Sequence[Sequence[int]] | None,
        options: RankOptions,
    ) -> list[list[Recommendation]]:
        """
        Recommends for histories that no store knows.

        Args:
            histories (`Sequence[Sequence[int | str]]`):
                Item ids of the catalog, oldest first.
            timestamps (`Sequence[Sequence[int]]`, *optional*):
                When each item was chosen.
            options ([`RankOptions`]):
                How to rank.

        Returns:
            `list[list[Recommendation]]`: a list for each history, best first.

        Raises:
            QueueFullError: If too much waits already, or the answer takes too long.
            ValueError: As [`PatchRecommender.recommend`] does.
        """
        job = HistoriesJob(
            tuple(map(tuple, histories)), None if timestamps is None else tuple(map(tuple, timestamps)), options
        )
        return await self._answer(self._model_queue.submit(job, weight=len(histories)))

    async def recommend_for_user(self, user_id: str, options: RankOptions) -> list[Recommendation]:
        """
        Recommends for a user whose events are stored, as [`PatchRecommender.recommend`] does for their items.

        Raises:
            NoHistoryError: If there are no events of the user.
            StoreError: If the store does not answer.
            QueueFullError, ValueError: See [`~RecommendationService.recommend`].
        """
        return (await self._answer(self._model_queue.submit(UserJob(user_id, options))))[0]

    async def similar_items(self, item_id: int | str, k: int) -> list[Recommendation]:
        """Finds similar items, as [`PatchRecommender.similar_items`] does."""
        return (await self._answer(self._model_queue.submit(SimilarJob(item_id, k))))[0]

    async def add_events(self, user_id: str, events: Sequence[Event]) -> Added:
        """
        Stores events. When it returns, they are not lost, even if the process is killed.

        Raises:
            EventConflictError: If an event has the id of another one. Nothing is stored then.
            StoreError: If the store does not answer. The events may have been stored.
            QueueFullError: If too much waits already, or the answer takes too long.
        """
        added = await self._answer(self._event_queue.submit(Addition(user_id, tuple(events))))
        self.metrics.events.labels("stored").inc(added.num_stored)
        self.metrics.events.labels("known").inc(added.num_known)
        return added

    async def _answer(self, future: Future[Result]) -> Result:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.settings.timeout_seconds)
        except TimeoutError:
            raise QueueFullError(f"There was no answer within {self.settings.timeout_seconds:g} seconds.") from None

    @property
    def num_waiting(self) -> int:
        """Number of histories that wait for the model."""
        return len(self._model_queue)

    def check(self) -> None:
        """
        Checks that requests can be answered. It may wait for the store.

        Raises:
            QueueFullError: If a thread has ended.
            StoreError: If the store does not answer.
        """
        if not (self._model_queue.is_alive and self._event_queue.is_alive):
            raise QueueFullError("The service is shutting down, or one of its threads has ended.")
        self._store.check()

    def close(self) -> None:
        """Answers all requests that wait, and closes the store."""
        self._event_queue.close()
        self._model_queue.close()
        self._store.close()


def event_now(item_id: int | str, timestamp: int | None, event_id: str | None) -> Event:
    """Makes an event, which happens now if no time is given."""
    return Event(item_id, int(time.time()) if timestamp is None else timestamp, event_id)
