"""Transitions: recommends items that a few hops lead to from a user's latest items, re-ranked by similar titles."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from datasets import Dataset
from scipy import sparse

from ..data.row_facts import check_same_catalog
from ..data.rows import check_rows
from ..evaluation.metrics import ranking_metrics
from ..runtime.catalog import Catalog
from ..runtime.hub_files import TRANSITIONS_NAME
from ..runtime.neighbors import NeighborTable, check_max_neighbors
from ..runtime.progress import progress_bar
from ..runtime.title_similarity import title_similarity
from ..runtime.title_tokens import TitleTokens
from .hops import normalized_rows, reranked, scaled_rows, strongest, sum_of_hops
from .neighbor_recommender import NeighborRecommender
from .pair_counts import StoredPairs, count_pairs
from .pairs import FlatTargets, Pairs
from .selection import cut_off, ranks_of_targets, single_targets


@dataclass(frozen=True, order=True)
class TransitionWeighting:
    """
    Settings that turn transitions and titles into scores.

    Args:
        window (`int`, *optional*, defaults to `20`):
            An item follows another one of the same user closely if their positions differ by at most this number. The
            weight of this transition is 1 divided by the distance.
        backward_weight (`float`, *optional*, defaults to `0.25`):
            Factor on the weight of the same pair in the direction from the later to the earlier item.
        target_exponent (`float`, *optional*, defaults to `0.3`):
            Weights are divided by the popularity of the item that follows to this power.
        hops (`int`, *optional*, defaults to `2`):
            Number of transitions in a row that lead from an item to another one at most.
        hop_weight (`float`, *optional*, defaults to `0.3`):
            Factor on what each further hop adds.
        title_weight (`float`, *optional*, defaults to `10.0`):
            A score is multiplied by 1 + `title_weight` times the similarity of both titles (see [`title_words`]).
        source_exponent (`float`, *optional*, defaults to `0.5`):
            The weights from an item are divided by their sum to this power. 1 makes them probabilities, so that all
            items of a history count alike. A lower number gives more weight to frequent items.
        decay (`float`, *optional*, defaults to `0.8`):
            Weight of an item of the history, relative to the item after it.
        num_history_items (`int`, *optional*, defaults to `10`):
            Number of latest items of a history that count.

    Raises:
        ValueError: If `window`, `hops` or `num_history_items` is below 1, or a weight is negative.
    """

    window: int = 20
    backward_weight: float = 0.25
    target_exponent: float = 0.3
    hops: int = 2
    hop_weight: float = 0.3
    title_weight: float = 10.0
    source_exponent: float = 0.5
    decay: float = 0.8
    num_history_items: int = 10

    def __post_init__(self) -> None:
        for name in ("window", "hops", "num_history_items"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for name in ("backward_weight", "hop_weight", "title_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name)}.")


MAX_NEIGHBORS = 200
"""Default number of scores that an item gives to others."""
DEFAULT_GRID = tuple(
    TransitionWeighting(window, hops=hops, hop_weight=hop_weight, title_weight=titles, decay=decay)
    for window, (hops, hop_weight), titles, decay in product(
        (5, 20), ((1, 1.0), (2, 0.3), (2, 1.0)), (0.0, 10.0, 50.0), (0.6, 0.8)
    )
)
"""Default weightings among which [`Transitions.fit`] chooses."""


class Transitions(NeighborRecommender):
    """
    Few-hop transitions between items, re-ranked by the similarity of their titles. With P, the probabilities that an
    item is followed by another one, the score from item to item is P + αP² + …, times 1 + β times the similarity of
    both titles. So an item may recommend another one that no user chose near it, if a third one lies between them, and
    items of one series come first. It has no weights to train.

    Args:
        catalog ([`Catalog`]):
            The items that can be recommended.
        weighting ([`TransitionWeighting`], *optional*):
            How transitions and titles become scores.

    Example:
    ```python
    >>> model = Transitions(catalog).fit(splits["train"], splits["validation"])
    >>> model.weighting
    TransitionWeighting(window=20, ...)
    >>> model.save_pretrained("outputs/transitions")  # with its catalog
    ```
    """

    file_name = TRANSITIONS_NAME

    def __init__(self, catalog: Catalog, weighting: TransitionWeighting | None = None) -> None:
        super().__init__(catalog)
        self.weighting = TransitionWeighting() if weighting is None else weighting

    def fit(
        self,
        dataset: Dataset,
        validation: Dataset | None = None,
        grid: Iterable[TransitionWeighting] = DEFAULT_GRID,
        metric: str = "hr@20",
        show_progress: bool = True,
        max_neighbors: int = MAX_NEIGHBORS,
    ) -> Transitions:
        """
        Counts transitions to each target from the items before it in its row. They are counted for some items after
        the other, so that memory holds the training items (8 bytes each), the pairs of some items, and a few matrices
        of at most 2 · `max_neighbors` scores for each item.

        Args:
            dataset ([`~datasets.Dataset`]):
                Rows to count transitions in.
            validation ([`~datasets.Dataset`], *optional*):
                Rows for choosing the weighting. If given, the model takes the weighting of `grid` that ranks their
                targets best; the first of equals.
            grid (`Iterable[TransitionWeighting]`, *optional*):
                Weightings to choose from.
            metric (`str`, *optional*, defaults to `"hr@20"`):
                Metric that decides which weighting is best: `hr@k`, `ndcg@k` or `mrr@k`.
            show_progress (`bool`, *optional*, defaults to `True`):
                Whether to show a progress bar while choosing.
            max_neighbors (`int`, *optional*, defaults to `200`):
                Number of largest scores that each item gives to others. It also bounds each hop.

        Raises:
            TypeError, ValueError: If a data set fails [`check_rows`] or [`check_same_catalog`].
            ValueError: If `metric` is unknown, `grid` is empty, or `max_neighbors` is below 1.
            KeyError: If the catalog lacks an item.
        """
        k = cut_off(metric)
        check_max_neighbors(max_neighbors)
        for rows in (dataset, validation):
            if rows is not None:
                check_rows(rows)
                check_same_catalog(rows, self.catalog)
        flat = FlatTargets.from_rows(dataset, self.catalog)
        make_table = self._table_maker(flat, max_neighbors, count_pairs if validation is None else StoredPairs)
        if validation is None:
            self._table = make_table(self.weighting)
            return self
        histories, targets = single_targets(validation, self.catalog)
        # Sorted, so that neighbors in the order share most of their work, and memory holds one step of each kind.
        in_turn = sorted(enumerate(grid), key=lambda numbered: numbered[1])
        if not in_turn:
            raise ValueError("`grid` holds no weighting to choose from. Give at least one, or leave out `validation`.")
        best: tuple[tuple[float, int], TransitionWeighting, NeighborTable] | None = None
        for number, weighting in progress_bar(show_progress, iterable=in_turn, desc="Choosing a weighting"):
            self._table = make_table(weighting)
            value = ranking_metrics(ranks_of_targets(self, histories, targets), [k])[metric]
            if best is None or (value, -number) > best[0]:
                best = (value, -number), weighting, self._table
        if best is not None:
            _, self.weighting, self._table = best
        return self

    def _table_maker(
        self, flat: FlatTargets, max_neighbors: int, count: Callable[[FlatTargets, int], Iterable[Pairs]]
    ) -> Any:
        """Returns a function that makes the table of a weighting. It keeps the latest result of each step."""
        popularity, num_items = flat.popularity, len(self.catalog)
        ids = self.catalog.id_numbers

        @lru_cache(maxsize=1)
        def pairs(window: int) -> Iterable[Pairs]:
            return count(flat, window)

        @lru_cache(maxsize=1)
        def transitions(window: int, backward: float, exponent: float) -> tuple[sparse.csr_array, np.ndarray]:
            kept, sums = [], []
            for block in pairs(window):
                offsets, targets, values = block.scores(popularity, backward, 0.0, exponent)
                rows = sparse.csr_array((values, targets, offsets), shape=(len(offsets) - 1, num_items))
                rows, sums_of_rows = normalized_rows(rows)
                kept.append(strongest(rows, max_neighbors))
                sums.append(sums_of_rows)
            return sparse.vstack(kept, format="csr"), np.concatenate(sums)

        @lru_cache(maxsize=1)
        def titles() -> sparse.csr_array:
            table = title_similarity(title_words(self.catalog.titles), ids)
            return sparse.csr_array((table.values, table.targets, table.offsets), shape=(num_items, num_items))

        @lru_cache(maxsize=1)
        def hop_sum(step: tuple[int, float, float], hops: int, hop_weight: float) -> sparse.csr_array:
            return sum_of_hops(transitions(*step)[0], hops, hop_weight, max_neighbors)

        @lru_cache(maxsize=1)
        def scores(
            step: tuple[int, float, float], hops: int, hop_weight: float, title_weight: float
        ) -> sparse.csr_array:
            total = hop_sum(step, hops, hop_weight)
            if title_weight > 0:
                total = reranked(total, titles(), title_weight)
            return strongest(total, max_neighbors)

        def make_table(weighting: TransitionWeighting) -> NeighborTable:
            step = (weighting.window, weighting.backward_weight, weighting.target_exponent)
            _, sums = transitions(*step)
            matrix = scores(step, weighting.hops, weighting.hop_weight, weighting.title_weight)
            matrix = scaled_rows(matrix, sums ** (1 - weighting.source_exponent))
            matrix.sort_indices()
            return NeighborTable(
                matrix.indptr.astype(np.int64),
                matrix.indices,
                matrix.data,
                ids,
                weighting.decay,
                weighting.num_history_items,
            )

        return make_table

    def _settings(self) -> dict[str, Any]:
        return asdict(self.weighting)

    def _restore(self, settings: dict[str, Any]) -> None:
        self.weighting = TransitionWeighting(**settings)


def title_words(titles: Sequence[str]) -> TitleTokens:
    """
    Splits titles into words, in lower case, as tokens for [`title_similarity`]. A title without a letter or digit is
    one word. A language that writes no spaces has long words, so there only equal parts between punctuation count.

    Args:
        titles (`Sequence[str]`):
            The titles.

    Returns:
        [`TitleTokens`]: words as numbers, in the order of their first use.
    """
    numbers: dict[str, int] = {}
    words = [re.findall(r"\w+", title.casefold()) or [title] for title in titles]
    ids = [numbers.setdefault(word, len(numbers)) for title in words for word in title]
    offsets = np.concatenate([[0], np.cumsum([len(title) for title in words])])
    return TitleTokens(np.array(ids, dtype=np.int64), offsets.astype(np.int64))
