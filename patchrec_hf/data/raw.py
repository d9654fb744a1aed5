"""Raw data: the class that every reader returns, and the checks that all readers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from .files import Part, read_checked
from .frames import Frame
from .lines import Records, Scan


COUNTS = (
    pl.col("user_id").n_unique().alias("users"),
    pl.col("item_id").n_unique().alias("items"),
    pl.len().alias("interactions"),
)
"""Numbers of users, of items and of interactions."""


@dataclass(frozen=True, eq=False)
class RawData:
    """
    A data set as it is published, before filters other than `min_rating`.

    Args:
        interactions (`polars.DataFrame`):
            `user_id` and `item_id` (integers, or categories of strings), `timestamp` (int64) and, if known, `rating`
            (float32), in the file's order. Interactions below the reader's `min_rating` are left out. Data without
            times has `position` (int64) instead, the number of the row.
        items (`polars.DataFrame`):
            `item_id` (of the same type) and `title`, which may be null.
        num_read (`dict[str, int]`):
            Number of users, items and interactions in the file, with all ratings.
        ticks_per_second (`int`, *optional*, defaults to `1`):
            Unit of `timestamp`: 1 is seconds, 1000 is milliseconds.
        num_left (`Mapping[str, Mapping[str, int]]`, *optional*):
            Names of steps in which the reader leaves out rows, and what each step leaves, counted as in `num_read`.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    num_read: dict[str, int]
    ticks_per_second: int = 1
    num_left: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def read_interactions(
    path: Path | Frame,
    scan: Scan,
    min_rating: float | None,
    rating_range: tuple[float, float] | None = None,
    faults: Mapping[str, pl.Expr] | None = None,
    records: Records | None = None,
    where: pl.Expr | None = None,
    parts: Sequence[Part] = (),
) -> tuple[pl.DataFrame, dict[str, int]]:
    """
    Reads a log of interactions.

    Args:
        path (`pathlib.Path` or [`Frame`]):
            The file or data frame.
        scan (`Scan`):
            Reads `user_id`, `item_id`, `timestamp` or `position`, and optionally `rating`.
        min_rating (`float`, *optional*):
            Rows with a lower rating are left out.
        rating_range (`tuple[float, float]`, *optional*):
            The lowest and the highest valid rating.
        faults (`Mapping[str, polars.Expr]`, *optional*):
            Further faults that a row may have (see [`read_checked`]). They are reported first.
        records ([`Records`], *optional*):
            The records of a text file. Its lines if not given.
        where (`polars.Expr`, *optional*):
            Rows for which this is not true are left out, and not checked.
        parts (`Sequence[Part]`, *optional*):
            The files, if there are several (see [`read_checked`]).

    Returns:
        `tuple[polars.DataFrame, dict[str, int]]`: the rows, and the `num_read` of [`RawData`].

    Raises:
        ValueError: If the file cannot be read, a value is missing, or a rating lies outside its range. The message
            names the line. Also if the file holds no interaction.
    """
    checks = dict(faults or {})
    order = "position" if "position" in scan(path).collect_schema() else "timestamp"
    for column in ("user_id", "item_id", order):
        checks[f"{column} is missing"] = pl.col(column).is_null()
    if rating_range is not None:
        checks["the rating is missing"] = pl.col("rating").is_null()
        low, high = rating_range
        checks[f"the rating lies outside {low:g} to {high:g}"] = ~pl.col("rating").is_between(low, high)
    keep = None if min_rating is None else pl.col("rating") >= min_rating
    if where is not None:
        checks = {name: fault & where for name, fault in checks.items()}
        keep = where if keep is None else where & keep
    rows, num_read = read_checked(path, scan, checks, keep, COUNTS, records, parts=parts)
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
