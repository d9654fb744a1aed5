"""Co-visitation: recommends items that other users chose shortly before or after a user's latest items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import polars as pl
from datasets import Dataset
from tqdm.auto import tqdm

from ..data.rows import check_rows
from ..evaluation.metrics import ranking_metrics
from ..runtime.catalog import Catalog, ragged_arange
from .histories import check_histories
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
    """

    window: int = 20
    backward_weight: float = 0.5
    source_exponent: float = 0.5
    target_exponent: float = 0.3
    decay: float = 0.8
    num_history_items: int = 10


DEFAULT_GRID = tuple(
    CoVisitationWeighting(window, backward, 0.5, target, decay)
    for window, backward, target, decay in product((5, 20), (0.25, 0.5, 1.0), (0.0, 0.3, 0.5), (0.6, 0.8, 0.9))
)
"""Default weightings among which [`CoVisitation.fit`] chooses."""


class CoVisitation:
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
    ```
    """

    def __init__(self, catalog: Catalog, weighting: CoVisitationWeighting | None = None) -> None:
        self.catalog = catalog
        self.weighting = CoVisitationWeighting() if weighting is None else weighting
        self._scores: _PairScores | None = None

    def fit(
        self,
        dataset: Dataset,
        validation: Dataset | None = None,
        grid: Iterable[CoVisitationWeighting] = DEFAULT_GRID,
        metric: str = "hr@20",
        show_progress: bool = True,
    ) -> CoVisitation:
        """
        Counts pairs. Each target forms pairs with the items before it in its row.

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

        Raises:
            TypeError, ValueError: If a data set fails [`check_rows`], or `metric` is unknown.
            KeyError: If the catalog lacks an item.
        """
        k = cut_off(metric)
        for rows in (dataset, validation):
            if rows is not None:
                check_rows(rows)
        items, target_indices, num_before = _flat_targets(dataset, self.catalog)
        popularity = np.maximum(np.bincount(items[target_indices], minlength=len(self.catalog)), 1).astype(np.float64)
        pairs: dict[int, _Pairs] = {}

        def use(weighting: CoVisitationWeighting) -> None:
            if weighting.window not in pairs:
                pairs[weighting.window] = _count_pairs(
                    items, target_indices, num_before, len(self.catalog), weighting.window
                )
            self.weighting, self._scores = weighting, pairs[weighting.window].scores(popularity, weighting)

        if validation is None:
            use(self.weighting)
            return self
        histories, targets = single_targets(validation, self.catalog)
        values = {}
        for weighting in tqdm(list(grid), desc="Choosing a weighting", disable=not show_progress):
            use(weighting)
            values[weighting] = ranking_metrics(ranks_of_targets(self, histories, targets), [k])[metric]
        use(max(values, key=lambda weighting: values[weighting]))
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
            KeyError: If the catalog lacks an item.
        """
        if self._scores is None:
            raise RuntimeError("`CoVisitation` has not counted any pairs yet; call `fit` first.")
        check_histories(histories)
        latest = [list(history[-self.weighting.num_history_items :]) for history in histories]
        lengths = np.array([len(history) for history in latest], dtype=np.int64)
        sources = self.catalog.indices_of([item for history in latest for item in history])
        ages = np.repeat(np.cumsum(lengths), lengths) - 1 - np.arange(len(sources))
        rows = np.repeat(np.arange(len(latest)), lengths)
        return self._scores.weighted_sums(rows, sources, self.weighting.decay**ages, len(latest))


@dataclass(frozen=True, eq=False)
class _PairScores:
    """Item `i` gives the items `targets[offsets[i] : offsets[i + 1]]` the scores in the same slice of `values`."""

    offsets: np.ndarray
    targets: np.ndarray
    values: np.ndarray

    def weighted_sums(self, rows: np.ndarray, sources: np.ndarray, weights: np.ndarray, num_rows: int) -> np.ndarray:
        """Returns the weighted sums of the sources' scores for each row, shape `(num_rows, num_items)`."""
        num_items = len(self.offsets) - 1
        lengths = np.diff(self.offsets)[sources]
        entries = np.repeat(self.offsets[sources], lengths) + ragged_arange(lengths)
        cells = np.repeat(rows, lengths) * num_items + self.targets[entries]
        sums = np.bincount(cells, self.values[entries] * np.repeat(weights, lengths), minlength=num_rows * num_items)
        return sums.reshape(num_rows, num_items)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Each pair that occurs in either order, by source and target, with its weights in both directions."""

    sources: np.ndarray
    targets: np.ndarray
    forward: np.ndarray
    backward: np.ndarray

    def scores(self, popularity: np.ndarray, weighting: CoVisitationWeighting) -> _PairScores:
        values = self.forward + weighting.backward_weight * self.backward
        values = values / popularity[self.sources] ** weighting.source_exponent
        values = values / popularity[self.targets] ** weighting.target_exponent
        offsets = np.searchsorted(self.sources, np.arange(len(popularity) + 1))
        return _PairScores(offsets, self.targets, values)


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
    return _Pairs(either // num_items, either % num_items, forward, backward)


def _flat_targets(dataset: Dataset, catalog: Catalog) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the items of all rows in one array, the targets' indices in it, and the number of items before each."""
    rows = dataset.select_columns(["item_ids", "target_positions"]).to_polars()
    lengths = rows["item_ids"].list.len().cast(pl.Int64).to_numpy()
    num_before = rows["target_positions"].explode().to_numpy().astype(np.int64)
    starts = np.repeat(np.cumsum(lengths) - lengths, rows["target_positions"].list.len().to_numpy())
    return catalog.indices_of(rows["item_ids"].explode().to_numpy()), starts + num_before, num_before
