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
    The candidates of n targets. A target is always a candidate, too.

    Args:
        sets (`Sequence[numpy.ndarray]`):
            Catalog indices of each target's candidates.
    """

    sets: Sequence[np.ndarray]

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
        sets = [] if found is None else found * (len(targets) if is_shared else 1)
        return cls([np.union1d(items, [target]) for items, target in zip(sets, targets, strict=True)])

    def of(self, numbers: np.ndarray) -> list[np.ndarray]:
        """Returns the candidates of some targets, by their numbers."""
        return [self.sets[number] for number in numbers]

    def describe(self) -> dict[str, Any]:
        """Returns JSON-ready values that say how many candidates there are, and distinguish them from others."""
        checksum = 0
        for items in self.sets:
            checksum = zlib.crc32(np.append(items, -1).astype(np.int64).tobytes(), checksum)
        sizes = [len(items) for items in self.sets]
        return {"fewest": min(sizes), "mean": round(float(np.mean(sizes)), 3), "most": max(sizes), "crc32": checksum}


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
