"""Title lists: the titles that may be recommended for a target, and the target's rank among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..runtime.trie import TitleTrie
from .metrics import mean_rank
from .protocol import EvaluationProtocol


@dataclass(frozen=True, eq=False)
class AllowedTitles:
    """
    The n titles that may be recommended for one target. Items that are spelled alike share one title.

    Args:
        leaves (`numpy.ndarray` of shape `(n,)`, int64):
            Leaf of each title in the trie, ascending.
        items (`numpy.ndarray` of shape `(n,)`, int64):
            First item of each title, which represents the title in a ranking.
        num_items (`numpy.ndarray` of shape `(n,)`, int64):
            Number of items that have the title.
    """

    leaves: np.ndarray
    items: np.ndarray
    num_items: np.ndarray


class TitleLists:
    """
    Matches ranked titles with targets.

    Args:
        trie ([`TitleTrie`]):
            The title trie, which holds the titles that can be spelled.
        titles (`Sequence[str]`):
            The catalog's titles.
        protocol ([`EvaluationProtocol`]):
            Decides when a ranked title counts as the target.
    """

    def __init__(self, trie: TitleTrie, titles: Sequence[str], protocol: EvaluationProtocol) -> None:
        self.trie = trie
        self._titles = titles
        self._protocol = protocol
        self._all = AllowedTitles(*trie.all_titles)

    @property
    def num_titles(self) -> int:
        """Number of different titles that can be spelled."""
        return len(self._all.items)

    def all(self, num_targets: int) -> list[AllowedTitles]:
        """Returns all titles, for each target."""
        return [self._all] * num_targets

    def without(self, seen: Sequence[np.ndarray], targets: np.ndarray) -> list[AllowedTitles]:
        """
        Returns the titles that remain for each target without the seen items.

        Args:
            seen (`Sequence[numpy.ndarray]`):
                For each target, the catalog indices of the items that its history holds.
            targets (`numpy.ndarray` of shape `(B,)`, int64):
                Catalog indices. The target's title always remains.
        """
        if not self._protocol.credit_items:  # a title is left out as a whole, with all of its items
            leaves, target_leaves = self.trie.leaf_of_item, self.trie.leaf_of_item[targets]
            seen = [
                self.trie.items_spelled_like(items[leaves[items] != leaf])
                for items, leaf in zip(seen, target_leaves, strict=True)
            ]
        return [AllowedTitles(*self.trie.titles_of(np.setdiff1d(self.trie.items, items))) for items in seen]

    def find(
        self, allowed: Sequence[AllowedTitles], ranked: np.ndarray, targets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Finds each target in its ranking.

        Args:
            allowed (`Sequence[AllowedTitles]`):
                For each of B targets, the titles that were ranked.
            ranked (`numpy.ndarray` of shape `(B, k)`, int64):
                The first item of each ranked title, best first; -1 after the end of a shorter ranking.
            targets (`numpy.ndarray` of shape `(B,)`, int64):
                Catalog indices.

        Returns:
            `tuple` of three arrays of shape `(B,)`:
                - the target's rank among all items, where items with the same title share the mean of their ranks;
                - the target's rank among titles;
                - the number of items that share the target's rank among items.
            A rank of infinity lies beyond the ranking's end.
        """
        if not self._protocol.credit_items:
            ranks = self._protocol.ranks(self._titles, ranked, targets)
            return ranks, ranks, np.ones(len(targets))
        results = [self._find_one(*one) for one in zip(allowed, ranked, targets, strict=True)]
        item_ranks, title_ranks, num_ties = np.array(results).T
        return item_ranks, title_ranks, num_ties

    def _find_one(self, allowed: AllowedTitles, ranked: np.ndarray, target: int) -> tuple[float, float, int]:
        leaf, leaves = self.trie.leaf_of_item[target], self.trie.leaf_of_item[ranked[ranked >= 0]]
        if leaf < 0:  # the title cannot be spelled
            return np.inf, np.inf, 1
        num_items = allowed.num_items[np.searchsorted(allowed.leaves, [leaf, *leaves])]
        index = np.flatnonzero(leaves == leaf)
        if len(index) == 0:
            return np.inf, np.inf, int(num_items[0])
        item_rank = mean_rank(num_items[1 : 1 + index[0]].sum(), num_items[0])
        return float(item_rank), 1.0 + index[0], int(num_items[0])
