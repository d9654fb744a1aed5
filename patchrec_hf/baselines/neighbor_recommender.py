"""Neighbor recommenders: score items by a table of neighbors, and are saved as this table with their catalog."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from transformers.utils import PushToHubMixin

from ..runtime.catalog import Catalog
from ..runtime.hub_files import CATALOG_NAME, find_file, push_kwargs
from ..runtime.log_probs import log_smoothed_shares
from ..runtime.neighbors import NeighborTable
from .histories import check_histories
from .recommending import CatalogRecommender


class NeighborRecommender(CatalogRecommender, PushToHubMixin):
    """
    Base of the baselines whose scores are a [`NeighborTable`]. A subclass has a `file_name`, fills `_table` in its
    `fit`, and implements `_settings` and `_restore`.

    Args:
        catalog ([`Catalog`]):
            The items that can be recommended.
    """

    file_name: str
    """Name of the file that holds the table. It tells the class of a saved baseline."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._table: NeighborTable | None = None

    def _settings(self) -> dict[str, Any]:
        """Returns the JSON-ready settings to save with the table."""
        raise NotImplementedError(f"{type(self).__name__} does not implement `_settings`.")

    def _restore(self, settings: dict[str, Any]) -> None:
        """Takes the settings that `_settings` returned."""
        raise NotImplementedError(f"{type(self).__name__} does not implement `_restore`.")

    @property
    def table(self) -> NeighborTable:
        """
        The scores from item to item.

        Raises:
            RuntimeError: If the model has not been fitted.
        """
        if self._table is None:
            raise RuntimeError(f"`{type(self).__name__}` has not counted any pairs yet; call `fit` first.")
        return self._table

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
            KeyError: If the catalog lacks an item.
        """
        table = self.table
        check_histories(histories)
        indices = self.catalog.indices_of([item for history in histories for item in history])
        ends = np.cumsum([len(history) for history in histories], dtype=np.int64)
        return table.scores(np.split(indices, ends)[: len(histories)], len(self.catalog))

    def log_probs(self, histories: Sequence[Sequence[int]], times: np.ndarray | None = None) -> np.ndarray:
        """
        Computes log-probabilities of the next item: logarithms of the scores' shares, smoothed by
        [`log_smoothed_shares`].

        Args:
            histories (`Sequence[Sequence[int]]`):
                Item ids, oldest first.
            times (`numpy.ndarray` of shape `(B,)`, int64, *optional*):
                The moment of asking of each history. These scores do not depend on it.

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, float64, in catalog order. `exp` of each row sums to 1.

        Raises:
            RuntimeError, TypeError, ValueError, KeyError: As `score` does.
        """
        return log_smoothed_shares(self.score(histories))

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """
        Saves the scores as a safetensors file, such as `co_visitation.safetensors`, and the catalog as
        `catalog.parquet`.

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
        self.table.save(os.path.join(save_directory, self.file_name), **self._settings())
        self.catalog.to_parquet(os.path.join(save_directory, CATALOG_NAME))
        if push_to_hub:
            self.push_to_hub(**push_kwargs(save_directory, kwargs))

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """
        Loads a fitted model with its catalog. If the catalog has got new items at its end, they get the score 0.

        Args:
            name_or_path (`str` or `os.PathLike`):
                A directory or a repository of the Hub.
            **kwargs:
                Arguments that choose files on the Hub, such as `revision` and `token`.

        Raises:
            OSError: If a file is missing.
            ValueError: If a newer version of the library wrote the scores, or they belong to another catalog.
        """
        path = find_file(name_or_path, cls.file_name, kwargs)
        table = NeighborTable.load(path)
        catalog = Catalog.from_parquet(find_file(name_or_path, CATALOG_NAME, kwargs))
        table.check_catalog(catalog)
        model = cls(catalog)
        model._restore(NeighborTable.settings_of(path))
        model._table = table
        return model
