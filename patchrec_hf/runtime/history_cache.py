"""History caches: the keys and values of users' histories, in buffers that new positions are written into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


_SLACK = 4
"""A buffer that is full grows by a quarter. So each key is copied a few times at most, however long a history gets."""
_MIN_GROWTH = 32

KeysAndValues = tuple[torch.Tensor, torch.Tensor]
"""The keys and the values of a layer, each of shape `(B, heads, K, D)`."""


class HistoryCache:
    """
    The keys and values of B users. The column of a key is its position in the prompt. Columns behind the last position
    of a user hold anything finite, and no query sees them.

    Args:
        num_users (`int`):
            Number of users B.
        layers (`Sequence[KeysAndValues | None]`):
            For each layer of the backbone its buffers; `None` before the first forward, and for a layer that shares
            the keys of another one.
    """

    def __init__(self, num_users: int, layers: Sequence[KeysAndValues | None]) -> None:
        self.num_users = num_users
        self.layers = list(layers)

    @property
    def num_bytes(self) -> int:
        """Size of the buffers in memory, with the columns that are still free."""
        tensors = [tensor for layer in self.layers if layer is not None for tensor in layer]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def open(self, users: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> DynamicCache:
        """
        Returns a cache of transformers for one forward, which writes its new keys and values into the buffers.

        Args:
            users (`numpy.ndarray` of shape `(G,)`, int64):
                The users of the forward's rows, ascending.
            starts (`numpy.ndarray` of shape `(G,)`, int64):
                The position of each user's first query.
            counts (`numpy.ndarray` of shape `(G,)`, int64):
                Number of queries of each user. The queries that follow in a row are padding, and are not kept.

        Returns:
            [`~transformers.DynamicCache`]: its layers return keys and values of shape `(G, heads, K, D)`, where K is
            the largest of `starts + counts`.
        """
        rows, offsets = np.nonzero(np.arange(counts.max()) < counts[:, None])
        places = _Places(
            users=users,
            rows=torch.from_numpy(users[rows]),
            columns=torch.from_numpy(starts[rows] + offsets),
            query_rows=torch.from_numpy(rows),
            query_columns=torch.from_numpy(offsets),
            num_columns=int((starts + counts).max()),
            num_queries=int(counts.max()),
        )
        opened = DynamicCache()
        opened.layers = [_OpenLayer(self, number, places) for number in range(len(self.layers))]
        return opened

    def write(self, number: int, places: _Places, states: KeysAndValues) -> KeysAndValues:
        """Writes the new keys and values of a layer, and returns all that the forward's queries may see."""
        buffers = self.layers[number]
        width = 0 if buffers is None else buffers[0].shape[2]
        if buffers is None or width < places.num_columns:
            capacity = max(places.num_columns + _MIN_GROWTH, places.num_columns + places.num_columns // _SLACK)
            sources = [] if buffers is None else [(buffers, np.arange(self.num_users))]
            buffers = joined_columns(sources, capacity, like=states, num_users=self.num_users)
            self.layers[number] = buffers
        device = buffers[0].device
        rows, columns = places.rows.to(device), places.columns.to(device)
        query_rows, query_columns = places.query_rows.to(device), places.query_columns.to(device)
        for buffer, new in zip(buffers, states, strict=True):
            buffer.transpose(1, 2)[rows, columns] = new.transpose(1, 2)[query_rows, query_columns]
        return columns_of(buffers, places.users, places.num_columns)


@dataclass(frozen=True, eq=False)
class _Places:
    """Where a forward writes: its users, and for each new key its row and column in the buffers and in the forward."""

    users: np.ndarray
    rows: torch.Tensor
    columns: torch.Tensor
    query_rows: torch.Tensor
    query_columns: torch.Tensor
    num_columns: int
    num_queries: int


class _OpenLayer(DynamicLayer):
    """A layer of a cache of transformers that writes into a [`HistoryCache`]."""

    def __init__(self, cache: HistoryCache, number: int, places: _Places) -> None:
        super().__init__()
        self._cache, self._number, self._places = cache, number, places

    def get_seq_length(self) -> int:
        """Number of columns before the first query, if the forward reads one user."""
        return self._places.num_columns - self._places.num_queries

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._cache.write(self._number, self._places, (key_states, value_states))


def columns_of(buffers: KeysAndValues, users: np.ndarray, num_columns: int) -> KeysAndValues:
    """Returns the first columns of some users, who ascend: as a view if the users stand one after the other."""
    if users[-1] - users[0] + 1 == len(users):
        rows: Any = slice(int(users[0]), int(users[-1]) + 1)
    else:
        rows = torch.from_numpy(users).to(buffers[0].device)
    keys, values = (buffer[rows, :, :num_columns] for buffer in buffers)
    return keys, values


def joined_columns(
    sources: Sequence[tuple[KeysAndValues, np.ndarray]], num_columns: int, like: KeysAndValues, num_users: int
) -> KeysAndValues:
    """
    Copies the keys and values of users into new buffers. Columns that a source lacks are zero.

    Args:
        sources (`Sequence[tuple[KeysAndValues, numpy.ndarray]]`):
            Buffers, and the rows to copy from them (int64).
        num_columns (`int`):
            Number of columns of the new buffers.
        like (`KeysAndValues`):
            Tensors with the new buffers' numbers of heads, sizes, dtypes and devices.
        num_users (`int`):
            Number of rows of the new buffers.
    """
    # Free columns are masked, but attention multiplies them by zero, so they may hold no NaN.
    joined = tuple(part.new_zeros(num_users, part.shape[1], num_columns, part.shape[3]) for part in like)
    start = 0
    for buffers, rows in sources:
        stop, width = start + len(rows), min(num_columns, buffers[0].shape[2])
        for target, source in zip(joined, buffers, strict=True):
            target[start:stop, :, :width] = source[torch.from_numpy(rows).to(source.device), :, :width]
        start = stop
    keys, values = joined
    return keys, values


def join_histories(parts: Sequence[tuple[HistoryCache, np.ndarray]], num_columns: int) -> HistoryCache:
    """
    Copies users of some caches into one cache.

    Args:
        parts (`Sequence[tuple[HistoryCache, numpy.ndarray]]`):
            Caches of one model, and the users to copy from each (int64).
        num_columns (`int`):
            Number of columns to copy.

    Returns:
        [`HistoryCache`]: the users in the order of `parts`.
    """
    num_users = sum(len(users) for _, users in parts)
    layers: list[KeysAndValues | None] = []
    for number, first in enumerate(parts[0][0].layers):
        if first is None:
            layers.append(None)
            continue
        sources = [(layer, users) for cache, users in parts if (layer := cache.layers[number]) is not None]
        layers.append(joined_columns(sources, num_columns, like=first, num_users=num_users))
    return HistoryCache(num_users, layers)


def as_dynamic_cache(parts: Sequence[tuple[HistoryCache, int]], num_columns: int) -> DynamicCache:
    """
    Returns keys and values as a cache of transformers, which a forward extends without a change to their source.

    Args:
        parts (`Sequence[tuple[HistoryCache, int]]`):
            For each row, a cache and one of its users.
        num_columns (`int`):
            Number of columns.
    """
    first, users = parts[0][0], np.array([user for _, user in parts])
    if all(cache is first for cache, _ in parts) and (np.diff(users) > 0).all():
        layers = [None if layer is None else columns_of(layer, users, num_columns) for layer in first.layers]
    else:
        layers = join_histories([(cache, np.array([user])) for cache, user in parts], num_columns).layers
    result = DynamicCache()
    for buffers in layers:
        layer = DynamicLayer()
        if buffers is not None:
            layer.lazy_initialization(*buffers)
            layer.keys, layer.values = buffers
        result.layers.append(layer)
    return result
