"""Title lists: the titles that may be recommended for a target, and the target's rank among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..runtime.allowed_items import ItemSet
from ..runtime.score_ties import model_tie_width
from ..runtime.title_tokens import sorted_distinct
from ..runtime.trie import TitleTrie
from .metrics import mean_rank
from .protocol import EvaluationProtocol


@dataclass(frozen=True, eq=False)
class AllowedTitles:
    """
    The titles that may be recommended for one target. Items that are spelled alike share one title. It lists
    the titles of the few items that are allowed, or else of the few that are left out.

    Args:
        trie ([`TitleTrie`]):
            The titles that can be spelled.
        listed (`numpy.ndarray` of shape `(n,)`, int64):
            Leaves of the listed titles, ascending.
        firsts (`numpy.ndarray` of shape `(n,)`, int64):
            For each of them, the first item that may be recommended; -1 if none may.
        counts (`numpy.ndarray` of shape `(n,)`, int64):
            For each of them, the number of items that may be recommended.
        is_rest (`bool`):
            Whether all items of the other titles may be recommended. Otherwise none of them may.
    """

    trie: TitleTrie
    listed: np.ndarray
    firsts: np.ndarray
    counts: np.ndarray
    is_rest: bool

    @classmethod
    def among(cls, trie: TitleTrie, items: np.ndarray) -> AllowedTitles:
        """Returns the titles of `items` (catalog indices, each once), without other items that are spelled alike."""
        leaves = trie.leaf_of_item[items]
        listed = sorted_distinct(leaves[leaves >= 0])
        return cls._of(trie, listed, np.searchsorted(listed, leaves[leaves >= 0]), items[leaves >= 0], is_rest=False)

    @classmethod
    def without(cls, trie: TitleTrie, items: np.ndarray) -> AllowedTitles:
        """Returns all titles without `items` (catalog indices)."""
        leaves = trie.leaf_of_item[items]
        listed = sorted_distinct(leaves[leaves >= 0])
        places, remaining = trie.items_at(listed)
        is_kept = ~np.isin(remaining, items)
        return cls._of(trie, listed, places[is_kept], remaining[is_kept], is_rest=True)

    @classmethod
    def _of(
        cls, trie: TitleTrie, listed: np.ndarray, places: np.ndarray, items: np.ndarray, is_rest: bool
    ) -> AllowedTitles:
        """Counts `items` at their places among the listed titles."""
        firsts = np.full(len(listed), trie.num_items)
        np.minimum.at(firsts, places, items)
        firsts = np.where(firsts < trie.num_items, firsts, -1)
        return cls(trie, listed, firsts, np.bincount(places, minlength=len(listed)), is_rest)

    @property
    def representatives(self) -> ItemSet:
        """The first item of each title, which represents the title in a ranking."""
        firsts = self.firsts[self.firsts >= 0]
        if not self.is_rest:
            return ItemSet(np.sort(firsts), is_rest=False)
        others, former = self.trie.repeated_items, self.trie.items_at(self.listed)[1]
        left_out = sorted_distinct(np.concatenate([others, former]))
        return ItemSet(left_out[~np.isin(left_out, firsts)])

    def num_items_at(self, leaves: np.ndarray) -> np.ndarray:
        """Returns the number of items that may be recommended of each title, by its leaf."""
        numbers = self.trie.num_items_at(leaves) if self.is_rest else np.zeros(len(leaves), dtype=np.int64)
        if len(self.listed) > 0:
            places = np.searchsorted(self.listed, leaves).clip(max=len(self.listed) - 1)
            numbers = np.where(self.listed[places] == leaves, self.counts[places], numbers)
        return numbers


class FoundTargets(NamedTuple):
    """
    Where B targets stand in their rankings.

    Args:
        item_ranks (`numpy.ndarray` of shape `(B,)`):
            The target's rank among all items, where items with equal scores, such as the items of one title, share the
            mean of their ranks. Infinity if neither the ranking nor what ties with its end holds the target.
        title_ranks (`numpy.ndarray` of shape `(B,)`):
            The target's rank among titles, where titles with equal scores share the mean of their ranks.
        num_ties (`numpy.ndarray` of shape `(B,)`):
            The number of items that share the target's rank among items, including the target.
        places (`numpy.ndarray` of shape `(B,)`):
            The place of the target's title in the list, where the catalog's order decides between equal scores; 1 is
            first, and infinity is not in the list.
    """

    item_ranks: np.ndarray
    title_ranks: np.ndarray
    num_ties: np.ndarray
    places: np.ndarray


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

    def without(
        self, seen: Sequence[np.ndarray], targets: np.ndarray, candidates: Sequence[np.ndarray] | None = None
    ) -> list[AllowedTitles]:
        """
        Returns the titles that remain for each target without the seen items, or among candidates.

        Args:
            seen (`Sequence[numpy.ndarray]`):
                For each target, the catalog indices of the items that its history holds.
            targets (`numpy.ndarray` of shape `(B,)`, int64):
                Catalog indices. The target's title always remains.
            candidates (`Sequence[numpy.ndarray]`, *optional*):
                For each target, the catalog indices among which it is ranked, with its own. All if not given.
        """
        if not self._protocol.credit_items:  # a title is left out as a whole, with all of its items
            leaves, target_leaves = self.trie.leaf_of_item, self.trie.leaf_of_item[targets]
            seen = [
                self.trie.items_spelled_like(items[leaves[items] != leaf])
                for items, leaf in zip(seen, target_leaves, strict=True)
            ]
        if candidates is None:
            return [AllowedTitles.without(self.trie, items) for items in seen]
        return [
            AllowedTitles.among(self.trie, np.setdiff1d(items, left_out))
            for items, left_out in zip(candidates, seen, strict=True)
        ]

    def find(
        self,
        allowed: Sequence[AllowedTitles],
        ranked: np.ndarray,
        scores: np.ndarray,
        targets: np.ndarray,
        tied: Mapping[int, np.ndarray] | None = None,
    ) -> FoundTargets:
        """
        Finds each target in its ranking.

        Args:
            allowed (`Sequence[AllowedTitles]`):
                For each of B targets, the titles that were ranked.
            ranked (`numpy.ndarray` of shape `(B, k)`, int64):
                The first item of each ranked title, best first; -1 after the end of a shorter ranking.
            scores (`numpy.ndarray` of shape `(B, k)`):
                The scores of the ranked titles. Titles whose scores are equal share the mean of their ranks (see
                [`model_tie_width`]). A protocol that does not credit items knows no ties.
            targets (`numpy.ndarray` of shape `(B,)`, int64):
                Catalog indices.
            tied (`Mapping[int, numpy.ndarray]`, *optional*):
                For some of the B rankings, the first items of the titles that tie with the last ranked one, but were
                left out.

        Returns:
            [`FoundTargets`]
        """
        if not self._protocol.credit_items:
            ranks = self._protocol.ranks(self._titles, ranked, targets)
            return FoundTargets(ranks, ranks, np.ones(len(targets)), ranks)
        tied = {} if tied is None else tied
        none = np.empty(0, dtype=np.int64)
        results = [
            self._find_one(*one, tied.get(row, none))
            for row, one in enumerate(zip(allowed, ranked, scores, targets, strict=True))
        ]
        return FoundTargets(*np.array(results, dtype=np.float64).T)

    def _find_one(
        self, allowed: AllowedTitles, ranked: np.ndarray, scores: np.ndarray, target: int, tied: np.ndarray
    ) -> tuple[float, float, int, float]:
        listed = ranked >= 0
        leaf, leaves = self.trie.leaf_of_item[target], self.trie.leaf_of_item[np.append(ranked[listed], tied)]
        if leaf < 0:  # the title cannot be spelled
            return np.inf, np.inf, 1, np.inf
        num_items = allowed.num_items_at(np.append(leaf, leaves))
        index = np.flatnonzero(leaves == leaf)
        if len(index) == 0:
            return np.inf, np.inf, int(num_items[0]), np.inf
        known = np.append(scores[listed], np.full(len(tied), scores[listed][-1]))
        width = model_tie_width(known[index[0]])
        is_above, is_equal = known > known[index[0]] + width, np.abs(known - known[index[0]]) <= width
        num_equal = int(num_items[1:][is_equal].sum())
        item_rank = mean_rank(num_items[1:][is_above].sum(), num_equal)
        place = 1.0 + index[0] if index[0] < listed.sum() else np.inf
        return float(item_rank), float(mean_rank(is_above.sum(), is_equal.sum())), num_equal, place
