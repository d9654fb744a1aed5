"""Interactions: checks and sorts the table that every data set becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from transformers.utils import logging

from ..runtime.catalog import Catalog
from ..runtime.title_tokens import ragged_arange
from .id_columns import as_texts, enumerate_ids, is_id_type
from .ties import check_ties, release_order


logger = logging.get_logger(__name__)

INTERACTIONS_NAME, ITEMS_NAME = "interactions.parquet", "items.parquet"
PREPARED_NAMES = (INTERACTIONS_NAME, ITEMS_NAME)
"""Files of a prepared data set."""


def order_interactions(interactions: pl.DataFrame, ties: Literal["stable", "release"] = "stable") -> pl.DataFrame:
    """
    Checks a table of interactions and sorts it by user and from oldest to newest.

    Args:
        interactions (`polars.DataFrame`):
            The columns `user_id` and `item_id` (whole numbers or texts) and, for the order, `position` (integer) or
            `timestamp` (integer seconds). `position` wins if both exist. Optionally `split` (`"train"`,
            `"validation"` or `"test"`).
        ties (`"stable"` or `"release"`, *optional*, defaults to `"stable"`):
            Order of a user's interactions that share a time: their order in the table, or their order in the paper's
            released files (see [`release_order`]), which depends on the order of all rows of the raw file.

    Returns:
        `polars.DataFrame`: the same rows, sorted by user and then from oldest to newest, with `position` counted from
        0 within each user. The ids are int64 or texts.

    Raises:
        ValueError: If a column is missing, holds nulls or values of another kind, there is no row, or `ties` has
            another value, or is `"release"` although `position` orders the interactions.
    """
    check_ties(ties)
    order = "position" if "position" in interactions.columns else "timestamp"
    if ties == "release" and order == "position":
        raise ValueError(
            "`ties='release'` orders simultaneous interactions as a raw file has them, but the column `position` "
            "orders these interactions already. Leave `ties` out, or pass the rows of the raw file with `timestamp`."
        )
    for column in ("user_id", "item_id", order, *({"timestamp"} & set(interactions.columns))):
        if column not in interactions.columns:
            raise ValueError(
                f"The interactions have no column {column!r}; their columns are {interactions.columns}. They need "
                "`user_id`, `item_id`, and `position` or `timestamp`."
            )
        if interactions[column].null_count():
            raise ValueError(
                f"The column {column!r} of the interactions holds {interactions[column].null_count()} "
                "nulls; drop or fill those rows."
            )
        dtype = interactions[column].dtype
        if column in ("user_id", "item_id"):
            if not is_id_type(dtype):
                raise ValueError(
                    f"The column {column!r} of the interactions must hold whole numbers or texts, got {dtype}."
                )
        elif not dtype.is_integer():
            raise ValueError(
                f"The column {column!r} of the interactions must hold whole numbers, got {dtype}. Convert times to "
                "seconds."
            )
    if interactions.is_empty():
        raise ValueError("There are no interactions. The table needs at least one row.")
    interactions = interactions.with_columns(*(enumerate_ids(interactions[name]) for name in ("user_id", "item_id")))
    if ties == "release":
        ordered = interactions.sort("user_id", maintain_order=True)
        num_interactions = count_per_user(ordered)
        starts = np.cumsum(num_interactions) - num_interactions
        times = np.split(ordered[order].to_numpy(), starts[1:])
        if len(ordered) > len(times) and all((part[1:] >= part[:-1]).all() for part in times):
            logger.warning_once(
                "`ties='release'` sorts the rows of a raw file, but each user's rows are in order of time already. If "
                "they were sorted after they left the raw file, the order of simultaneous interactions is not the "
                "one in the paper's files. Pass the raw file."
            )
        ordered = ordered[
            np.concatenate([start + release_order(part) for start, part in zip(starts, times, strict=True)])
        ]
    else:
        ordered = _sort(interactions, order)
        num_interactions = count_per_user(ordered)
    return as_texts(ordered).with_columns(position=pl.Series(ragged_arange(num_interactions)))


def _sort(interactions: pl.DataFrame, order: str) -> pl.DataFrame:
    user, rank = pl.col("user_id").to_physical().cast(pl.Int64), pl.col(order).cast(pl.Int64)
    bounds = interactions.select(first_user=user.min(), last_user=user.max(), first=rank.min(), last=rank.max())
    first_user, last_user, first, last = bounds.row(0)
    span = last - first + 1
    if (last_user - first_user + 1) * span > 2**62:
        return interactions.sort("user_id", order, maintain_order=True)
    # Sorting by one number takes a third of the time of sorting by two columns.
    key = (user - first_user) * span + (rank - first)
    return interactions.with_columns(key.alias("key")).sort("key", maintain_order=True).drop("key")


def count_per_user(ordered: pl.DataFrame) -> np.ndarray:
    """Returns the number of interactions of each user, for a table sorted by user; int64, shape `(num_users,)`."""
    return ordered["user_id"].rle().struct.field("len").cast(pl.Int64).to_numpy()


def has_ascending_times(interactions: pl.DataFrame | pl.LazyFrame) -> bool:
    """
    Finds out whether interactions have times that rows can keep. A warning says so if the times contradict the order,
    which a column `position` may give.

    Args:
        interactions (`polars.DataFrame` or `polars.LazyFrame`):
            As [`order_interactions`] returns them.

    Returns:
        `bool`: whether there is a column `timestamp` in which no interaction of a user is earlier than the one before.

    Raises:
        ValueError: If a time is null or no whole number.
    """
    table = interactions.lazy()
    schema = table.collect_schema()
    if "timestamp" not in schema:
        return False
    if not schema["timestamp"].is_integer():
        raise ValueError(
            "The column 'timestamp' of the interactions must hold whole seconds since 1970 UTC, got "
            f"{schema['timestamp']}. Convert dates by `pl.col('timestamp').dt.epoch('s')`, or drop the column."
        )
    time = pl.col("timestamp").cast(pl.Int64)
    descends = (time.diff() < 0) & (pl.col("position") > 0)
    counts = table.select(time.null_count(), descends.sum().alias("earlier")).collect(engine="streaming")
    num_nulls, num_earlier = counts.row(0)
    if num_nulls > 0:
        raise ValueError(
            f"The column 'timestamp' of the interactions holds {num_nulls} nulls; drop or fill those rows, or drop "
            "the column."
        )
    if num_earlier > 0:
        logger.warning_once(
            f"{num_earlier} interactions have an earlier `timestamp` than the one before them, because `position` "
            "orders them otherwise. So their rows get no timestamps. Leave out `position` to order the interactions "
            "by time."
        )
    return bool(num_earlier == 0)


def check_items(items: pl.DataFrame) -> None:
    """
    Checks that a table of items can become a [`Catalog`].

    Args:
        items (`polars.DataFrame`):
            The columns `item_id` and `title`.

    Raises:
        ValueError: If a column is missing, there is no item, an id is null, repeated or neither a whole number nor a
            text, or a title is empty.
    """
    Catalog.from_frame(items)


def read_directory(directory: str | Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """
    Reads and checks the tables of a prepared data set.

    Args:
        directory (`str` or `pathlib.Path`):
            Directory that holds `interactions.parquet` (see [`order_interactions`]) and `items.parquet` (see
            [`check_items`]).

    Returns:
        `tuple[polars.DataFrame, polars.DataFrame]`: the interactions, as [`order_interactions`] returns them, and the
        items.

    Raises:
        FileNotFoundError: If one of the two files is missing.
        ValueError: If a table fails its check.
    """
    directory = Path(directory)
    for name in PREPARED_NAMES:
        if not (directory / name).is_file():
            raise FileNotFoundError(
                f"{directory} holds no {name}. A directory of prepared data holds {INTERACTIONS_NAME} (user_id, "
                f"item_id, position or timestamp, optionally split) and {ITEMS_NAME} (item_id, title)."
            )
    interactions = order_interactions(pl.read_parquet(directory / INTERACTIONS_NAME))
    items = pl.read_parquet(directory / ITEMS_NAME)
    check_items(items)
    return interactions, items
