"""Pairs: how often an item follows another closely in training rows, and the scores that follow from the counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from datasets import Dataset

from ..data.rows import read_columns
from ..runtime.catalog import Catalog


@dataclass(frozen=True, eq=False)
class Pairs:
    """
    The pairs of consecutive items of the catalog with all others, each with its weights in both directions.

    Args:
        first_item (`int`):
            Catalog index of the first of these items.
        offsets (`numpy.ndarray` of shape `(num_these + 1,)`, int64):
            Start of each item's slice of the other arrays, then the end of the last slice.
        targets (`numpy.ndarray` of shape `(num_pairs,)`, int32 or int64):
            Catalog indices of the items with which an item forms a pair. They ascend in each slice.
        forward, backward (`numpy.ndarray` of shape `(num_pairs,)`, float64):
            The weight of the pair if the target follows the item, and if the item follows the target.
    """

    first_item: int
    offsets: np.ndarray
    targets: np.ndarray
    forward: np.ndarray
    backward: np.ndarray

    def scores(
        self, popularity: np.ndarray, backward_weight: float, source_exponent: float, target_exponent: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Turns the weights into these items' part of the arrays of a [`NeighborTable`].

        Args:
            popularity (`numpy.ndarray` of shape `(num_items,)`, float64):
                Popularity of each item of the catalog, at least 1.
            backward_weight (`float`):
                Factor on the weights of the backward direction.
            source_exponent, target_exponent (`float`):
                Scores are divided by the popularity of the item that recommends, and of the item that is recommended,
                to these powers.

        Returns:
            `tuple` of offsets, targets and values (float32), without scores of 0. The offsets begin with 0.
        """
        num_these = len(self.offsets) - 1
        sources = popularity[self.first_item : self.first_item + num_these]
        values = self.forward + backward_weight * self.backward
        values /= np.repeat(sources**source_exponent, np.diff(self.offsets))
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
    The targets of rows, in flat arrays. The arrays have 32 bits where this is exact.

    Args:
        items (`numpy.ndarray` of shape `(n,)`, int32 or int64):
            Catalog indices of the items of all rows, one row after the other.
        num_before (`numpy.ndarray` of shape `(n,)`, int32):
            Number of items before each target in its row; 0 for items that are no target.
        num_items (`int`):
            Number of items of the catalog.
    """

    items: np.ndarray
    num_before: np.ndarray
    num_items: int

    @classmethod
    def from_rows(cls, dataset: Dataset, catalog: Catalog) -> FlatTargets:
        """
        Reads rows, some at a time.

        Args:
            dataset ([`~datasets.Dataset`]):
                Rows that pass [`check_rows`].
            catalog ([`Catalog`]):
                Must hold every item.

        Raises:
            KeyError: If the catalog lacks an item.
        """
        kind = index_type(len(catalog))
        all_items, all_before = [np.empty(0, dtype=kind)], [np.empty(0, dtype=np.int32)]
        for rows in read_columns(dataset, "item_ids", "target_positions"):
            lengths = rows["item_ids"].list.len().cast(pl.Int64).to_numpy()
            positions = rows["target_positions"].explode().to_numpy().astype(np.int64)
            starts = np.repeat(np.cumsum(lengths) - lengths, rows["target_positions"].list.len().to_numpy())
            num_before = np.zeros(int(lengths.sum()), dtype=np.int32)
            num_before[starts + positions] = positions
            all_items.append(catalog.indices_of(rows["item_ids"].explode().to_numpy()).astype(kind))
            all_before.append(num_before)
        return cls(np.concatenate(all_items), np.concatenate(all_before), len(catalog))

    @property
    def popularity(self) -> np.ndarray:
        """How often each item is a target, at least 1, shape `(num_items,)`, float64."""
        counts = np.bincount(self.items[self.num_before > 0], minlength=self.num_items)
        return np.maximum(counts, 1).astype(np.float64)


def index_type(number: int) -> type[np.signedinteger]:
    """Returns the smaller of int32 and int64 that holds every index below `number`."""
    return np.int32 if number <= np.iinfo(np.int32).max else np.int64
