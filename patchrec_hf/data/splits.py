"""Splits: assign each interaction to train, validation or test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from transformers.utils import logging


logger = logging.get_logger(__name__)

SPLITS = ("train", "validation", "test")
_KIND = pl.Enum(SPLITS)


def temporal_split(interactions: pl.DataFrame, cuts: tuple[float, float] = (0.96, 0.98)) -> pl.DataFrame:
    """
    The paper's global temporal split. It cuts the interactions of all users at the same two points in time, so no
    training interaction is later than a validation or test interaction. Its shares are 48 : 1 : 1.

    Args:
        interactions (`polars.DataFrame`):
            As [`order_interactions`] returns them, with `timestamp`.
        cuts (`tuple[float, float]`, *optional*, defaults to `(0.96, 0.98)`):
            Shares of the interactions, in order of time, after which validation and test start.

    Returns:
        `polars.DataFrame`: the same rows with the column `split`. Interactions exactly at the time of a cut belong to
        the earlier split.

    Raises:
        ValueError: If there is no `timestamp`, the cuts do not ascend between 0 and 1, or a split is left empty.
    """
    if "timestamp" not in interactions.columns:
        raise ValueError(
            f"A temporal split needs the column 'timestamp'; the columns are {interactions.columns}. Use another "
            "`split`, such as `leave_one_out_split` or `user_ratio_split`."
        )
    first, second = cut_times(interactions, cuts)
    is_late = (pl.col("timestamp") > first).cast(pl.Int8) + (pl.col("timestamp") > second).cast(pl.Int8)
    return _checked(
        interactions.with_columns(split=is_late.replace_strict(dict(enumerate(SPLITS)), return_dtype=_KIND)),
        f"too many interactions share the time of a cut ({first} or {second}). Choose other `cuts` than {cuts}",
    )


def cut_times(interactions: pl.DataFrame, cuts: tuple[float, float] = (0.96, 0.98)) -> tuple[int, int]:
    """Returns the times of the last training and the last validation interaction of [`temporal_split`]."""
    check_cuts(cuts)
    times = interactions["timestamp"].to_numpy()
    indices = [max(int(cut * len(times)) - 1, 0) for cut in cuts]
    first, second = np.partition(times, indices)[indices].tolist()
    return first, second


def check_cuts(cuts: Sequence[float]) -> None:
    """
    Checks the two shares at which validation and test start.

    Args:
        cuts (`Sequence[float]`):
            The shares.

    Raises:
        ValueError: If they do not ascend between 0 and 1.
    """
    if not 0 < cuts[0] < cuts[1] < 1:  # false for NaN too
        raise ValueError(f"`cuts` must ascend between 0 and 1, got {cuts}.")


def leave_one_out_split(interactions: pl.DataFrame) -> pl.DataFrame:
    """
    Leave-one-out: each user's last interaction is for test and the one before it for validation. All interactions of a
    user with fewer than three are for training.

    > [!WARNING]
    > This leaks the future: a training interaction of one user may be later than a test interaction of another. Use
    > [`temporal_split`] to measure how good a recommender would be in use.

    Args:
        interactions (`polars.DataFrame`):
            As [`order_interactions`] returns them.

    Returns:
        `polars.DataFrame`: the same rows with the column `split`.

    Raises:
        ValueError: If no user has three interactions.
    """
    _warn_of_leak("leave_one_out_split")
    from_end = pl.len().over("user_id") - pl.col("position")
    split = (
        pl.when((from_end == 1) & (pl.len().over("user_id") >= 3))
        .then(pl.lit("test"))
        .when((from_end == 2) & (pl.len().over("user_id") >= 3))
        .then(pl.lit("validation"))
        .otherwise(pl.lit("train"))
    )
    return _checked(interactions.with_columns(split=split.cast(_KIND)), "no user has three interactions")


def user_ratio_split(interactions: pl.DataFrame, cuts: tuple[float, float] = (0.8, 0.9)) -> pl.DataFrame:
    """
    Cuts each user's history at the same two shares of its length. Leaks the future, like [`leave_one_out_split`].

    Args:
        interactions (`polars.DataFrame`):
            As [`order_interactions`] returns them.
        cuts (`tuple[float, float]`, *optional*, defaults to `(0.8, 0.9)`):
            Shares of a user's interactions after which validation and test start, rounded down to whole interactions.

    Returns:
        `polars.DataFrame`: the same rows with the column `split`.

    Raises:
        ValueError: If the cuts do not ascend between 0 and 1, or a split is left empty.
    """
    check_cuts(cuts)
    _warn_of_leak("user_ratio_split")
    num_interactions = pl.len().over("user_id")
    first, second = ((num_interactions * cut).floor() for cut in cuts)
    split = (
        pl.when(pl.col("position") < first)
        .then(pl.lit("train"))
        .when(pl.col("position") < second)
        .then(pl.lit("validation"))
        .otherwise(pl.lit("test"))
    )
    return _checked(
        interactions.with_columns(split=split.cast(_KIND)), f"histories are too short for {cuts}. Choose other `cuts`"
    )


def _checked(interactions: pl.DataFrame, reason: str) -> pl.DataFrame:
    missing = set(SPLITS) - set(interactions["split"].unique().cast(pl.String))
    if missing:
        raise ValueError(f"The split leaves {sorted(missing)} empty: {reason}.")
    return interactions


def _warn_of_leak(name: str) -> None:
    logger.warning_once(
        f"`{name}` leaks the future: training interactions of some users are later than predicted interactions of "
        "others, so the metrics are better than in real use. `temporal_split` does not leak."
    )
