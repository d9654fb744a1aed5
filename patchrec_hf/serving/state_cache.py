"""The state cache: user states in memory, within a bound in bytes. The ones that were not used for longest leave."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from ..runtime.user_state import UserState


@dataclass(frozen=True, eq=False)
class CachedState:
    """
    A user's state, and which part of the stored history it has read.

    Args:
        state ([`UserState`]):
            The state of one user.
        num_events (`int`):
            Number of events that the store held of the user.
        seen (`numpy.ndarray` of shape `(n,)`, int64):
            Catalog indices of the items of these events, each once, also of those that have left the state.
    """

    state: UserState
    num_events: int
    seen: np.ndarray

    @property
    def num_bytes(self) -> int:
        """Size of the arrays in memory."""
        return self.state.num_bytes + self.seen.nbytes


class StateCache:
    """
    Keeps the states that were used latest. Only one thread uses it.

    Args:
        max_bytes (`int`):
            Most bytes of all states together. A state that is larger by itself is not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._states: OrderedDict[str, CachedState] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self.num_bytes = 0
        self.num_evicted = 0

    def __len__(self) -> int:
        return len(self._states)

    def get(self, user_id: str) -> CachedState | None:
        """Returns a user's state, which counts as used now; `None` if the cache has none."""
        if user_id in self._states:
            self._states.move_to_end(user_id)
        return self._states.get(user_id)

    def put(self, user_id: str, cached: CachedState) -> None:
        """Keeps a user's state in place of an older one. States that were not used for longest leave, if need be."""
        self._drop(user_id)
        size = cached.num_bytes
        if size > self._max_bytes:
            return
        self._states[user_id], self._sizes[user_id] = cached, size
        self.num_bytes += size
        while self.num_bytes > self._max_bytes:
            self._drop(next(iter(self._states)))
            self.num_evicted += 1

    def _drop(self, user_id: str) -> None:
        if self._states.pop(user_id, None) is not None:
            self.num_bytes -= self._sizes.pop(user_id)
