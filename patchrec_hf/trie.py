"""The title trie: every token sequence that spells a title of the catalog, as flat arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .catalog import TitleTokens


@dataclass(frozen=True, eq=False)
class TitleTrie:
    """
    A trie over titles, each followed by the end-of-turn token, so that a title which begins another can be completed.

    Nodes are numbered breadth first: the root is 0 and the children of a node are consecutive. All arrays are int64.

    Args:
        tokens (`numpy.ndarray` of shape `(num_nodes,)`):
            The token on the way into each node; -1 for the root.
        child_offsets (`numpy.ndarray` of shape `(num_nodes + 1,)`):
            The children of node `n` are `child_offsets[n]` to `child_offsets[n + 1]`. A node without children is a
            leaf.
        leaf_of_item (`numpy.ndarray` of shape `(num_items,)`):
            The leaf of each item; items with one title share it.
        paths (`numpy.ndarray` of shape `(num_items, max_depth)`):
            The nodes from the root's child to the leaf of each item; filled up with the leaf itself.
    """

    tokens: np.ndarray
    child_offsets: np.ndarray
    leaf_of_item: np.ndarray
    paths: np.ndarray

    @property
    def num_nodes(self) -> int:
        return len(self.tokens)

    @property
    def max_depth(self) -> int:
        return self.paths.shape[1]


def build_trie(titles: TitleTokens, end_of_turn_id: int) -> TitleTrie:
    """
    Builds the trie of a catalog.

    Args:
        titles ([`TitleTokens`]):
            One title per item.
        end_of_turn_id (`int`):
            Ends every title.

    Returns:
        [`TitleTrie`]
    """
    num_items = len(titles)
    lengths = titles.lengths + 1
    # One row per item, filled up with -1, sorted: equal prefixes stand together at every depth.
    rows = np.full((num_items, int(lengths.max())), -1, dtype=np.int64)
    rows[np.arange(rows.shape[1]) < titles.lengths[:, None]] = titles.ids
    rows[np.arange(num_items), lengths - 1] = end_of_turn_id
    order = np.lexsort(rows.T[::-1])
    rows = rows[order]

    tokens, parents = [np.array([-1])], [np.array([-1])]
    node = np.zeros(num_items, dtype=np.int64)
    paths = np.empty_like(rows)
    differs = np.zeros(num_items, dtype=bool)
    differs[0] = True
    num_nodes = 1
    for depth in range(rows.shape[1]):
        column = rows[:, depth]
        differs[1:] |= column[1:] != column[:-1]
        present = column >= 0
        opens = differs & present
        parents.append(node[opens])
        tokens.append(column[opens])
        node = np.where(present, num_nodes - 1 + np.cumsum(opens), node)
        num_nodes += int(opens.sum())
        paths[:, depth] = node

    num_children = np.bincount(np.concatenate(parents[1:]), minlength=num_nodes)
    back = np.empty(num_items, dtype=np.int64)
    back[order] = np.arange(num_items)
    return TitleTrie(
        tokens=np.concatenate(tokens),
        child_offsets=np.concatenate([[1], 1 + np.cumsum(num_children)]),
        leaf_of_item=node[back],
        paths=paths[back],
    )
