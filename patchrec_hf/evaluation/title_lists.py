"""Title lists: the titles that may be recommended for a target, and the target's rank among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..runtime.allowed_items import ItemSet
from ..runtime.trie import TitleTrie
from .metrics import mean_rank
from .protocol import EvaluationProtocol


@dataclass(frozen=True, eq=False)
class AllowedTitles:
    """
    The titles that may be recommended for one target. Items that are spelled alike share one title. All titles of the
    catalog are kept once for all targets, and for each target only the titles of which items are left out.

    Args:
        trie ([`TitleTrie`]):
            The titles that can be spelled.
        changed (`numpy.ndarray` of shape `(n,)`, int64):
            Leaves of the titles of which items are left out, ascending.
        firsts (`numpy.ndarray` of shape `(n,)`, int64):
            For each of them, the first item that remains; -1 if none does.
        counts (`numpy.ndarray` of shape `(n,)`, int64):
            For each of them, the number of items that remain.
    """

    trie: TitleTrie
    changed: np.ndarray
    firsts: np.ndarray
    counts: np.ndarray

    @classmethod
    def without(cls, trie: TitleTrie, items: np.ndarray) -> AllowedTitles:
        """Returns all titles without `items` (catalog indices)."""
        leaves = trie.leaf_of_item[items]
        changed = np.unique(leaves[leaves >= 0])
        places, remaining = trie.items_at(changed)
        is_kept = ~np.isin(remaining, items)
        places, remaining = places[is_kept], remaining[is_kept]
        firsts = np.full(len(changed), trie.num_items)
        np.minimum.at(firsts, places, remaining)
        return cls(
            trie,
            changed,
            np.where(firsts < trie.num_items, firsts, -1),
            np.bincount(places, minlength=len(changed)),
        )

    @property
    def representatives(self) -> ItemSet:
        """The first item of each title, which represents the title in a ranking."""
        others, former = self.trie.repeated_items, self.trie.items_at(self.changed)[1]
        firsts = self.firsts[self.firsts >= 0]
        return ItemSet(np.setdiff1d(np.union1d(others, former), firsts))

    def num_items_at(self, leaves: np.ndarray) -> np.ndarray:
        """Returns the number of items that may be recommended of each title, by its leaf."""
        numbers = self.trie.num_items_at(leaves)
        if len(self.changed) > 0:
            places = np.searchsorted(self.changed, leaves).clip(max=len(self.changed) - 1)
            numbers = np.where(self.changed[places] == leaves, self.counts[places], numbers)
        return numbers


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
        self._all = AllowedTitles.without(trie, np.empty(0, dtype=np.int64))

    @property
    def num_titles(self) -> int:
        """Number of different titles that can be spelled."""
        return len(self.trie.all_titles[0])

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
        return [AllowedTitles.without(self.trie, items) for items in seen]

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
        num_items = allowed.num_items_at(np.append(leaf, leaves))
        index = np.flatnonzero(leaves == leaf)
        if len(index) == 0:
            return np.inf, np.inf, int(num_items[0])
        item_rank = mean_rank(num_items[1 : 1 + index[0]].sum(), num_items[0])
        return float(item_rank), 1.0 + index[0], int(num_items[0])
