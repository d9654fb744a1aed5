"""The title trie: every token sequence that spells a title of the catalog, as flat arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .title_order import is_prefix_of_another, shared_lengths, sort_titles
from .title_tokens import TitleTokens, ragged_arange


_NODES_PER_SORTED_LEAF = 64
"""Sorting a leaf takes as long as looking through about so many nodes."""


@dataclass(frozen=True, eq=False)
class TitleTrie:
    """
    A trie of titles. The end-of-turn token follows each title, so that a title can end even if it is a prefix of
    another title.

    Nodes are numbered in preorder: the root is 0, a node's first child is the next node, and the nodes below node `n`
    are `n + 1, …, subtree_ends[n] - 1`. So node `m` is on the path to node `n` exactly if `m <= n < subtree_ends[m]`.
    The nodes of a chain, with one child each, have consecutive numbers and need no pointers. All arrays are int64.

    Args:
        tokens (`numpy.ndarray` of shape `(num_nodes,)`):
            Token that leads into each node; -1 for the root.
        depths (`numpy.ndarray` of shape `(num_nodes,)`):
            Number of tokens from the root to each node.
        subtree_ends (`numpy.ndarray` of shape `(num_nodes,)`):
            The first node after all nodes below each node.
        child_offsets (`numpy.ndarray` of shape `(num_nodes + 1,)`):
            The children of node `n` are `children[child_offsets[n] : child_offsets[n + 1]]`. A leaf has none.
        children (`numpy.ndarray` of shape `(num_nodes - 1,)`):
            See `child_offsets`.
        items (`numpy.ndarray` of shape `(num_titles,)`):
            Catalog indices of all items whose titles can be spelled, in the order of their leaves. Items with the same
            title share a leaf.
        item_offsets (`numpy.ndarray` of shape `(num_nodes + 1,)`):
            The items at or below node `n` are `items[item_offsets[n] : item_offsets[subtree_ends[n]]]`.
        num_items (`int`):
            Number of items in the catalog, including items whose titles cannot be spelled.
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
        """Number of children of each node, shape `(num_nodes,)`."""
        return np.diff(self.child_offsets)

    @cached_property
    def levels(self) -> list[np.ndarray]:
        """The nodes of each depth, ascending; the root's depth is 0."""
        return _split_levels(_by_level(self.depths), self.depths)

    @cached_property
    def places_among_siblings(self) -> np.ndarray:
        """The number of earlier children of the same parent, for each node, shape `(num_nodes,)`; 0 for the root."""
        places = np.zeros(self.num_nodes, dtype=np.int64)
        places[self.children] = ragged_arange(self.num_children)
        return places

    @cached_property
    def is_choice(self) -> np.ndarray:
        """Whether a title can go on in several ways after each node, shape `(num_nodes,)`."""
        return self.num_children > 1

    @cached_property
    def only_leaves(self) -> np.ndarray:
        """The leaf below each node at and below which there is no choice, shape `(num_nodes,)`; -1 for other nodes."""
        num_choices = np.concatenate([[0], np.cumsum(self.is_choice)])
        has_choice = num_choices[self.subtree_ends] > num_choices[:-1]
        return np.where(has_choice, -1, self.subtree_ends - 1)

    @cached_property
    def choices_above(self) -> np.ndarray:
        """The deepest choice above each node, shape `(num_nodes,)`; -1 if there is none."""
        above = np.full(self.num_nodes, -1)
        for level in self.levels[1:]:
            parents = self.parents[level]
            above[level] = np.where(self.is_choice[parents], parents, above[parents])
        return above

    @cached_property
    def parents(self) -> np.ndarray:
        """Parent of each node, shape `(num_nodes,)`; -1 for the root."""
        parents = np.full(self.num_nodes, -1)
        parents[self.children] = np.repeat(np.arange(self.num_nodes), self.num_children)
        return parents

    @cached_property
    def deepest_leaves(self) -> np.ndarray:
        """Depth of the deepest leaf at or below each node, shape `(num_nodes,)`."""
        return self._gathered_from_leaves(self.depths.copy(), np.maximum)

    @cached_property
    def shallowest_leaves(self) -> np.ndarray:
        """Depth of the shallowest leaf at or below each node, shape `(num_nodes,)`."""
        depths = np.where(self.num_children > 0, self.max_depth, self.depths)
        return self._gathered_from_leaves(depths, np.minimum)

    def _gathered_from_leaves(self, depths: np.ndarray, choose: np.ufunc) -> np.ndarray:
        for level in self.levels[:0:-1]:
            choose.at(depths, self.parents[level], depths[level])
        return depths

    @cached_property
    def leaf_of_item(self) -> np.ndarray:
        """Leaf of each item by catalog index, shape `(num_items,)`; -1 for items whose titles cannot be spelled."""
        leaves = np.full(self.num_items, -1)
        leaves[self.items] = np.repeat(np.arange(self.num_nodes), np.diff(self.item_offsets))
        return leaves

    @cached_property
    def place_of_item(self) -> np.ndarray:
        """Index in `items` of each item by catalog index, shape `(num_items,)`; -1 for items that `items` lacks."""
        places = np.full(self.num_items, -1)
        places[self.items] = np.arange(len(self.items))
        return places

    @cached_property
    def most_items_of_a_title(self) -> int:
        """The largest number of items that share a title."""
        return int(np.diff(self.item_offsets).max())

    @cached_property
    def all_titles(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[`TitleTrie.titles_of`] all items whose titles can be spelled."""
        return self.titles_of(self.items)

    @cached_property
    def repeated_items(self) -> np.ndarray:
        """Items that can be spelled and whose title an earlier item of the catalog has, ascending."""
        is_first = np.zeros(self.num_items, dtype=bool)
        is_first[self.all_titles[1]] = True
        return np.flatnonzero(~is_first & (self.leaf_of_item >= 0))

    @cached_property
    def chain_lengths(self) -> np.ndarray:
        """
        Number of nodes that can be read without a choice, from each node on. A chain ends with the next node that has
        several children or a leaf as its child. Shape `(num_nodes,)`; 0 for leaves, which need not be read.
        """
        # A chain continues after a node if the node's only child, which is the next node, is not a leaf.
        is_within = (self.num_children == 1) & (np.append(self.num_children[1:], 0) > 0)
        stops = np.flatnonzero(~is_within)
        stop = stops[np.searchsorted(stops, np.arange(self.num_nodes))]
        return np.where(self.num_children > 0, stop + 1 - np.arange(self.num_nodes), 0)

    def children_of(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the children of `nodes` as flat arrays: the index in `nodes` of each parent, and the child."""
        counts = self.num_children[nodes]
        slots = np.repeat(self.child_offsets[nodes], counts) + ragged_arange(counts)
        return np.repeat(np.arange(len(nodes)), counts), self.children[slots]

    def ancestors_of(self, node: int) -> np.ndarray:
        """Returns the nodes on the path from the root to `node`, without these two, by depth."""
        ancestors, parent = [], int(self.parents[node])
        while parent > 0:
            ancestors.append(parent)
            parent = int(self.parents[parent])
        return np.array(ancestors[::-1], dtype=np.int64)

    def choices_on_paths(self, leaves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Returns the choices on the path from the root to each of `leaves` as flat arrays: the index in `leaves`,
        ascending, and the choice, by depth.
        """
        numbers, choices = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        number, choice = np.arange(len(leaves)), self.choices_above[leaves]
        while (choice >= 0).any():
            number, choice = number[choice >= 0], choice[choice >= 0]
            numbers.append(number)
            choices.append(choice)
            choice = self.choices_above[choice]
        flat_numbers, flat_choices = np.concatenate(numbers), np.concatenate(choices)
        order = np.lexsort((flat_choices, flat_numbers))
        return flat_numbers[order], flat_choices[order]

    def num_items_at(self, leaves: np.ndarray) -> np.ndarray:
        """Returns the number of items of each of `leaves`, which share a title; of the shape of `leaves`."""
        return self.item_offsets[leaves + 1] - self.item_offsets[leaves]

    def items_at(self, leaves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the items of `leaves` as flat arrays: the index in `leaves` of each leaf, and the item."""
        starts, counts = self.item_offsets[leaves], self.num_items_at(leaves)
        return np.repeat(np.arange(len(leaves)), counts), self.items[np.repeat(starts, counts) + ragged_arange(counts)]

    def titles_of(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Returns the distinct titles of `items`, which must be possible to spell: the leaf of each title, ascending; the
        first item with each title; and the number of `items` with each title.
        """
        items = np.sort(items)
        leaves, first, counts = np.unique(self.leaf_of_item[items], return_index=True, return_counts=True)
        return leaves, items[first], counts

    def items_spelled_like(self, items: np.ndarray) -> np.ndarray:
        """Returns all items that share a title with any of `items`. Titles that cannot be spelled are skipped."""
        leaves = self.leaf_of_item[items]
        leaves = leaves[leaves >= 0]
        if len(leaves) * _NODES_PER_SORTED_LEAF < self.num_nodes:
            return self.items_at(np.unique(leaves))[1]
        is_asked = np.zeros(self.num_nodes, dtype=bool)  # much faster than to sort the leaves of a long history
        is_asked[leaves] = True
        return self.items_at(np.flatnonzero(is_asked))[1]


def build_trie(titles: TitleTokens, end_of_turn_id: int, complete_prefixes: bool = True) -> TitleTrie:
    """
    Builds the trie of a catalog.

    Args:
        titles ([`TitleTokens`]):
            One title per item.
        end_of_turn_id (`int`):
            Token that ends every title.
        complete_prefixes (`bool`, *optional*, defaults to `True`):
            Whether a title that is a prefix of another can be spelled. The released code leaves such titles out.

    Returns:
        [`TitleTrie`]

    Raises:
        ValueError: If there is no title.
    """
    if len(titles) == 0:
        raise ValueError("A title trie needs at least one title, got none.")
    # In this order, equal beginnings are adjacent, and a title precedes the titles of which it is a prefix.
    items = sort_titles(titles)
    ordered = titles.select(items)
    if not complete_prefixes:
        items = items[~is_prefix_of_another(ordered)]
        ordered = titles.select(items)
    rows = ordered.ended(end_of_turn_id)

    # Each row opens a node for every token after the prefix that it shares with the row before. Row by row, the nodes
    # are in preorder, so a node's parent is the latest node before it that is one token less deep.
    shared = np.append(0, shared_lengths(rows))
    num_new = rows.lengths - shared
    steps = ragged_arange(num_new)
    depths = np.append(0, np.repeat(shared, num_new) + steps + 1)
    tokens = np.append(-1, rows.ids[np.repeat(rows.offsets[:-1] + shared, num_new) + steps])
    num_nodes, by_level = len(tokens), _by_level(depths)
    parents = np.arange(num_nodes) - 1
    opening = 1 + (np.cumsum(num_new) - num_new)[num_new > 0]  # the first node of each row
    keys = depths[by_level] * num_nodes + by_level  # ascending
    parents[opening] = by_level[np.searchsorted(keys, (depths[opening] - 1) * num_nodes + opening) - 1]

    sizes = np.ones(num_nodes, dtype=np.int64)
    for level in reversed(_split_levels(by_level, depths)[1:]):
        np.add.at(sizes, parents[level], sizes[level])
    child_offsets = np.append(0, np.cumsum(np.bincount(parents[1:], minlength=num_nodes)))
    # Level by level, the parents ascend, so that siblings are adjacent.
    below = by_level[1:]
    places = ragged_arange(np.diff(np.flatnonzero(np.diff(parents[below], prepend=-1, append=-1))))
    children = np.empty(num_nodes - 1, dtype=np.int64)
    children[child_offsets[parents[below]] + places] = below
    leaves = np.cumsum(num_new)  # a title that equals the one before opens no node, and has the leaf of that one
    return TitleTrie(
        tokens=tokens,
        depths=depths,
        subtree_ends=np.arange(num_nodes) + sizes,
        child_offsets=child_offsets,
        children=children,
        items=items,
        item_offsets=np.append(0, np.cumsum(np.bincount(leaves, minlength=num_nodes))),
        num_items=len(titles),
    )


def _by_level(depths: np.ndarray) -> np.ndarray:
    """Returns the nodes by depth; the nodes of each depth ascend."""
    # NumPy sorts numbers of 16 bits by counting, in a fraction of the time.
    return np.argsort(depths.astype(np.min_scalar_type(int(depths.max()))), kind="stable")


def _split_levels(by_level: np.ndarray, depths: np.ndarray) -> list[np.ndarray]:
    """Returns the nodes of each depth."""
    return np.split(by_level, np.cumsum(np.bincount(depths))[:-1])
