"""Candidate sets: the items among which each target of an evaluation is ranked, if that is not the whole catalog"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..runtime.catalog import Catalog
from ..runtime.user_histories import candidate_indices, split_candidates


@dataclass(frozen=True, eq=False)
class CandidateSets:
    """
    The candidates of n targets. A target is always a candidate, too: it joins them when they are asked for, so that
    candidates of all targets are kept once.

    Args:
        given (`Sequence[numpy.ndarray]`):
            Catalog indices of each target's candidates, ascending, each once. Targets may share an array.
        targets (`numpy.ndarray` of shape `(n,)`, int64):
            Catalog indices of the targets.
    """

    given: Sequence[np.ndarray]
    targets: np.ndarray

    @classmethod
    def from_ids(cls, candidates: Any, targets: np.ndarray, catalog: Catalog) -> CandidateSets:
        """
        Looks up candidates.

        Args:
            candidates (`Collection[int | str]`, or a sequence of them):
                Item ids: one collection for all targets, or one for each.
            targets (`numpy.ndarray` of shape `(n,)`, int64):
                Catalog indices of the targets.
            catalog ([`Catalog`]):
                The catalog.

        Raises:
            ValueError: If the number of collections is not the number of targets, or a collection is empty.
            KeyError: If an id is not in the catalog.
            TypeError: If the ids are not of the catalog's kind.
        """
        try:
            is_shared, values = split_candidates(candidates, len(targets))
        except ValueError:
            raise ValueError(
                f"`candidates` holds {len(candidates)} lists for {len(targets)} targets. Give one list of ids for all "
                "targets, or one for each, in the order of the rows and of the targets in them."
            ) from None
        found = candidate_indices([values] if is_shared else values, 1 if is_shared else len(targets), catalog)
        sets = [np.unique(items) for items in found or ()]
        return cls(sets * len(targets) if is_shared else sets, targets)

    def of(self, numbers: np.ndarray) -> list[np.ndarray]:
        """Returns the candidates of some targets, by their numbers."""
        return [_with_target(self.given[number], self.targets[number]) for number in numbers]

    def describe(self) -> dict[str, Any]:
        """Returns JSON-ready values that say how many candidates there are, and distinguish them from others."""
        distinct = {id(items): items for items in self.given}
        sums = {number: _hashes(items).sum(dtype=np.uint64) for number, items in distinct.items()}
        own = _hashes(self.targets)
        sizes = np.array([len(items) for items in self.given])
        hashes = np.array([sums[id(items)] for items in self.given], dtype=np.uint64)
        pairs = zip(self.given, self.targets, strict=True)
        is_outside = np.array([not _holds(items, target) for items, target in pairs], dtype=bool)
        sizes[is_outside] += 1
        hashes[is_outside] += own[is_outside]
        return {
            "fewest": int(sizes.min()),
            "mean": round(float(sizes.mean()), 3),
            "most": int(sizes.max()),
            "crc32": zlib.crc32(hashes.astype("<u8").tobytes()),
        }


def _holds(items: np.ndarray, target: int) -> bool:
    place = np.searchsorted(items, target)
    return bool(place < len(items) and items[place] == target)


def _with_target(items: np.ndarray, target: int) -> np.ndarray:
    return items if _holds(items, target) else np.insert(items, np.searchsorted(items, target), target)


def _hashes(items: np.ndarray) -> np.ndarray:
    """Returns a number of 64 bits for each item (SplitMix64). The sum over a set tells it from other sets."""
    mixed = (items.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def allowed_items(
    shape: tuple[int, ...], seen: Sequence[np.ndarray] | None, candidates: Sequence[np.ndarray] | None
) -> np.ndarray:
    """
    Marks the items that may be recommended.

    Args:
        shape (`tuple[int, int]`):
            The numbers of targets and of items.
        seen (`Sequence[numpy.ndarray]`, *optional*):
            For each target, the catalog indices that are left out.
        candidates (`Sequence[numpy.ndarray]`, *optional*):
            For each target, the catalog indices among which it is ranked. All if not given.

    Returns:
        `numpy.ndarray` of this shape, bool.
    """
    allowed = np.full(shape, candidates is None)
    for row, items in enumerate(candidates or []):
        allowed[row, items] = True
    for row, left_out in enumerate(seen or []):
        allowed[row, left_out] = False
    return allowed
