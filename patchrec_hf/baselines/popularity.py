"""Popularity: recommends the same items to everybody."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import polars as pl
from datasets import Dataset
from transformers.utils import PushToHubMixin

from ..data.examples import rows_to_interactions
from ..data.row_facts import check_same_catalog
from ..data.rows import check_rows
from ..runtime.catalog import Catalog
from ..runtime.hub_files import CATALOG_NAME, FORMAT_VERSION, check_format_version, find_file, push_kwargs
from ..runtime.log_linear import log_softmax
from .histories import check_histories
from .recommending import CatalogRecommender


POPULARITY_NAME = "popularity.parquet"


class Popularity(CatalogRecommender, PushToHubMixin):
    """
    Scores each item by the number of its training interactions.

    Args:
        catalog ([`Catalog`]):
            The items that can be recommended.

    Example:
    ```python
    >>> model = Popularity(catalog).fit(splits["train"])
    >>> model.recommend([3, 14], k=5)
    >>> model.save_pretrained("outputs/popularity")  # with its catalog
    ```
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
        counts = self.counts
        check_histories(histories)
        return np.tile(counts, (len(histories), 1))

    def log_probs(self, histories: Sequence[Sequence[int]], times: np.ndarray | None = None) -> np.ndarray:
        """
        Computes log-probabilities of the next item: logarithms of the items' shares, where one is added to each count.

        Args:
            histories (`Sequence[Sequence[int]]`):
                Item ids, oldest first.
            times (`numpy.ndarray` of shape `(B,)`, int64, *optional*):
                The moment of asking of each history. These scores do not depend on it.

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, float64, in catalog order; `exp` of each row sums to 1.

        Raises:
            RuntimeError, TypeError, ValueError, KeyError: As `score` does.
        """
        return log_softmax(np.log1p(self.score(histories)))

    @property
    def counts(self) -> np.ndarray:
        """
        The number of training interactions of each item, shape `(num_items,)`, float64.

        Raises:
            RuntimeError: If the model has not been fitted.
        """
        if self._counts is None:
            raise RuntimeError("`Popularity` has not counted any interactions yet; call `fit` first.")
        return self._counts

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """
        Saves the counts and the catalog, as `popularity.parquet` and `catalog.parquet`.

        Args:
            save_directory (`str` or `os.PathLike`):
                The directory. It is made if there is none.
            push_to_hub (`bool`, *optional*, defaults to `False`):
                Whether to push both files to the Hub.
            **kwargs:
                Arguments of `push_to_hub`, such as `repo_id`. By default the repository is named after the directory.

        Raises:
            RuntimeError: If the model has not been fitted.
        """
        table = pl.DataFrame({"item_id": self.catalog.item_ids.tolist(), "count": self.counts})
        os.makedirs(save_directory, exist_ok=True)
        metadata = {"format_version": str(FORMAT_VERSION)}
        table.write_parquet(os.path.join(save_directory, POPULARITY_NAME), metadata=metadata)
        self.catalog.to_parquet(os.path.join(save_directory, CATALOG_NAME))
        if push_to_hub:
            self.push_to_hub(**push_kwargs(save_directory, kwargs))

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """
        Loads a fitted model with its catalog. If the catalog has got new items, their count is 0.

        Args:
            name_or_path (`str` or `os.PathLike`):
                A directory or a repository of the Hub.
            **kwargs:
                Arguments that choose files on the Hub, such as `revision` and `token`.

        Raises:
            OSError: If a file is missing.
            ValueError: If a newer version of the library wrote the counts.
            KeyError: If the catalog lacks a counted item.
        """
        path = find_file(name_or_path, POPULARITY_NAME, kwargs)
        check_format_version(int(pl.read_parquet_metadata(path)["format_version"]), POPULARITY_NAME)
        model = cls(Catalog.from_parquet(find_file(name_or_path, CATALOG_NAME, kwargs)))
        table = pl.read_parquet(path)
        counts = np.zeros(len(model.catalog))
        counts[model.catalog.indices_of(table["item_id"].to_list())] = table["count"].to_numpy()
        model._counts = counts
        return model
