"""Selection: ranks the targets of validation rows, from which a baseline chooses its settings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from ..data.rows import TIMES_COLUMN
from ..evaluation.metrics import ranks_from_scores
from ..evaluation.scorers import Scorer, score_at
from ..runtime.catalog import Catalog
from .histories import HISTORIES_PER_BATCH


def single_targets(dataset: Dataset, catalog: Catalog) -> tuple[list[list[int]], np.ndarray]:
    """
    Returns the targets of a data set, one by one, and their histories.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows.
        catalog ([`Catalog`]):
            Must hold every target.

    Returns:
        `tuple[list[list[int]], numpy.ndarray]`: the item ids before each target, and the catalog index of each target
        (int64, shape `(num_targets,)`).

    Raises:
        KeyError: If the catalog lacks a target.
    """
    pairs = [
        (item_ids[:position], item_ids[position])
        for item_ids, positions in zip(dataset["item_ids"], dataset["target_positions"], strict=True)
        for position in positions
    ]
    return [history for history, _ in pairs], catalog.indices_of([target for _, target in pairs])


def single_times(dataset: Dataset) -> np.ndarray | None:
    """
    Returns the time of each target of [`single_targets`]: the moment of asking.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows that pass [`check_rows`].

    Returns:
        `numpy.ndarray` of shape `(num_targets,)`, int64, *optional*: whole seconds since 1970 UTC; `None` if the rows
        have no timestamps.
    """
    if TIMES_COLUMN not in dataset.column_names:
        return None
    times = [
        timestamps[position]
        for timestamps, positions in zip(dataset[TIMES_COLUMN], dataset["target_positions"], strict=True)
        for position in positions
    ]
    return np.array(times, dtype=np.int64)


def ranks_of_targets(
    scorer: Scorer, histories: Sequence[Sequence[int]], targets: np.ndarray, times: np.ndarray | None = None
) -> np.ndarray:
    """
    Ranks targets.

    Args:
        scorer ([`Scorer`] or [`TimedScorer`]):
            The scorer.
        histories (`Sequence[Sequence[int]]`):
            Item ids before each target, oldest first.
        targets (`numpy.ndarray` of shape `(num_targets,)`, int64):
            Catalog index of each target.
        times (`numpy.ndarray` of shape `(num_targets,)`, int64, *optional*):
            The moments of asking.

    Returns:
        `numpy.ndarray` of shape `(num_targets,)`: the rank of each target, as [`ranks_from_scores`] defines it.

    Raises:
        ValueError: If the scorer reads moments, and none are given.
    """
    ranks = []
    for start in range(0, len(histories), HISTORIES_PER_BATCH):
        part = slice(start, start + HISTORIES_PER_BATCH)
        scores = score_at(scorer, histories[part], None if times is None else times[part])
        ranks.append(ranks_from_scores(scores, targets[part]))
    return np.concatenate(ranks)


def cut_off(metric: str) -> int:
    """
    Returns the k of `hr@k`, `ndcg@k` or `mrr@k`.

    Raises:
        ValueError: If `metric` is none of these.
    """
    name, _, k = metric.partition("@")
    if name not in ("hr", "ndcg", "mrr") or not k.isdigit() or int(k) < 1:
        raise ValueError(f"`metric` must be hr@k, ndcg@k or mrr@k with a whole number k, got {metric!r}.")
    return int(k)
