"""Interactions: the table that every data set becomes, and its checks."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ..catalog import Catalog


def order_interactions(interactions: pl.DataFrame) -> pl.DataFrame:
    """
    Checks a table of interactions and puts each user's in order.

    Args:
        interactions (`polars.DataFrame`):
            The columns `user_id` and `item_id` (integers) and, for the order, `position` (integer) or `timestamp`
            (integer seconds); optionally `split` (`"train"`, `"validation"` or `"test"`). Rows of one user with equal
            timestamps keep the order they have in the table.

    Returns:
        `polars.DataFrame`: the same rows, sorted by user and then from oldest to newest, with `position` counted from
        0 within each user.

    Raises:
        ValueError: If a column is missing, holds nulls or is not of whole numbers, or there is no row.
    """
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
    return interactions.sort("user_id", order, maintain_order=True).with_columns(
        pl.col("user_id", "item_id").cast(pl.Int64),
        pl.int_range(pl.len(), dtype=pl.Int64).over("user_id").alias("position"),
    )


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
