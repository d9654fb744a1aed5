"""Comparison: whether two runs ranked the same targets, and the differences of their metrics with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from .metrics import bootstrap_interval


TARGET_COLUMNS = ("user_id", "target_id", "history_length")
"""The columns of [`EvaluationReport.targets`] that say what was ranked."""


def check_same_targets(first: pl.DataFrame, second: pl.DataFrame) -> None:
    """
    Checks that two runs rank the same targets in the same order.

    Args:
        first, second (`polars.DataFrame`):
            The targets of each run, with the columns [`TARGET_COLUMNS`].

    Raises:
        ValueError: If the targets differ. The message names the first that does.
    """
    first, second = first.select(TARGET_COLUMNS), second.select(TARGET_COLUMNS)
    fault = None
    if len(first) != len(second):
        fault = f"got {len(first)} and {len(second)} targets"
    else:
        places = _differs(first, second).arg_true()
        if len(places) > 0:
            one, two = (
                "user {!r}, item {!r}, history of {} items".format(*targets.row(places[0]))
                for targets in (first, second)
            )
            fault = f"got two runs on {len(first)} targets of which number {places[0] + 1} differs: {one}; {two}"
    if fault is not None:
        raise ValueError(
            f"Only runs on the same targets can be compared, {fault}. Evaluate both runs on the same split, with the "
            "same `max_rows` and `max_history`."
        )


def check_same_candidates(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> None:
    """
    Checks that two runs rank targets among the same candidates.

    Args:
        first, second (`Mapping[str, Any]`, *optional*):
            The setting `candidates` of each report; `None` if the whole catalog was ranked.

    Raises:
        ValueError: If the candidates differ.
    """
    if first != second:
        names = [
            "the whole catalog" if one is None else f"{one['mean']:g} candidates for each target (the mean)"
            for one in (first, second)
        ]
        which = f"among {names[0]} and among {names[1]}" if names[0] != names[1] else f"among other {names[0]}"
        raise ValueError(
            f"Only runs that rank among the same items can be compared, got two that rank {which}. Evaluate both with "
            "the same `candidates`, or both without."
        )


def _differs(first: pl.DataFrame, second: pl.DataFrame) -> pl.Series:
    differs = pl.repeat(False, len(first), dtype=pl.Boolean, eager=True)
    for one, two in zip(first.get_columns(), second.get_columns(), strict=True):
        if one.dtype.is_numeric() == two.dtype.is_numeric():
            differs |= one.ne_missing(two)
        else:  # numbers and texts, which polars does not compare
            differs |= True
    return differs


def paired_differences(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], user_ids: np.ndarray
) -> pl.DataFrame:
    """
    Compares the metrics of two runs on the same targets.

    Args:
        ours, theirs (`Mapping[str, numpy.ndarray]`):
            For each metric, the values of n targets, shape `(n,)`.
        user_ids (`numpy.ndarray` of shape `(n,)`):
            The user of each target.

    Returns:
        `polars.DataFrame`: see [`EvaluationReport.compare`].
    """
    one, two = np.column_stack(list(ours.values())), np.column_stack(list(theirs.values()))
    low, high = bootstrap_interval(one - two, user_ids)
    return pl.DataFrame(
        {
            "metric": list(ours),
            "this": one.mean(axis=0),
            "other": two.mean(axis=0),
            "difference": (one - two).mean(axis=0),
            "low": low,
            "high": high,
        }
    )
