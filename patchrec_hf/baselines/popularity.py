"""Popularity: recommends the same items to everybody."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from ..data.examples import rows_to_interactions
from ..data.row_facts import check_same_catalog
from ..data.rows import check_rows
from ..runtime.catalog import Catalog
from .histories import check_histories


class Popularity:
    """
    Scores each item by the number of its training interactions.

    Args:
        catalog ([`Catalog`]):
            The items that can be recommended.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._counts: np.ndarray | None = None

    def fit(self, dataset: Dataset) -> Popularity:
        """
        Counts the interactions of each item.

        Args:
            dataset ([`~datasets.Dataset`]):
                Rows whose interactions are counted.

        Raises:
            TypeError, ValueError: If the data set fails [`check_rows`] or [`check_same_catalog`].
            KeyError: If the catalog lacks an item.
        """
        check_rows(dataset)
        check_same_catalog(dataset, self.catalog)
        items = self.catalog.indices_of(rows_to_interactions(dataset)["item_id"].to_numpy())
        self._counts = np.bincount(items, minlength=len(self.catalog)).astype(np.float64)
        return self

    def score(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """
        Scores every item for every history.

        Args:
            histories (`Sequence[Sequence[int]]`):
                Item ids, oldest first.

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, float64, in catalog order.

        Raises:
            RuntimeError: If the model has not been fitted.
            TypeError, ValueError: As [`check_histories`] does.
        """
        if self._counts is None:
            raise RuntimeError("`Popularity` has not counted any interactions yet; call `fit` first.")
        check_histories(histories)
        return np.tile(self._counts, (len(histories), 1))
