"""The title trie: every token sequence that spells a title of the catalog, as flat arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .catalog import TitleTokens, ragged_arange


@dataclass(frozen=True, eq=False)
class TitleTrie:
    """
    A trie over titles, each followed by the end-of-turn token, so that a title which begins another can be completed.

    Nodes are numbered in preorder: the root is 0, a node's first child is the next node, and the nodes below node `n`
    are `n + 1` to `subtree_ends[n]`. So `m` stands on the way to `n` exactly if `m <= n < subtree_ends[m]`, and a
    chain of nodes with one child each is a run of consecutive numbers, which needs no pointers. All arrays are int64.

    Args:
        tokens (`numpy.ndarray` of shape `(num_nodes,)`):
            The token on the way into each node; -1 for the root.
        depths (`numpy.ndarray` of shape `(num_nodes,)`):
            How many tokens lead to each node.
        subtree_ends (`numpy.ndarray` of shape `(num_nodes,)`):
            The first node after those below each node.
        child_offsets (`numpy.ndarray` of shape `(num_nodes + 1,)`):
            The children of node `n` are `children[child_offsets[n] : child_offsets[n + 1]]`. A leaf has none.
        children (`numpy.ndarray` of shape `(num_nodes - 1,)`):
            See `child_offsets`.
        items (`numpy.ndarray` of shape `(num_titles,)`):
            The catalog indices of all titles that can be spelled, in the order of their leaves. Items with one title
            share a leaf.
        item_offsets (`numpy.ndarray` of shape `(num_nodes + 1,)`):
            The items below node `n`, or at it, are `items[item_offsets[n] : item_offsets[subtree_ends[n]]]`.
        num_items (`int`):
            Items in the catalog, also those whose titles cannot be spelled.
    """

    tokens: np.ndarray
    depths: np.ndarray
    subtree_ends: np.ndarray
    child_offsets: np.ndarray
    children: np.ndarray
    items: np.ndarray
    item_offsets: np.ndarray
    num_items: int

    @property
    def num_nodes(self) -> int:
        return len(self.tokens)

    @property
    def max_depth(self) -> int:
        return int(self.depths.max())

    @cached_property
    def num_children(self) -> np.ndarray:
        """Shape `(num_nodes,)`."""
        return np.diff(self.child_offsets)

    @cached_property
    def parents(self) -> np.ndarray:
        """Shape `(num_nodes,)`; -1 for the root."""
        parents = np.full(self.num_nodes, -1)
        parents[self.children] = np.repeat(np.arange(self.num_nodes), self.num_children)
        return parents

    @cached_property
    def leaf_of_item(self) -> np.ndarray:
        """Shape `(num_items,)`, by catalog index; -1 for items whose titles cannot be spelled."""
        leaves = np.full(self.num_items, -1)
        leaves[self.items] = np.repeat(np.arange(self.num_nodes), np.diff(self.item_offsets))
        return leaves

    @cached_property
    def chain_lengths(self) -> np.ndarray:
        """
        How many nodes, from each node on, can be read without a choice: up to the next node from which several titles,
        or a leaf, follow. Shape `(num_nodes,)`; 0 for leaves, which need not be read.
        """
        # A node stands within a chain if its only child, which is the next node, is not a leaf.
        is_within = (self.num_children == 1) & (np.append(self.num_children[1:], 0) > 0)
        stops = np.flatnonzero(~is_within)
        stop = stops[np.searchsorted(stops, np.arange(self.num_nodes))]
        return np.where(self.num_children > 0, stop + 1 - np.arange(self.num_nodes), 0)

    def children_of(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The children of `nodes`, flat: the place in `nodes` of each child's parent, and the child."""
        counts = self.num_children[nodes]
        places = np.repeat(self.child_offsets[nodes], counts) + ragged_arange(counts)
        return np.repeat(np.arange(len(nodes)), counts), self.children[places]

    def items_at(self, leaves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The items of `leaves`, flat: the place in `leaves` of each item's leaf, and the item."""
        starts = self.item_offsets[leaves]
        counts = self.item_offsets[leaves + 1] - starts
        return np.repeat(np.arange(len(leaves)), counts), self.items[np.repeat(starts, counts) + ragged_arange(counts)]

    def titles_of(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        The different titles of `items`, which can be spelled: their leaves, ascending; the first item of each; and how
        many of `items` have it.
        """
        items = np.sort(items)
        leaves, first, counts = np.unique(self.leaf_of_item[items], return_index=True, return_counts=True)
        return leaves, items[first], counts

    def items_spelled_like(self, items: np.ndarray) -> np.ndarray:
        """All items that have a title of `items`, but for titles that cannot be spelled."""
        leaves = np.unique(self.leaf_of_item[items])
        return self.items_at(leaves[leaves >= 0])[1]


def build_trie(titles: TitleTokens, end_of_turn_id: int, complete_prefixes: bool = True) -> TitleTrie:
    """
    Builds the trie of a catalog.

    Args:
        titles ([`TitleTokens`]):
            One title per item.
        end_of_turn_id (`int`):
            Ends every title.
        complete_prefixes (`bool`, *optional*, defaults to `True`):
            Whether a title that begins another can be spelled. The authors' release leaves such titles out.

    Returns:
        [`TitleTrie`]
    """
    # One row per item, filled up with -1, sorted: equal prefixes stand together at every depth, and a title stands
    # before those that it begins.
    rows = np.full((len(titles), int(titles.lengths.max()) + 1), -1, dtype=np.int32)
    rows[np.arange(rows.shape[1]) < titles.lengths[:, None]] = titles.ids
    items = np.lexsort(rows.T[::-1])
    rows, lengths = rows[items], titles.lengths[items]
    if not complete_prefixes:
        kept = ~_begins_another(rows, lengths)
        rows, lengths, items = rows[kept], lengths[kept], items[kept]
    rows[np.arange(len(rows)), lengths] = end_of_turn_id

    # A row opens a node for each token after those that it shares with the row before: row by row, in preorder.
    columns = np.arange(rows.shape[1])
    shared = np.concatenate([[0], _shared_lengths(rows)])
    is_new = (columns >= shared[:, None]) & (columns <= lengths[:, None])
    row_of_node, column_of_node = np.nonzero(is_new)
    num_nodes = len(row_of_node) + 1
    # The node at each token: its own, or that of the last row above which opened one.
    nodes = np.zeros(rows.shape, dtype=np.int32)
    nodes[is_new] = np.arange(1, num_nodes)
    nodes = np.maximum.accumulate(nodes, axis=0)

    parents = np.where(column_of_node > 0, nodes[row_of_node, column_of_node - 1], 0).astype(np.int64)
    depths = np.concatenate([[0], column_of_node + 1])
    sizes = np.ones(num_nodes, dtype=np.int64)
    for depth in range(int(depths.max()), 0, -1):
        level = np.flatnonzero(depths == depth)
        sizes += np.bincount(parents[level - 1], weights=sizes[level], minlength=num_nodes).astype(np.int64)
    leaves = nodes[np.arange(len(rows)), lengths].astype(np.int64)
    return TitleTrie(
        tokens=np.concatenate([[-1], rows[is_new].astype(np.int64)]),
        depths=depths,
        subtree_ends=np.arange(num_nodes) + sizes,
        child_offsets=np.concatenate([[0], np.cumsum(np.bincount(parents, minlength=num_nodes))]),
        children=1 + np.argsort(parents, kind="stable"),
        items=items,
        item_offsets=np.concatenate([[0], np.cumsum(np.bincount(leaves, minlength=num_nodes))]),
        num_items=len(titles),
    )


def _shared_lengths(rows: np.ndarray) -> np.ndarray:
    """How many leading entries each row but the first shares with the row before it."""
    return np.logical_and.accumulate(rows[1:] == rows[:-1], axis=1).sum(axis=1)


def _begins_another(rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Whether the title in each of the sorted `rows` begins another, longer one."""
    shared = _shared_lengths(rows)
    # If it begins any, it begins the next different title; items with one title share the answer.
    begins_next = np.append((shared >= lengths[:-1]) & (lengths[1:] > lengths[:-1]), False)
    opens_title = np.concatenate([[True], shared < rows.shape[1]])
    last_of_title = np.append(np.flatnonzero(opens_title)[1:], len(rows)) - 1
    return begins_next[last_of_title][np.cumsum(opens_title) - 1]
