"""Choosing on validation: where a baseline ranks the targets of validation rows."""

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
    The histories of a data set's targets, and the targets.

    Args:
        dataset ([`~datasets.Dataset`]):
            Example rows.
        catalog ([`Catalog`]):
            Knows every target.

    Returns:
        `tuple[list[list[int]], numpy.ndarray]`: item ids before each target, and its catalog index.
    """
    pairs = [
        (item_ids[:position], item_ids[position])
        for item_ids, positions in zip(dataset["item_ids"], dataset["target_positions"], strict=True)
        for position in positions
    ]
    return [history for history, _ in pairs], catalog.indices_of([target for _, target in pairs])


def ranks_of_targets(scorer: Scorer, histories: Sequence[Sequence[int]], targets: np.ndarray) -> np.ndarray:
    """The rank of each target, as [`ranks_from_scores`] gives it."""
    parts = [slice(start, start + HISTORIES_PER_BATCH) for start in range(0, len(histories), HISTORIES_PER_BATCH)]
    return np.concatenate([ranks_from_scores(scorer.score(histories[part]), targets[part]) for part in parts])


def cut_off(metric: str) -> int:
    """
    The k of `hr@k` and the like.

    Raises:
        ValueError: If it has none.
    """
    name, _, k = metric.partition("@")
    if name not in ("hr", "ndcg", "mrr") or not k.isdigit() or int(k) < 1:
        raise ValueError(f"`metric` must be hr@k, ndcg@k or mrr@k with a whole number k, got {metric!r}.")
    return int(k)
