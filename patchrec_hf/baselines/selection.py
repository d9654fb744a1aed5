"""Selection: ranks the targets of validation rows, from which a baseline chooses its settings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from ..evaluation.metrics import ranks_from_scores
from ..evaluation.scorers import Scorer
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


def ranks_of_targets(scorer: Scorer, histories: Sequence[Sequence[int]], targets: np.ndarray) -> np.ndarray:
    """Returns the rank of each target, as [`ranks_from_scores`] defines it."""
    parts = [slice(start, start + HISTORIES_PER_BATCH) for start in range(0, len(histories), HISTORIES_PER_BATCH)]
    return np.concatenate([ranks_from_scores(scorer.score(histories[part]), targets[part]) for part in parts])


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
