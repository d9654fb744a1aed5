"""Served states: user states that equal the stored histories, from the cache or read anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..runtime.history_growth import checked_block_size, num_held
from ..runtime.recommender import PatchRecommender
from ..runtime.user_state import UserState
from .history_store import HistoryStore, StoredHistory
from .item_ids import ItemIds
from .service_metrics import ServiceMetrics
from .service_settings import ServiceSettings
from .state_cache import CachedState, StateCache
from .work_queue import each_alone_on_error


class NoHistoryError(Exception):
    """A user has no stored events, or none of their items is in the catalog."""


@dataclass(frozen=True, eq=False)
class _Wanted:
    """
    The state that a user should have.

    Args:
        user_id (`str`):
            The user.
        num_events (`int`):
            Number of all events that the store holds of the user.
        items (`numpy.ndarray` of shape `(n,)`, int64):
            Catalog indices of the items that the state holds, oldest first.
        times (`numpy.ndarray` of shape `(n,)`, int64, *optional*):
            When each was chosen; `None` if the model does not read it.
        seen (`numpy.ndarray` of shape `(m,)`, int64):
            Catalog indices of all items that are not recommended again.
    """

    user_id: str
    num_events: int
    items: np.ndarray
    times: np.ndarray | None
    seen: np.ndarray


class ServedStates:
    """
    Gives each user's state. The state depends on nothing but the stored history: it is the same whether it was read
    click by click, or anew after it had left the cache.

    Only one thread uses it: the one that owns the model.

    Args:
        recommender ([`PatchRecommender`]):
            The recommender.
        item_ids ([`ItemIds`]):
            The ids of its catalog.
        store ([`HistoryStore`]):
            The stored histories.
        settings ([`ServiceSettings`]):
            The limits.
        metrics ([`ServiceMetrics`]):
            Counts hits and misses.
    """

    def __init__(
        self,
        recommender: PatchRecommender,
        item_ids: ItemIds,
        store: HistoryStore,
        settings: ServiceSettings,
        metrics: ServiceMetrics,
    ) -> None:
        self._recommender, self._item_ids, self._store, self._metrics = recommender, item_ids, store, metrics
        self._max_history = recommender.processor.max_history
        self._block_size = checked_block_size(settings.block_size, self._max_history)
        self._reads_times = recommender.processor.reads_timestamps()
        self._limit = max(settings.max_stored_items, self._max_history)
        self._cache = StateCache(settings.cache_bytes)

    def current(self, user_ids: Sequence[str]) -> dict[str, CachedState | Exception]:
        """
        Returns the states of users as the store has their histories now.

        Args:
            user_ids (`Sequence[str]`):
                The users. They may repeat.

        Returns:
            `dict[str, CachedState | Exception]`: for each user the state, or why there is none.

        Raises:
            StoreError: If the store does not answer.
        """
        users = list(dict.fromkeys(user_ids))
        if not users:
            return {}
        cached = {user: self._cache.get(user) for user in users}
        result: dict[str, CachedState | Exception] = {}
        for user, num_events in zip(users, self._store.num_events(users), strict=True):
            state = cached[user]
            if state is not None and state.num_events == num_events:
                result[user] = state
        others = [user for user in users if user not in result]
        self._metrics.states.labels("hit").inc(len(result))
        starts, appends = [], []
        for user, history in zip(others, self._store.read(others, self._limit) if others else [], strict=True):
            wanted = self._wanted(user, history)
            if isinstance(wanted, NoHistoryError):
                result[user] = wanted
                continue
            before = cached[user]
            num_new = 0 if before is None else self._num_to_append(before, wanted)
            if before is None or num_new == 0:
                starts.append(wanted)
            else:
                appends.append((before, wanted, num_new))
        self._metrics.states.labels("appended").inc(len(appends))
        self._metrics.states.labels("miss").inc(len(starts))
        for wanted, outcome in [
            *zip(starts, each_alone_on_error(self._start, starts), strict=True),
            *zip([part[1] for part in appends], each_alone_on_error(self._append, appends), strict=True),
        ]:
            if isinstance(outcome, UserState):
                new = CachedState(outcome, wanted.num_events, wanted.seen)
                self._cache.put(wanted.user_id, new)
                result[wanted.user_id] = new
            else:
                result[wanted.user_id] = outcome
        self._count()
        return result

    def _count(self) -> None:
        self._metrics.cache_bytes.set(self._cache.num_bytes)
        self._metrics.cache_states.set(len(self._cache))
        self._metrics.evictions.inc(self._cache.num_evicted)
        self._cache.num_evicted = 0

    def _wanted(self, user_id: str, history: StoredHistory) -> _Wanted | NoHistoryError:
        if history.num_events == 0:
            return NoHistoryError(
                f"There are no events of the user {user_id!r}. Send some: POST /users/{{user_id}}/events. POST "
                "/recommend takes a history without a user."
            )
        indices = self._item_ids.known_indices(history.item_ids)
        held = num_held(0, history.num_events, self._max_history, self._block_size)
        latest = indices[-held:]
        items = latest[latest >= 0]
        if len(items) == 0:
            return NoHistoryError(
                f"The catalog has none of the latest {len(latest)} items of the user {user_id!r} any longer. Send "
                "events with items of the catalog: POST /users/{user_id}/events."
            )
        times = np.array(history.timestamps[-held:], dtype=np.int64)[latest >= 0] if self._reads_times else None
        return _Wanted(user_id, history.num_events, items, times, np.unique(indices[indices >= 0]))

    def _num_to_append(self, before: CachedState, wanted: _Wanted) -> int:
        """Returns how many items turn the state into the wanted one when they are appended; 0 if none do."""
        num_new = wanted.num_events - before.num_events
        if not 0 < num_new < len(wanted.items):
            return 0
        held = self._recommender.catalog.indices_of(before.state.item_ids)
        length = num_held(len(held), num_new, self._max_history, self._block_size)
        if not np.array_equal(np.concatenate([held, wanted.items[-num_new:]])[-length:], wanted.items):
            return 0  # an event arrived late, or items have left the catalog
        if wanted.times is not None:
            times = np.concatenate([before.state.timestamps, wanted.times[-num_new:]])[-length:]
            if not np.array_equal(times, wanted.times):
                return 0
        return num_new

    def _start(self, starts: list[_Wanted]) -> list[UserState]:
        ids = self._recommender.catalog.item_ids
        states = self._recommender.start(
            [ids[wanted.items].tolist() for wanted in starts],
            [wanted.times.tolist() for wanted in starts if wanted.times is not None] or None,
            block_size=self._block_size,
        )
        return [states.select(number) for number in range(len(starts))]

    def _append(self, appends: list[tuple[CachedState, _Wanted, int]]) -> list[UserState]:
        """Appends to copies of the states, so that they stay as they are if this fails."""
        ids = self._recommender.catalog.item_ids
        states = UserState.join([before.state for before, _, _ in appends])
        states.append(
            [ids[wanted.items[-num_new:]].tolist() for _, wanted, num_new in appends],
            [wanted.times[-num_new:].tolist() for _, wanted, num_new in appends if wanted.times is not None] or None,
        )
        return [states.select(number) for number in range(len(appends))]
