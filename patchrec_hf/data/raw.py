"""Raw data: the class that every reader returns, and the checks that all readers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from .files import Scan, read_checked
from .frames import Frame


@dataclass(frozen=True, eq=False)
class RawData:
    """
    A data set as it is published, before filters other than `min_rating`.

    Args:
        interactions (`polars.DataFrame`):
            `user_id` and `item_id` (integers, or categories of strings), `timestamp` (int64) and, if known, `rating`
            (float32), in the file's order. Interactions below the reader's `min_rating` are left out.
        items (`polars.DataFrame`):
            `item_id` (of the same type) and `title`, which may be null.
        num_read (`dict[str, int]`):
            Number of users, items and interactions in the file, with all ratings.
        ticks_per_second (`int`, *optional*, defaults to `1`):
            Unit of `timestamp`: 1 is seconds, 1000 is milliseconds.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    num_read: dict[str, int]
    ticks_per_second: int = 1


def read_interactions(
    path: Path | Frame,
    scan: Scan,
    min_rating: float | None,
    rating_range: tuple[float, float] | None = None,
    faults: Mapping[str, pl.Expr] | None = None,
    has_header: bool = False,
    where: pl.Expr | None = None,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """
    Reads a log of interactions.

    Args:
        path (`pathlib.Path` or [`Frame`]):
            The file or data frame.
        scan (`Scan`):
            Reads `user_id`, `item_id`, `timestamp` and optionally `rating`.
        min_rating (`float`, *optional*):
            Rows with a lower rating are left out.
        rating_range (`tuple[float, float]`, *optional*):
            The lowest and the highest valid rating.
        faults (`Mapping[str, polars.Expr]`, *optional*):
            Further faults that a row may have (see [`read_checked`]). They are reported first.
        has_header (`bool`, *optional*, defaults to `False`):
            Whether the first line names the columns.
        where (`polars.Expr`, *optional*):
            Rows for which this is not true are left out, and not checked.

    Returns:
        `tuple[polars.DataFrame, dict[str, int]]`: the rows, and the `num_read` of [`RawData`].

    Raises:
        ValueError: If the file cannot be read, a value is missing, or a rating lies outside its range. The message
            names the line. Also if the file holds no interaction.
    """
    checks = dict(faults or {})
    for column in ("user_id", "item_id", "timestamp"):
        checks[f"{column} is missing"] = pl.col(column).is_null()
    if rating_range is not None:
        checks["the rating is missing"] = pl.col("rating").is_null()
        low, high = rating_range
        checks[f"the rating lies outside {low:g} to {high:g}"] = ~pl.col("rating").is_between(low, high)
    facts: Sequence[pl.Expr] = (
        pl.col("user_id").n_unique().alias("users"),
        pl.col("item_id").n_unique().alias("items"),
        pl.len().alias("interactions"),
    )
    keep = None if min_rating is None else pl.col("rating") >= min_rating
    if where is not None:
        checks = {name: fault & where for name, fault in checks.items()}
        keep = where if keep is None else where & keep
    rows, num_read = read_checked(path, scan, checks, keep, facts, has_header)
    if num_read["interactions"] == 0:
        raise ValueError(f"{path} holds no interaction.")
    return rows, num_read


def scan_json_lines(source: Any, schema: Mapping[str, pl.DataType | type[pl.DataType]]) -> pl.LazyFrame:
    """Reads the fields of `schema` from a file with one JSON object per line. Other fields are skipped."""
    return pl.scan_ndjson(source, schema=dict(schema))


def null_if_blank(title: pl.Expr) -> pl.Expr:
    """Turns blank titles into nulls."""
    return pl.when(title.str.strip_chars() != "").then(title)


def drop_blank_rows(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Leaves out rows without any value, which are the blank lines of a file."""
    return rows.filter(~pl.all_horizontal(pl.all().is_null()))
