"""Co-visitation: recommends items that other users chose shortly before or after a user's latest items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, product
from typing import Any

import numpy as np
from datasets import Dataset

from ..data.row_facts import check_same_catalog
from ..data.rows import check_rows
from ..evaluation.metrics import ranking_metrics
from ..runtime.catalog import Catalog
from ..runtime.hub_files import CO_VISITATION_NAME
from ..runtime.neighbors import NeighborTable, check_max_neighbors, strongest_scores
from ..runtime.progress import progress_bar
from .neighbor_recommender import NeighborRecommender
from .pair_counts import StoredPairs, count_pairs
from .pairs import FlatTargets, Pairs
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


class CoVisitation(NeighborRecommender):
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

    file_name = CO_VISITATION_NAME

    def __init__(self, catalog: Catalog, weighting: CoVisitationWeighting | None = None) -> None:
        super().__init__(catalog)
        self.weighting = CoVisitationWeighting() if weighting is None else weighting

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
        Counts pairs. Each target forms pairs with the items before it in its row. The pairs are counted for some items
        after the other, so that memory holds the training items (8 bytes each), the pairs of some items, and the
        table. The table has one score for each pair of the catalog, or at most `max_neighbors` for each item.

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
                while counting and choosing: see [`NeighborTable.strongest`]. By default all scores are kept.

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
        flat = FlatTargets.from_rows(dataset, self.catalog)
        popularity = flat.popularity

        def use(blocks: Iterable[Pairs], weighting: CoVisitationWeighting) -> None:
            exponents = (weighting.source_exponent, weighting.target_exponent)
            parts = []
            for pairs in blocks:
                scores = pairs.scores(popularity, weighting.backward_weight, *exponents)
                parts.append(scores if max_neighbors is None else strongest_scores(*scores, max_neighbors))
            counting = (weighting.decay, weighting.num_history_items)
            self._use(weighting, NeighborTable(*_joined(parts), self.catalog.id_numbers, *counting))

        if validation is None:
            use(count_pairs(flat, self.weighting.window), self.weighting)
            return self
        histories, targets = single_targets(validation, self.catalog)
        # By windows, so that memory holds the pairs of one window only. The first of equals in the grid's order wins.
        in_turn = sorted(enumerate(grid), key=lambda numbered: numbered[1].window)
        if not in_turn:
            raise ValueError("`grid` holds no weighting to choose from. Give at least one, or leave out `validation`.")
        progress = progress_bar(show_progress, iterable=in_turn, desc="Choosing a weighting")

        def tries() -> Iterator[tuple[float, int, CoVisitationWeighting, NeighborTable]]:
            for window, group in groupby(progress, key=lambda numbered: numbered[1].window):
                pairs = StoredPairs(flat, window)
                for number, weighting in group:
                    use(pairs, weighting)
                    value = ranking_metrics(ranks_of_targets(self, histories, targets), [k])[metric]
                    yield value, -number, weighting, self.table

        _, _, weighting, table = max(tries(), key=lambda tried: tried[:2])
        self._use(weighting, table)
        return self

    def _use(self, weighting: CoVisitationWeighting, table: NeighborTable) -> None:
        self.weighting, self._table = weighting, table

    def _settings(self) -> dict[str, Any]:
        return asdict(self.weighting)

    def _restore(self, settings: dict[str, Any]) -> None:
        self.weighting = CoVisitationWeighting(**settings)


def _joined(
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Joins the offsets, targets and values of consecutive items."""
    lengths = np.concatenate([np.diff(offsets) for offsets, _, _ in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return offsets, np.concatenate([part[1] for part in parts]), np.concatenate([part[2] for part in parts])
