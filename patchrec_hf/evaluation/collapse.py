"""Collapse: finds out whether a model scores its best titles alike, so that its rankings say nothing"""

from __future__ import annotations

import numpy as np
import polars as pl

from ..runtime.score_ties import model_tie_width


_DISTINCT_SHARE = 0.5
"""A list is a collapsed one if no larger share of its scores is distinct."""
_COLLAPSED_SHARE = 0.5
"""A model has collapsed if at least this share of its lists has."""


def count_distinct(scores: np.ndarray, titles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Counts the different scores of the titles of each list. Scores that tie count as one (see [`model_tie_width`]).

    Args:
        scores (`numpy.ndarray` of shape `(B, k)`):
            A model's scores, best first; -infinity after the end of a shorter list.
        titles (`numpy.ndarray` of shape `(B, k)`, int64):
            The number of each listed title. If a list holds a title several times, its best score counts.

    Returns:
        `tuple[numpy.ndarray, numpy.ndarray]`: the numbers of different scores and of different titles, each of shape
        `(B,)`, int64.
    """
    counts = np.zeros((2, len(scores)), dtype=np.int64)
    for row, is_listed in enumerate(np.isfinite(scores)):
        _, first = np.unique(titles[row, is_listed], return_index=True)
        best = scores[row, is_listed][np.sort(first)]
        differs = best[:-1] - best[1:] > model_tie_width(best[:-1])
        counts[:, row] = min(len(best), 1) + differs.sum(), len(best)
    return counts[0], counts[1]


def describe_collapse(targets: pl.DataFrame) -> str | None:
    """
    Describes a model that scores its best titles alike.

    Args:
        targets (`polars.DataFrame`):
            `targets` of an [`EvaluationReport`].

    Returns:
        `str`, *optional*: a sentence or two for the user; `None` if at least half of the lists hold mostly distinct
        scores, or nothing is known about them.
    """
    if not {"num_distinct_scores", "num_best_titles"} <= set(targets.columns):  # an earlier version wrote them
        return None
    lists = targets.select(distinct="num_distinct_scores", length="num_best_titles").drop_nulls()
    lists = lists.filter(pl.col("length") > 1)
    collapsed = lists.filter(pl.col("distinct") <= _DISTINCT_SHARE * pl.col("length"))
    if len(lists) == 0 or len(collapsed) < _COLLAPSED_SHARE * len(lists):
        return None
    middle = collapsed.sort("distinct", "length")[len(collapsed) // 2]
    distinct, length = middle["distinct"].item(), middle["length"].item()
    return (
        f"The model scores titles alike: for {len(collapsed):,} of {len(lists):,} targets, at most half of the best "
        f"scores differ. A typical list of {length} has {distinct} distinct score{'s' * (distinct != 1)}. Equal "
        "scores share the mean of their ranks, so these metrics show no more than chance. The weights may have "
        "collapsed, or the model has not learned yet: look at its loss, and lower the learning rate if it has grown."
    )
