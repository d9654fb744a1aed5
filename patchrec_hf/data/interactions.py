"""Interactions: the table that every data set becomes, and its order."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from ..runtime.catalog import Catalog, ragged_arange
from .ties import release_order


def order_interactions(interactions: pl.DataFrame, ties: Literal["stable", "release"] = "stable") -> pl.DataFrame:
    """
    Checks a table of interactions and puts each user's in order.

    Args:
        interactions (`polars.DataFrame`):
            The columns `user_id` and `item_id` (integers) and, for the order, `position` (integer) or `timestamp`
            (integer seconds); optionally `split` (`"train"`, `"validation"` or `"test"`).
        ties (`"stable"` or `"release"`, *optional*, defaults to `"stable"`):
            In which order a user's interactions of one time come: as they have it in the table, or as in the files of
            the paper's authors (see [`release_order`]).

    Returns:
        `polars.DataFrame`: the same rows, sorted by user and then from oldest to newest, with `position` counted from
        0 within each user.

    Raises:
        ValueError: If a column is missing, holds nulls or is not of whole numbers, there is no row, or `ties` is
            something else.
    """
    if ties not in ("stable", "release"):
        raise ValueError(f"`ties` must be 'stable' or 'release', got {ties!r}.")
    order = "position" if "position" in interactions.columns else "timestamp"
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
        if not interactions[column].dtype.is_integer():
            raise ValueError(
                f"The column {column!r} of the interactions must hold whole numbers, got {interactions[column].dtype}."
                " Number users and items, and turn times into seconds."
            )
    if interactions.is_empty():
        raise ValueError("There are no interactions.")
    if ties == "release":
        ordered = interactions.sort("user_id", maintain_order=True)
        num_interactions = count_per_user(ordered)
        starts = np.cumsum(num_interactions) - num_interactions
        times = np.split(ordered[order].to_numpy(), starts[1:])
        ordered = ordered[
            np.concatenate([start + release_order(own) for start, own in zip(starts, times, strict=True)])
        ]
    else:
        ordered = _sort(interactions, order)
        num_interactions = count_per_user(ordered)
    return ordered.with_columns(
        pl.col("user_id", "item_id").cast(pl.Int64), position=pl.Series(ragged_arange(num_interactions))
    )


def _sort(interactions: pl.DataFrame, order: str) -> pl.DataFrame:
    user, place = pl.col("user_id").cast(pl.Int64), pl.col(order).cast(pl.Int64)
    bounds = interactions.select(first_user=user.min(), last_user=user.max(), first=place.min(), last=place.max())
    first_user, last_user, first, last = bounds.row(0)
    span = last - first + 1
    if (last_user - first_user + 1) * span > 2**62:
        return interactions.sort("user_id", order, maintain_order=True)
    # One number to sort by takes a third of the time that two columns take.
    key = (user - first_user) * span + (place - first)
    return interactions.with_columns(key.alias("key")).sort("key", maintain_order=True).drop("key")


def count_per_user(ordered: pl.DataFrame) -> np.ndarray:
    """Interactions of each user, for a table sorted by user; int64, `(num_users,)`."""
    return ordered["user_id"].rle().struct.field("len").cast(pl.Int64).to_numpy()


def read_directory(directory: str | Path) -> tuple[pl.DataFrame, Catalog]:
    """
    Reads a prepared data set.

    Args:
        directory (`str` or `pathlib.Path`):
            Holds `interactions.parquet` (see [`order_interactions`]) and `items.parquet` (`item_id`, `title`).

    Returns:
        `tuple[polars.DataFrame, Catalog]`

    Raises:
        FileNotFoundError: If one of the two files is missing.
        ValueError: If a table is not as described.
    """
    directory = Path(directory)
    for name in ("interactions.parquet", "items.parquet"):
        if not (directory / name).is_file():
            raise FileNotFoundError(
                f"{directory} holds no {name}. A data directory holds interactions.parquet (user_id, "
                "item_id, position or timestamp, optionally split) and items.parquet (item_id, title)."
            )
    interactions = order_interactions(pl.read_parquet(directory / "interactions.parquet"))
    return interactions, Catalog.from_parquet(directory / "items.parquet")
