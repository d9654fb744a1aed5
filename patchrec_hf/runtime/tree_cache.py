"""Tree caches: the keys and values of a group of users, for their prompts and the titles read behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


@dataclass(frozen=True, eq=False)
class TreeCache:
    """
    The keys and values of G users, padded to one number of columns K. A column belongs to the prompt or to a node of
    the title trie, or pads its row.

    Args:
        users (`numpy.ndarray` of shape `(G,)`, int64):
            The users' numbers.
        lengths (`torch.LongTensor` of shape `(G, 1)`):
            Number of tokens of each prompt.
        nodes (`numpy.ndarray` of shape `(G, K)`, int64):
            The node of each column. It is 0 for the prompt, because the root is on the path to every node, and the
            number of nodes or more for padding.
        key_nodes (`torch.LongTensor` of shape `(G, K)`):
            The same numbers, on the model's device.
        key_positions (`torch.LongTensor` of shape `(G, K)`):
            Position of each column's token, counted from the beginning of the prompt.
        layers ([`~transformers.DynamicCache`]):
            Keys and values of each layer, of shape `(G, heads, K, D)`.
    """

    users: np.ndarray
    lengths: torch.Tensor
    nodes: np.ndarray
    key_nodes: torch.Tensor
    key_positions: torch.Tensor
    layers: DynamicCache

    def extended(self, nodes: np.ndarray, key_nodes: torch.Tensor, key_positions: torch.Tensor) -> TreeCache:
        """
        Returns the cache with more columns. Their keys and values are added by the forward that reads them.

        Args:
            nodes, key_nodes, key_positions:
                As the attributes, for the new columns.
        """
        return TreeCache(
            self.users,
            self.lengths,
            np.concatenate([self.nodes, nodes], axis=1),
            torch.cat([self.key_nodes, key_nodes], dim=1),
            torch.cat([self.key_positions, key_positions], dim=1),
            self.layers,
        )


def join_caches(parts: Sequence[tuple[TreeCache, np.ndarray, np.ndarray]], unseen: int) -> TreeCache:
    """
    Copies columns of some users into one cache.

    Args:
        parts (`Sequence[tuple[TreeCache, numpy.ndarray, numpy.ndarray]]`):
            For each cache: the cache, the rows of the users to copy (int64, shape `(r,)`), and whether each of their
            columns is copied (bool, shape `(r, K)`).
        unseen (`int`):
            A node number that no query sees, for padding.

    Returns:
        [`TreeCache`]: the users in the order of `parts`. Kept columns come first, in their order; padding follows.
    """
    num_columns = max(int(is_kept.sum(axis=1).max()) for _, _, is_kept in parts)
    nodes, index, lengths, key_nodes, key_positions = [], [], [], [], []
    for cache, rows, is_kept in parts:
        counts = is_kept.sum(axis=1)
        columns = np.argsort(~is_kept, axis=1, kind="stable")[:, : counts.max()]
        is_padding = np.arange(num_columns) >= counts[:, None]
        wide = np.zeros(is_padding.shape, dtype=np.int64)  # padding repeats the first column's position
        wide[:, : columns.shape[1]] = columns
        nodes.append(np.where(is_padding, unseen, cache.nodes[rows[:, None], wide]))
        device = cache.key_nodes.device
        rows_there, wide_there = torch.from_numpy(rows)[:, None].to(device), torch.from_numpy(wide).to(device)
        lengths.append(cache.lengths[rows_there[:, 0]])
        key_nodes.append(torch.from_numpy(nodes[-1]).to(device))
        key_positions.append(cache.key_positions[rows_there, wide_there])
        index.append((rows_there, wide_there[:, : columns.shape[1]]))
    first = parts[0][0]
    layers = DynamicCache()
    for number, layer in enumerate(cast(list[Any], first.layers.layers)):
        joined = DynamicLayer()
        if layer.is_initialized:  # a layer that shares the keys of another one holds none
            sources = [cast(Any, cache.layers.layers[number]) for cache, _, _ in parts]
            keys = _joined([source.keys for source in sources], index, num_columns)
            joined.lazy_initialization(keys, keys)
            joined.keys, joined.values = keys, _joined([source.values for source in sources], index, num_columns)
        layers.layers.append(joined)
    return TreeCache(
        np.concatenate([cache.users[rows] for cache, rows, _ in parts]),
        torch.cat(
            [cache.lengths[rows_there[:, 0]] for (cache, _, _), (rows_there, _) in zip(parts, index, strict=True)]
        ),
        np.concatenate(nodes),
        torch.cat(key_nodes),
        torch.cat(key_positions),
        layers,
    )


def _joined(
    states: Sequence[torch.Tensor], index: Sequence[tuple[torch.Tensor, torch.Tensor]], num_columns: int
) -> torch.Tensor:
    """Copies rows and columns of states of shape `(B, heads, K, D)`, and pads them with zeros."""
    num_rows = sum(len(rows) for rows, _ in index)
    joined = states[0].new_zeros(num_rows, states[0].shape[1], num_columns, states[0].shape[3])
    start = 0
    for state, (rows, columns) in zip(states, index, strict=True):
        # Indexing with two arrays puts the heads behind them.
        taken = state.transpose(1, 2)[rows.to(state.device), columns.to(state.device)].transpose(1, 2)
        joined[start : start + len(rows), :, : columns.shape[1]] = taken
        start += len(rows)
    return joined
