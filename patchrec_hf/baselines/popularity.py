"""Popularity: the same list for everybody."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from datasets import Dataset

from ..catalog import Catalog


class Popularity:
    """
    Scores each item by how often it is a target of the training rows.

    Args:
        catalog ([`Catalog`]):
            The items that can be recommended.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.counts = np.zeros(len(catalog))

    def fit(self, dataset: Dataset) -> Popularity:
        """
        Counts the targets.

        Args:
            dataset ([`~datasets.Dataset`]):
                Example rows to learn from.
        """
        rows = dataset.select_columns(["item_ids", "target_positions"]).to_polars()
        targets = rows.select(pl.col("item_ids").list.gather(pl.col("target_positions")).explode())["item_ids"]
        self.counts = np.bincount(self.catalog.indices_of(targets.to_numpy()), minlength=len(self.catalog)).astype(
            np.float64
        )
        return self

    def score(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """
        Scores every item for every history.

        Args:
            histories (`Sequence[Sequence[int]]`):
                Item ids, oldest first.

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, float64, in catalog order.
        """
        return np.tile(self.counts, (len(histories), 1))
