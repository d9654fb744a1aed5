"""Grouping: turns histories of any form into one row per user, in Parquet, without holding all of them in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
from polars import selectors

from ..data.files import make_once, read_checked
from ..data.lines import NotUtf8Error
from ..data.table_columns import Table
from ..data.table_options import TableOptions, is_text_table
from ..data.ticks import TICKS_PER_SECOND
from ..data.times import Times, find_times
from .history_files import HistoryFile, find_histories


INTERACTIONS_PER_BUCKET = 10_000_000
"""Interactions that are grouped together. A bucket ends with the user who reaches this number."""
_USERS_PER_ROW_GROUP = 16_384
_ROWS_NAME = "histories.parquet"


def as_rows(file: HistoryFile, directory: Path, interactions_per_bucket: int = INTERACTIONS_PER_BUCKET) -> HistoryFile:
    """
    Returns the histories as a Parquet file with one row per user.

    Interactions are read once for the order of the users, and then once for each bucket of users, whose interactions
    are sorted in memory. So memory holds the ids of all users, and the interactions of one bucket.

    Args:
        file ([`HistoryFile`]):
            The histories.
        directory (`pathlib.Path`):
            Gets the new file, unless it is there already. It appears when the file is whole. A file that has this form
            already stays where it is.
        interactions_per_bucket (`int`, *optional*, defaults to `10_000_000`):
            Interactions that are sorted together. A bucket ends with the user who reaches this number.

    Returns:
        [`HistoryFile`]: users in the order of their first rows; their items from oldest to newest. Items of the same
        time stay in the order of the file.

    Raises:
        ValueError: If a value is missing or cannot be read. The message names the line or row.
    """
    if file.is_ready:
        return file
    write = partial(_group, file, interactions_per_bucket) if file.is_long else partial(_rewrite, file)
    return find_histories(make_once(directory, lambda part: write(part / _ROWS_NAME)) / _ROWS_NAME)


def _rewrite(file: HistoryFile, target: Path) -> None:
    """Writes JSON lines with one row per user as Parquet."""
    rows = file.scan()
    try:
        rows = rows.select(file.expressions(rows.collect_schema()))
        if rows.select(_are_numbers(pl.col("user_id"))).collect(engine="streaming").item():
            rows = rows.with_columns(pl.col("user_id").cast(pl.Int64))
        rows.sink_parquet(target)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(f"{file.path} cannot be read: {error}") from error


def _group(file: HistoryFile, interactions_per_bucket: int, target: Path) -> None:
    """Writes interactions as one row per user."""
    names = file.names
    naming = "Name the file's own columns with `columns`, such as `columns={'user_id': 'customer'}`."
    options = TableOptions(separator=file.separator, quote_char=file.quote_char, has_header=file.has_header)
    table = Table.of(file.path, list(names.values()), options, advice=naming)
    times = None
    if "timestamp" in names:
        column = names["timestamp"]
        kind = table.kinds[column]
        times = find_times(str(file.path), table.scan(file.path), column, kind, file.time_unit, file.date_format)
    scan = partial(_scan, table, names, times)
    _check(scan, table, names, times)
    rows = scan(file.path).with_row_index("row")
    users = rows.group_by("user_id").agg(first=pl.col("row").min(), count=pl.len()).sort("first")
    known = users.select(
        "user_id", "first", bucket=(pl.col("count").cum_sum() - pl.col("count")) // interactions_per_bucket
    ).collect(engine="streaming")
    as_number = is_text_table(file.path) and known.select(_are_numbers(pl.col("user_id"))).item()
    lists = {"item_ids": pl.col("item_id")}
    if times is not None:
        lists["timestamps"] = pl.col("timestamp") // TICKS_PER_SECOND["ns"]
    order = ["first", "position" if "position" in names else "timestamp", "row"]
    with ExitStack() as stack:
        writer = None
        for bucket in known.partition_by("bucket", maintain_order=True):
            part = rows.join(bucket.lazy().select("user_id", "first"), on="user_id").collect(engine="streaming")
            groups = part.sort(order).group_by("first", maintain_order=True)
            histories = groups.agg(pl.col("user_id").first(), **lists).drop("first")
            if as_number:
                histories = histories.with_columns(pl.col("user_id").cast(pl.Int64))
            written = histories.to_arrow()
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(target, written.schema, compression="zstd"))
            writer.write_table(written, row_group_size=_USERS_PER_ROW_GROUP)


def _scan(table: Table, names: Mapping[str, str], times: Times | None, source: Any) -> pl.LazyFrame:
    """Reads interactions: ids as whole numbers or texts, and times in the unit of the file."""
    columns = {name: table.id(names[name]) for name in ("user_id", "item_id")}
    if times is not None:
        columns["timestamp"] = times.value
    if "position" in names:
        columns["position"] = _whole(pl.col(names["position"]), table.kinds[names["position"]])
    return table.scan(source).select(**columns).with_columns(selectors.by_dtype(pl.Categorical).cast(pl.String))


def _whole(value: pl.Expr, kind: pl.DataType) -> pl.Expr:
    """Reads whole numbers; others become nulls, because without their fractions they would lose their order."""
    if kind.is_integer() or kind.is_temporal():
        return value.cast(pl.Int64, strict=False)
    text = value.cast(pl.String)
    number = text.cast(pl.Float64, strict=False)
    whole = pl.when(number == number.floor()).then(number).cast(pl.Int64, strict=False)
    return pl.coalesce(text.cast(pl.Int64, strict=False), whole)


def _check(scan: Callable[[Any], pl.LazyFrame], table: Table, names: Mapping[str, str], times: Times | None) -> None:
    """Checks all interactions in one streamed pass."""
    faults = dict(times.faults) if times is not None else {}
    for name in names:
        if name != "timestamp":
            problem = "is missing, or is no whole number" if name == "position" else "is missing"
            faults[f"{names[name]!r} {problem}"] = pl.col(name).is_null()
    facts = [pl.len().alias("count")]
    if times is not None:
        facts.append(pl.col("timestamp").max().alias("latest"))
    path = Path(str(table.source))
    try:
        _, found = read_checked(path, scan, faults, pl.lit(False), facts, table.records)
    except NotUtf8Error as error:
        raise ValueError(f"{error} Write the file in UTF-8.") from error
    if found["count"] == 0:
        raise ValueError(f"{path} holds no interaction.")
    if times is not None:
        times.check_latest(str(path), names["timestamp"], found["latest"])


def _are_numbers(ids: pl.Expr) -> pl.Expr:
    """Returns whether all ids are written like whole numbers. 007 is not: it is another id than 7."""
    return (ids.cast(pl.Int64, strict=False).cast(pl.String) == ids).fill_null(False).all()
