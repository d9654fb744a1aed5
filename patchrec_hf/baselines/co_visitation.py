"""Co-visitation: recommends items that other users chose shortly before or after a user's latest items."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, product
from typing import Any, Self

import numpy as np
import polars as pl
from datasets import Dataset
from transformers.utils import PushToHubMixin

from ..data.row_facts import check_same_catalog
from ..data.rows import check_rows
from ..evaluation.metrics import ranking_metrics
from ..runtime.catalog import Catalog
from ..runtime.hub_files import CATALOG_NAME, CO_VISITATION_NAME, find_file, push_kwargs
from ..runtime.log_linear import log_softmax
from ..runtime.neighbors import NeighborTable, check_max_neighbors
from ..runtime.progress import progress_bar
from ..runtime.title_similarity import log_shares
from .histories import check_histories
from .recommending import CatalogRecommender
from .selection import cut_off, ranks_of_targets, single_targets


@dataclass(frozen=True)
class CoVisitationWeighting:
    """
    Settings that turn pairs of items into scores.

    Args:
        window (`int`, *optional*, defaults to `20`):
            Two items of a user are a pair if their positions differ by at most this number. The weight of a pair is 1
            divided by this distance.
        backward_weight (`float`, *optional*, defaults to `0.5`):
            Factor on a pair's weight when its earlier item is recommended to users who chose the later one. The factor
            for the other direction is 1.
        source_exponent (`float`, *optional*, defaults to `0.5`):
            Scores are divided by the popularity of the history's item to this power.
        target_exponent (`float`, *optional*, defaults to `0.3`):
            Scores are divided by the popularity of the recommended item to this power.
        decay (`float`, *optional*, defaults to `0.8`):
            Weight of an item of the history, relative to the item after it.
        num_history_items (`int`, *optional*, defaults to `10`):
            Number of latest items of a history that count.

    Raises:
        ValueError: If `window` or `num_history_items` is below 1.
    """

    window: int = 20
    backward_weight: float = 0.5
    source_exponent: float = 0.5
    target_exponent: float = 0.3
    decay: float = 0.8
    num_history_items: int = 10

    def __post_init__(self) -> None:
        for name, value in (("window", self.window), ("num_history_items", self.num_history_items)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")


DEFAULT_GRID = tuple(
    CoVisitationWeighting(window, backward, 0.5, target, decay)
    for window, backward, target, decay in product((5, 20), (0.25, 0.5, 1.0), (0.0, 0.3, 0.5), (0.6, 0.8, 0.9))
)
"""Default weightings among which [`CoVisitation.fit`] chooses."""


class CoVisitation(CatalogRecommender, PushToHubMixin):
    """
    Item-to-item recommendation from pairs of items in training histories (as in Linden, Smith and York, "Amazon.com
    Recommendations: Item-to-Item Collaborative Filtering", IEEE Internet Computing 2003). Departure from that paper:
    the weight of a pair depends on the order and distance of its items.

    Args:
        catalog ([`Catalog`]):
            The items that can be recommended.
        weighting ([`CoVisitationWeighting`], *optional*):
            How pairs become scores.

    Example:
    ```python
    >>> model = CoVisitation(catalog).fit(splits["train"], splits["validation"])
    >>> model.weighting
    CoVisitationWeighting(window=20, ...)
    >>> model.save_pretrained("outputs/co_visitation")  # with its catalog
    ```
    """

    def __init__(self, catalog: Catalog, weighting: CoVisitationWeighting | None = None) -> None:
        self.catalog = catalog
        self.weighting = CoVisitationWeighting() if weighting is None else weighting
        self._table: NeighborTable | None = None

    @property
    def table(self) -> NeighborTable:
        """
        The scores from item to item.

        Raises:
            RuntimeError: If the model has not been fitted.
        """
        if self._table is None:
            raise RuntimeError("`CoVisitation` has not counted any pairs yet; call `fit` first.")
        return self._table

    def fit(
        self,
        dataset: Dataset,
        validation: Dataset | None = None,
        grid: Iterable[CoVisitationWeighting] = DEFAULT_GRID,
        metric: str = "hr@20",
        show_progress: bool = True,
        max_neighbors: int | None = None,
    ) -> CoVisitation:
        """
        Counts pairs. Each target forms pairs with the items before it in its row. Counting holds each pair
        that occurs within one window once in memory. The table has one score for each of them, or fewer.

        Args:
            dataset ([`~datasets.Dataset`]):
                Rows to count pairs in.
            validation ([`~datasets.Dataset`], *optional*):
                Rows for choosing the weighting. If given, the model takes the weighting of `grid` that ranks their
                targets best.
            grid (`Iterable[CoVisitationWeighting]`, *optional*):
                Weightings to choose from.
            metric (`str`, *optional*, defaults to `"hr@20"`):
                Metric that decides which weighting is best: `hr@k`, `ndcg@k` or `mrr@k`.
            show_progress (`bool`, *optional*, defaults to `True`):
                Whether to show a progress bar while choosing.
            max_neighbors (`int`, *optional*):
                Number of largest scores that each item gives to others. It bounds the table of a large catalog, also
                while choosing: see [`NeighborTable.strongest`]. By default all scores are kept.

        Raises:
            TypeError, ValueError: If a data set fails [`check_rows`] or [`check_same_catalog`].
            ValueError: If `metric` is unknown, `grid` is empty, or `max_neighbors` is below 1.
            KeyError: If the catalog lacks an item.
        """
        k = cut_off(metric)
        if max_neighbors is not None:
            check_max_neighbors(max_neighbors)
        for rows in (dataset, validation):
            if rows is not None:
                check_rows(rows)
                check_same_catalog(rows, self.catalog)
        items, target_indices, num_before = _flat_targets(dataset, self.catalog)
        popularity = np.maximum(np.bincount(items[target_indices], minlength=len(self.catalog)), 1).astype(np.float64)

        def count(window: int) -> _Pairs:
            return _count_pairs(items, target_indices, num_before, len(self.catalog), window)

        def use(pairs: _Pairs, weighting: CoVisitationWeighting) -> None:
            offsets, targets, values = pairs.scores(popularity, weighting)
            counting = (weighting.decay, weighting.num_history_items)
            table = NeighborTable(offsets, targets, values, self.catalog.id_numbers, *counting)
            self._use(weighting, table if max_neighbors is None else table.strongest(max_neighbors))

        if validation is None:
            use(count(self.weighting.window), self.weighting)
            return self
        histories, targets = single_targets(validation, self.catalog)
        # By windows, so that memory holds the pairs of one window only. The first of equals in the grid's order wins.
        in_turn = sorted(enumerate(grid), key=lambda numbered: numbered[1].window)
        if not in_turn:
            raise ValueError("`grid` holds no weighting to choose from. Give at least one, or leave out `validation`.")
        progress = progress_bar(show_progress, iterable=in_turn, desc="Choosing a weighting")

        def tries() -> Iterator[tuple[float, int, CoVisitationWeighting, NeighborTable]]:
            for window, group in groupby(progress, key=lambda numbered: numbered[1].window):
                pairs = count(window)
                for number, weighting in group:
                    use(pairs, weighting)
                    value = ranking_metrics(ranks_of_targets(self, histories, targets), [k])[metric]
                    yield value, -number, weighting, self.table

        _, _, weighting, table = max(tries(), key=lambda tried: tried[:2])
        self._use(weighting, table)
        return self

    def _use(self, weighting: CoVisitationWeighting, table: NeighborTable) -> None:
        self.weighting, self._table = weighting, table

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
        Computes log-probabilities of the next item: the logarithms of the scores' shares, smoothed.

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
        return log_softmax(log_shares(self.score(histories)))

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """
        Saves the scores and the catalog, as `co_visitation.safetensors` and `catalog.parquet`.

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
        self.table.save(os.path.join(save_directory, CO_VISITATION_NAME), **asdict(self.weighting))
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
        path = find_file(name_or_path, CO_VISITATION_NAME, kwargs)
        table = NeighborTable.load(path)
        catalog = Catalog.from_parquet(find_file(name_or_path, CATALOG_NAME, kwargs))
        table.check_catalog(catalog)
        model = cls(catalog)
        model._use(CoVisitationWeighting(**NeighborTable.settings_of(path)), table)
        return model


@dataclass(frozen=True, eq=False)
class _Pairs:
    """
    Each pair that occurs in either order, with its weights in both directions (float64). Offsets and targets are as in
    [`NeighborTable`].
    """

    offsets: np.ndarray
    targets: np.ndarray
    forward: np.ndarray
    backward: np.ndarray

    def scores(
        self, popularity: np.ndarray, weighting: CoVisitationWeighting
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the offsets, targets and values of a table, without scores of 0."""
        values = self.forward + weighting.backward_weight * self.backward
        values /= np.repeat(popularity**weighting.source_exponent, np.diff(self.offsets))
        values /= (popularity**weighting.target_exponent)[self.targets]
        rounded = values.astype(np.float32)
        is_kept = rounded != 0
        if is_kept.all():
            return self.offsets, self.targets, rounded
        offsets = np.concatenate([[0], np.cumsum(is_kept)])[self.offsets]
        return offsets, self.targets[is_kept], rounded[is_kept]


def _count_pairs(
    items: np.ndarray, target_indices: np.ndarray, num_before: np.ndarray, num_items: int, window: int
) -> _Pairs:
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
    return _Pairs(offsets, (either % num_items).astype(index_type), forward, backward)


def _flat_targets(dataset: Dataset, catalog: Catalog) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the items of all rows in one array, the targets' indices in it, and the number of items before each."""
    rows = dataset.select_columns(["item_ids", "target_positions"]).to_polars()
    lengths = rows["item_ids"].list.len().cast(pl.Int64).to_numpy()
    num_before = rows["target_positions"].explode().to_numpy().astype(np.int64)
    starts = np.repeat(np.cumsum(lengths) - lengths, rows["target_positions"].list.len().to_numpy())
    return catalog.indices_of(rows["item_ids"].explode().to_numpy()), starts + num_before, num_before
