"""Allowed items: the items that may be recommended for each prompt, as short lists of those allowed or left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .title_tokens import sorted_distinct
from .trie import TitleTrie


_LONG_SHARE = 8
"""A list that holds at least one in eight items is turned into a mask, which is faster than to sort it."""


def _no_items() -> np.ndarray:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class ItemSet:
    """
    A set among the items whose titles can be spelled. It lists its items or all the others, whichever
    are fewer, so that a set among a million items takes little memory.

    Args:
        listed (`numpy.ndarray` of shape `(n,)`, int64, *optional*, defaults to an empty array):
            Catalog indices, ascending, each once.
        is_rest (`bool`, *optional*, defaults to `True`):
            Whether the set holds all items but the listed ones. Otherwise it holds the listed ones.
    """

    listed: np.ndarray = field(default_factory=_no_items)
    is_rest: bool = True

    @classmethod
    def from_mask(cls, mask: np.ndarray, can_be_spelled: np.ndarray | None = None) -> ItemSet:
        """
        Makes the set of the items at which a mask is true.

        Args:
            mask (`numpy.ndarray` of shape `(num_items,)`, bool):
                Whether each item is in the set, by catalog index.
            can_be_spelled (`numpy.ndarray` of shape `(num_items,)`, bool, *optional*):
                Whether each item's title can be spelled. All can if not given.
        """
        if can_be_spelled is not None:
            mask = mask & can_be_spelled
        others = ~mask if can_be_spelled is None else can_be_spelled & ~mask
        listed, others = np.flatnonzero(mask), np.flatnonzero(others)
        return cls(others) if len(others) <= len(listed) else cls(listed, is_rest=False)

    def size(self, num_items: int) -> int:
        """Returns the number of items in the set, among `num_items` whose titles can be spelled."""
        return num_items - len(self.listed) if self.is_rest else len(self.listed)

    def holds(self, items: np.ndarray) -> np.ndarray:
        """Returns whether each of `items`, whose titles can be spelled, is in the set; of the shape of `items`."""
        if len(self.listed) == 0:
            return np.full(items.shape, self.is_rest)
        places = np.minimum(np.searchsorted(self.listed, items), len(self.listed) - 1)
        return (self.listed[places] == items) != self.is_rest

    def without(self, items: np.ndarray) -> ItemSet:
        """Returns the set without `items`, which can be spelled."""
        if self.is_rest:
            return ItemSet(sorted_distinct(np.concatenate([self.listed, items])))
        return ItemSet(self.listed[~np.isin(self.listed, items)], is_rest=False)


def keep_allowed(scores: np.ndarray, allowed: ItemSet) -> None:
    """Sets the scores of all items of the catalog, of shape `(num_items,)`, to -infinity where one is not allowed."""
    if allowed.is_rest:
        scores[allowed.listed] = -np.inf
        return
    kept = scores[allowed.listed]
    scores[:] = -np.inf
    scores[allowed.listed] = kept


class AllowedRows(Sequence[ItemSet]):
    """
    The items that may be recommended for each of B prompts. A row is made when it is asked for.

    Args:
        trie ([`TitleTrie`]):
            The titles.
        num_rows (`int`):
            Number of prompts B.
        candidates (`Sequence[numpy.ndarray]`, *optional*):
            For each prompt, the catalog indices that may be recommended, or an [`ItemSet`]; all if not given. Prompts
            that share an array cost no more than one of them.
        excluded (`Sequence[numpy.ndarray]`, *optional*):
            For each prompt, the catalog indices that may not be recommended.

    Raises:
        ValueError: If there is not one array for each prompt. When a row is asked for: if an index lies outside the
            catalog, or nothing is left.
    """

    def __init__(
        self,
        trie: TitleTrie,
        num_rows: int,
        candidates: Sequence[np.ndarray | ItemSet] | None = None,
        excluded: Sequence[np.ndarray] | None = None,
    ) -> None:
        for name, arrays in (("candidates", candidates), ("excluded", excluded)):
            if arrays is not None and len(arrays) != num_rows:
                raise ValueError(f"`{name}` needs one array for each of {num_rows} prompts, got {len(arrays)}.")
        self._trie, self._num_rows = trie, num_rows
        self._candidates, self._excluded = candidates, excluded
        self._latest: tuple[np.ndarray, ItemSet] | None = None

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, row: int) -> ItemSet:  # type: ignore[override]
        if not 0 <= row < len(self):
            raise IndexError(f"There are {len(self)} rows, and no row {row}.")  # ends a loop over the rows
        num_items = len(self._trie.items)
        allowed = ItemSet() if self._candidates is None else self._set_of(row, self._candidates[row])
        if self._excluded is None:
            return allowed
        num_candidates = allowed.size(num_items)
        allowed = allowed.without(self._spelled(row, self._excluded[row]))
        if allowed.size(num_items) == 0:
            raise ValueError(
                f"Row {row} has no item left to recommend: all {num_candidates} candidates are excluded. If its "
                "history holds them all, pass `exclude_seen=False`, which recommends items of the history again."
            )
        return allowed

    def check(self) -> None:
        """
        Checks all rows.

        Raises:
            ValueError: As a row does that is asked for.
        """
        if self._candidates is not None or self._excluded is not None:
            for row in range(len(self)):
                self[row]

    def _set_of(self, row: int, candidates: np.ndarray | ItemSet) -> ItemSet:
        if isinstance(candidates, ItemSet):
            allowed = candidates
        elif self._latest is not None and self._latest[0] is candidates:
            return self._latest[1]
        else:
            allowed = self._listed(self._spelled(row, candidates))
        if allowed.size(len(self._trie.items)) == 0:
            num_given = len(candidates.listed) if isinstance(candidates, ItemSet) else len(candidates)
            raise ValueError(
                f"Row {row} has no candidates: its array holds {num_given} items, none of which can be ranked."
            )
        if not isinstance(candidates, ItemSet):
            self._latest = candidates, allowed
        return allowed

    def _listed(self, indices: np.ndarray) -> ItemSet:
        if len(indices) * _LONG_SHARE < self._trie.num_items:
            return ItemSet(sorted_distinct(indices), is_rest=False)
        mask = np.zeros(self._trie.num_items, dtype=bool)
        mask[indices] = True
        return ItemSet.from_mask(mask, self._trie.leaf_of_item >= 0)

    def _spelled(self, row: int, indices: np.ndarray) -> np.ndarray:
        """Checks catalog indices, and leaves out the items whose titles cannot be spelled."""
        indices = np.asarray(indices, dtype=np.int64)
        outside = (indices < 0) | (indices >= self._trie.num_items)
        if outside.any():
            raise ValueError(
                f"Row {row} names item {indices[outside][0]}; catalog indices lie between 0 and "
                f"{self._trie.num_items - 1}."
            )
        return indices[self._trie.leaf_of_item[indices] >= 0]
