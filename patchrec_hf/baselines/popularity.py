"""Popularity: recommends the items that are chosen most often, at all times or in the latest days."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import polars as pl
from datasets import Dataset, concatenate_datasets
from transformers.utils import PushToHubMixin

from ..data.examples import rows_to_interactions
from ..data.row_facts import check_same_catalog
from ..data.rows import TIMES_COLUMN, check_rows
from ..evaluation.scorers import missing_times
from ..runtime.catalog import Catalog
from ..runtime.hub_files import (
    CATALOG_NAME,
    FORMAT_VERSION,
    RECENT_POPULARITY_NAME,
    check_format_version,
    find_file,
    push_kwargs,
)
from ..runtime.log_probs import log_softmax
from ..runtime.moments import as_moments
from ..runtime.recent_popularity import RecentPopularity, check_window
from .histories import check_histories
from .recommending import CatalogRecommender


POPULARITY_NAME = "popularity.parquet"


class Popularity(CatalogRecommender, PushToHubMixin):
    """
    Scores each item by the number of its interactions: of all counted ones, or of those in the latest days before the
    moment of asking.

    Args:
        catalog ([`Catalog`]):
            The items that can be recommended.
        window (`int`, *optional*):
            Number of whole days (UTC) before the day of the moment of asking whose interactions are counted. If not
            given, all interactions are counted, and no moment is read.

    Raises:
        TypeError: If `window` is no whole number.
        ValueError: If `window` is below 1.

    Example:
    ```python
    >>> model = Popularity(catalog).fit(splits["train"])
    >>> model.recommend([3, 14], k=5)
    >>> model.save_pretrained("outputs/popularity")  # with its catalog
    >>> recent = Popularity(catalog, window=7).fit(splits)
    >>> evaluate_scorer(recent, catalog, splits["test"]).metrics()
    ```
    """

    def __init__(self, catalog: Catalog, window: int | None = None) -> None:
        if window is not None:
            check_window(window)
        self.catalog = catalog
        self.window = window
        self._counts: np.ndarray | None = None
        self._recent: RecentPopularity | None = None

    @property
    def reads_times(self) -> bool:
        """Whether scores depend on the moment of asking: with a `window`, they do."""
        return self.window is not None

    def fit(self, dataset: Dataset | Mapping[str, Dataset]) -> Popularity:
        """
        Counts the interactions of each item.

        Args:
            dataset ([`~datasets.Dataset`] or [`~datasets.DatasetDict`]):
                Rows whose interactions are counted (see [`rows_to_interactions`]). With a `window`, pass all splits: a
                recommender in use knows all interactions up to the moment of asking, and later ones are never counted.
                Each interaction of overlapping rows is counted once.

        Raises:
            TypeError: If there are several data sets but no `window`.
            TypeError, ValueError: If a data set fails [`check_rows`] or [`check_same_catalog`].
            ValueError: If there is a `window`, and the rows have no timestamps.
            KeyError: If the catalog lacks an item.
        """
        if self.window is None and isinstance(dataset, Mapping):
            raise TypeError(
                f"`Popularity` without a `window` counts the rows of one data set, got {list(dataset)}. Pass "
                "`splits['train']`: the other splits hold what an evaluation asks for."
            )
        named = dict(dataset) if isinstance(dataset, Mapping) else {None: dataset}
        for name, rows in named.items():
            check_rows(rows)
            check_same_catalog(rows, self.catalog)
            if self.window is not None and TIMES_COLUMN not in rows.column_names:
                named_rows = "the rows" if name is None else f"the rows of {name!r}"
                raise ValueError(
                    f"`window={self.window}` counts the latest days, but {named_rows} have no column "
                    f"`{TIMES_COLUMN}`; their columns are {rows.column_names}. `load_recommendation_data` and "
                    "`make_rows` add it where the interactions have the column `timestamp`. Give the interactions "
                    "their times, or leave out `window`."
                )
        interactions = rows_to_interactions(
            dataset if isinstance(dataset, Dataset) else concatenate_datasets(list(named.values()))
        )
        items = self.catalog.indices_of(interactions["item_id"].to_numpy())
        self._counts = np.bincount(items, minlength=len(self.catalog)).astype(np.float64)
        if self.window is not None:
            times, known_at = (interactions[name].to_numpy() for name in ("timestamp", "known_at"))
            self._recent = RecentPopularity.count(items, times, self.catalog.id_numbers, known_at)
        return self

    def score(self, histories: Sequence[Sequence[int]], times: np.ndarray | None = None) -> np.ndarray:
        """
        Scores every item for every history.

        Args:
            histories (`Sequence[Sequence[int]]`):
                B lists of item ids, oldest first.
            times (`numpy.ndarray` of shape `(B,)`, int64, *optional*):
                The moments of asking, in whole seconds since 1970 UTC. They are needed if there is a `window`, and
                not read otherwise.

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, float64, in catalog order: the counts.

        Raises:
            RuntimeError: If the model has not been fitted.
            ValueError: If there is a `window`, and `times` is not given.
            TypeError, ValueError: As [`check_histories`] and [`as_moments`] do.
        """
        counts = self.counts
        check_histories(histories)
        if self.window is None:
            return np.tile(counts, (len(histories), 1))
        if times is None:
            raise missing_times(f"`Popularity` with `window={self.window}`")
        return self.recent.counts_before(as_moments(times, len(histories)), self.window, len(self.catalog))

    def log_probs(self, histories: Sequence[Sequence[int]], times: np.ndarray | None = None) -> np.ndarray:
        """
        Returns the log-probability of each item for every history: (count + 1) / (all counts + number of items).

        Args:
            histories, times:
                As for [`Popularity.score`].

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, float64, in catalog order. `exp` of each row sums to 1.

        Raises:
            RuntimeError, TypeError, ValueError: As [`Popularity.score`] does.
        """
        return log_softmax(np.log1p(self.score(histories, times)))

    @property
    def next_moment(self) -> int | None:
        """
        With a `window`, the moment of asking if [`Popularity.recommend`] gets none: the beginning of the day after the
        last counted one, in seconds since 1970 UTC. `None` without a window.

        Raises:
            RuntimeError: If the model has not been fitted.
        """
        return None if self.window is None else self.recent.end_time

    @property
    def recent(self) -> RecentPopularity:
        """
        With a `window`, the counts by day.

        Raises:
            RuntimeError: If the model has not been fitted, or has no `window`.
        """
        if self._recent is None:
            raise RuntimeError(
                "`Popularity` has no counts by day: it has no `window`, such as `Popularity(catalog, window=7)`, or "
                "has not counted any interactions yet (`fit`)."
            )
        return self._recent

    @property
    def counts(self) -> np.ndarray:
        """
        The number of interactions of each item that [`Popularity.fit`] counted, of all days, shape `(num_items,)`,
        float64.

        Raises:
            RuntimeError: If the model has not been fitted.
        """
        if self._counts is None:
            raise RuntimeError("`Popularity` has not counted any interactions yet; call `fit` first.")
        return self._counts

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """
        Saves the counts and the catalog, as `popularity.parquet` and `catalog.parquet`. With a `window`, the counts by
        day are saved as `recent_popularity.safetensors`.

        Args:
            save_directory (`str` or `os.PathLike`):
                The directory. It is made if there is none.
            push_to_hub (`bool`, *optional*, defaults to `False`):
                Whether to push the files to the Hub.
            **kwargs:
                Arguments of `push_to_hub`, such as `repo_id`. By default the repository is named after the directory.

        Raises:
            RuntimeError: If the model has not been fitted.
        """
        table = pl.DataFrame({"item_id": self.catalog.item_ids.tolist(), "count": self.counts})
        os.makedirs(save_directory, exist_ok=True)
        metadata = {"format_version": str(FORMAT_VERSION)}
        if self.window is not None:
            metadata["window"] = str(self.window)
            self.recent.save(os.path.join(save_directory, RECENT_POPULARITY_NAME))
        table.write_parquet(os.path.join(save_directory, POPULARITY_NAME), metadata=metadata)
        self.catalog.to_parquet(os.path.join(save_directory, CATALOG_NAME))
        if push_to_hub:
            self.push_to_hub(**push_kwargs(save_directory, kwargs))

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """
        Loads a fitted model with its catalog. If the catalog has got new items, their count is 0. With a `window`,
        they must stand at the end of the catalog.

        Args:
            name_or_path (`str` or `os.PathLike`):
                A directory or a repository of the Hub.
            **kwargs:
                Arguments that choose files on the Hub, such as `revision` and `token`.

        Raises:
            OSError: If a file is missing.
            ValueError: If a newer version of the library wrote the counts, or they have a `window` and the catalog
                does not begin with the counted items.
            KeyError: If the catalog lacks a counted item.
        """
        path = find_file(name_or_path, POPULARITY_NAME, kwargs)
        metadata = pl.read_parquet_metadata(path)
        check_format_version(int(metadata["format_version"]), POPULARITY_NAME)
        window = int(metadata["window"]) if "window" in metadata else None
        model = cls(Catalog.from_parquet(find_file(name_or_path, CATALOG_NAME, kwargs)), window)
        if window is not None:
            model._recent = RecentPopularity.load(find_file(name_or_path, RECENT_POPULARITY_NAME, kwargs))
            model._recent.check_catalog(model.catalog)
        table = pl.read_parquet(path)
        counts = np.zeros(len(model.catalog))
        counts[model.catalog.indices_of(table["item_id"].to_list())] = table["count"].to_numpy()
        model._counts = counts
        return model
