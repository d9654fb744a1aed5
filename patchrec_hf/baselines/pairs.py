"""Pairs: counts how often an item follows another closely in training rows, and turns the counts into scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from datasets import Dataset

from ..data.rows import read_frame
from ..runtime.catalog import Catalog


@dataclass(frozen=True, eq=False)
class Pairs:
    """
    Each pair that occurs in either order, with its weights in both directions (float64). Offsets and targets are as in
    [`NeighborTable`].
    """

    offsets: np.ndarray
    targets: np.ndarray
    forward: np.ndarray
    backward: np.ndarray

    def scores(
        self, popularity: np.ndarray, backward_weight: float, source_exponent: float, target_exponent: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Turns the weights into the arrays of a [`NeighborTable`].

        Args:
            popularity (`numpy.ndarray` of shape `(num_items,)`, float64):
                Popularity of each item, at least 1.
            backward_weight (`float`):
                Factor on the weights of the backward direction.
            source_exponent, target_exponent (`float`):
                Scores are divided by the popularity of the item that recommends, and of the item that is recommended,
                to these powers.

        Returns:
            `tuple` of offsets, targets and values (float32), without scores of 0.
        """
        values = self.forward + backward_weight * self.backward
        values /= np.repeat(popularity**source_exponent, np.diff(self.offsets))
        values /= (popularity**target_exponent)[self.targets]
        rounded = values.astype(np.float32)
        is_kept = rounded != 0
        if is_kept.all():
            return self.offsets, self.targets, rounded
        offsets = np.concatenate([[0], np.cumsum(is_kept)])[self.offsets]
        return offsets, self.targets[is_kept], rounded[is_kept]


@dataclass(frozen=True, eq=False)
class FlatTargets:
    """
    The targets of rows, in flat arrays.

    Args:
        items (`numpy.ndarray` of shape `(n,)`, int64):
            Catalog indices of the items of all rows, one row after the other.
        indices (`numpy.ndarray` of shape `(num_targets,)`, int64):
            Index in `items` of each target.
        num_before (`numpy.ndarray` of shape `(num_targets,)`, int64):
            Number of items before each target in its row.
        num_items (`int`):
            Number of items of the catalog.
    """

    items: np.ndarray
    indices: np.ndarray
    num_before: np.ndarray
    num_items: int

    @classmethod
    def from_rows(cls, dataset: Dataset, catalog: Catalog) -> FlatTargets:
        """
        Reads rows.

        Raises:
            KeyError: If the catalog lacks an item.
        """
        rows = read_frame(dataset, "item_ids", "target_positions")
        lengths = rows["item_ids"].list.len().cast(pl.Int64).to_numpy()
        num_before = rows["target_positions"].explode().to_numpy().astype(np.int64)
        starts = np.repeat(np.cumsum(lengths) - lengths, rows["target_positions"].list.len().to_numpy())
        items = catalog.indices_of(rows["item_ids"].explode().to_numpy())
        return cls(items, starts + num_before, num_before, len(catalog))

    @property
    def popularity(self) -> np.ndarray:
        """How often each item is a target, at least 1, shape `(num_items,)`, float64."""
        counts = np.bincount(self.items[self.indices], minlength=self.num_items)
        return np.maximum(counts, 1).astype(np.float64)


def count_pairs(flat: FlatTargets, window: int) -> Pairs:
    """
    Counts pairs of a target and an item before it in its row, at a distance of up to `window`. The weight of a pair is
    1 divided by the distance. Memory holds each pair that occurs once.

    Args:
        flat ([`FlatTargets`]):
            The targets.
        window (`int`):
            The largest distance.
    """
    items, target_indices, num_before, num_items = flat.items, flat.indices, flat.num_before, flat.num_items
    keys: np.ndarray = np.empty(0, dtype=np.int64)
    weights: np.ndarray = np.empty(0)
    for distance in range(1, window + 1):  # sum up after each distance, so that memory holds each pair only once
        later = target_indices[num_before >= distance]
        new_keys, counts = np.unique(items[later - distance] * num_items + items[later], return_counts=True)
        keys, cells = np.unique(np.concatenate([keys, new_keys]), return_inverse=True)
        weights = np.bincount(cells, np.concatenate([weights, counts / distance]), minlength=len(keys))
    reversed_keys = keys % num_items * num_items + keys // num_items
    either, cells = np.unique(np.concatenate([keys, reversed_keys]), return_inverse=True)
    forward = np.bincount(cells[: len(keys)], weights, minlength=len(either))
    backward = np.bincount(cells[len(keys) :], weights, minlength=len(either))
    offsets = np.searchsorted(either, np.arange(num_items + 1) * num_items)
    index_type = np.int32 if num_items <= np.iinfo(np.int32).max else np.int64
    return Pairs(offsets, (either % num_items).astype(index_type), forward, backward)
