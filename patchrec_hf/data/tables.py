"""Tables: reads your own log and its items from data frames, CSV, Parquet or JSON lines, with any column names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import polars as pl
from transformers.utils import logging

from .conditions import read_values, warn_of_absent_values
from .files import read_checked
from .filters import Filters
from .id_columns import find_id_fault, without_points
from .keywords import check_keys
from .lines import NotUtf8Error
from .raw import RawData, null_if_blank, read_interactions
from .table_columns import Source, Table
from .table_options import TableOptions
from .ticks import as_coarse_as_exact
from .times import Times, find_times


logger = logging.get_logger(__name__)

_COLUMNS = ("user_id", "item_id", "timestamp", "title", "rating")
_ITEM_COLUMNS = ("item_id", "title")


def read_tables(
    log: Source,
    items: Source | None = None,
    options: TableOptions | None = None,
    filters: Filters | None = None,
) -> RawData:
    """
    Reads your own log of interactions.

    Args:
        log (`pathlib.Path`, [`Parts`] or [`Frame`]):
            A data frame; a file: CSV or TSV, JSON lines, or Parquet; or several files of one kind. CSV, TSV and JSON
            lines may be compressed (`.gz`), and are in UTF-8. A row holds one interaction. If the columns hold lists,
            it holds all interactions of a user or a session.
        items (`pathlib.Path`, [`Parts`] or [`Frame`], *optional*):
            Data frame or file with the titles, of any of these kinds. If not given, the log itself must hold the
            titles.
        options ([`TableOptions`], *optional*):
            How the tables are written.
        filters ([`Filters`], *optional*):
            Rows are left out by `where` and `min_rating`. The other filters are not applied here.

    Returns:
        [`RawData`], with ids as they stand in the tables: integers, or categories of texts.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a column is missing, a value cannot be read (with the line or row), a time cannot be in
            `time_unit`, the order of day and month cannot be told, the rows of one item give it different titles, an
            id can be read in two ways, or `where` cannot be evaluated. Also if `options` has an unknown value.
    """
    options, filters = options or TableOptions(), filters or Filters()
    check_keys("columns", options.columns or {}, _COLUMNS)
    check_keys("item_columns", options.item_columns or {}, _ITEM_COLUMNS)
    if options.item_columns and items is None:
        raise ValueError("`item_columns` names columns of the table of `items`, which is not given. Leave it out.")
    names = {name: name for name in _COLUMNS} | dict(options.columns or {})
    if missing := [name for name, theirs in names.items() if theirs is None and name != "timestamp"]:
        raise ValueError(f"`columns` gives no name for {missing[0]!r}. Only `timestamp` may be `None`.")
    try:
        rows, num_read, ticks_per_second = _read_log(log, names, options, filters)
        advice = "If the titles are in another table, pass it as `items`." if items is None else ""
        if items is not None:
            advice = "If only the table of items has another name for it, pass `item_columns`."
        item_names = names | dict(options.item_columns or {})
        titles = _read_items(log if items is None else items, item_names, options, advice)
    except NotUtf8Error as error:
        raise ValueError(f"{error} Pass the file's `encoding`, such as `encoding='latin-1'`.") from error
    return RawData(rows, titles, num_read, ticks_per_second)


def _read_log(
    log: Source, names: Mapping[str, Any], options: TableOptions, filters: Filters
) -> tuple[pl.DataFrame, dict[str, int], int]:
    has_rating = filters.min_rating is not None or "rating" in (options.columns or {})
    order = "position" if names["timestamp"] is None else "timestamp"
    required = ["user_id", "item_id", *(["timestamp"] if order == "timestamp" else []), *(["rating"] * has_rating)]
    table = Table.of(log, [names[name] for name in required], options, filters)
    if names["user_id"] in table.lists:
        raise ValueError(f"{log}: column {names['user_id']!r} holds lists; a row must belong to one user.")
    times = None
    if order == "timestamp":
        time = names["timestamp"]
        times = find_times(str(log), table.scan(log), time, table.kinds[time], options.time_unit, options.date_format)
    scan = partial(_scan_log, names=names, times=times, has_rating=has_rating)
    faults = {} if times is None else dict(times.faults)
    faults |= {table.id_fault(names[name]): pl.col(name).is_null() for name in ("user_id", "item_id")}
    if has_rating:
        rating = pl.col("rating")
        faults[f"{names['rating']!r} is missing or not a number"] = rating.is_null() | rating.is_nan()
    faults = table.faults | faults
    where = None if table.where is None else pl.col("is_kept")
    parts = table.parts_for(scan)
    rows, num_read = read_interactions(
        log,  # type: ignore[arg-type]
        partial(scan, table),
        filters.min_rating,
        faults=faults,
        where=where,
        parts=parts,
    )
    _warn_of_empty_lists(table)
    if isinstance(filters.where, Mapping):
        values = read_values(filters.where, table.typed, str(log))
        warn_of_absent_values(values, table.scan_typed(log), str(log))
    for name in ("user_id", "item_id"):
        settled = _settle_ids(rows, name, names[name], log, partial(scan, table), parts)
        if settled is not rows and len(rows) == num_read["interactions"]:
            num_read[f"{name.removesuffix('_id')}s"] = settled[name].n_unique()
        rows = settled
    ticks_per_second = 1
    if times is not None:
        times.check_latest(str(log), names["timestamp"], rows["timestamp"].max())  # type: ignore[arg-type]
        coarse, ticks_per_second = as_coarse_as_exact(rows["timestamp"])
        rows = rows.with_columns(timestamp=coarse)
    kept = ["user_id", "item_id", order, *(["rating"] * has_rating)]
    return rows.select(kept), num_read, ticks_per_second


def _scan_log(
    table: Table, source: Any, names: Mapping[str, Any], times: Times | None, has_rating: bool
) -> pl.LazyFrame:
    others: dict[str, pl.Expr] = {name: pl.col(name) for name in table.helpers}
    if has_rating:
        others["rating"] = pl.col(names["rating"]).cast(pl.Float32, strict=False)
    if times is not None:
        others["timestamp"] = times.value
    ids = {name: table.id(names[name]) for name in ("user_id", "item_id")}
    rows = table.scan(source)
    if times is None:
        rows = rows.with_row_index("position")
        others["position"] = pl.col("position").cast(pl.Int64)
    return rows.select(**ids, **others)


def _warn_of_empty_lists(table: Table) -> None:
    if table.num_empty:
        logger.warning_once(f"{table.source}: {table.num_empty} rows have empty lists, and are left out.")


def _settle_ids(
    rows: pl.DataFrame, name: str, column: str, source: Source, scan: Any, parts: Sequence[Any]
) -> pl.DataFrame:
    """Decides over all ids of a column how they are written. Ids such as `1.0` become whole numbers."""
    if rows[name].dtype.is_integer():
        return rows
    ids = rows[name].unique().drop_nulls()
    texts = ids.cast(pl.String)
    if len(texts) and texts.str.to_lowercase().is_in(["true", "false"]).all():
        raise ValueError(f"{source}: column {column!r} holds Boolean; ids must be whole numbers or texts.")
    if fault := find_id_fault(texts):
        # Reading the file once more finds the line.
        read_checked(
            source,  # type: ignore[arg-type]
            scan,
            {f"{column!r}: {fault.problem}": pl.col(name).cast(pl.String) == fault.id},
            pl.lit(False),
            parts=parts,
        )
        raise ValueError(f"{source}: column {column!r}: {fault.problem}.")
    whole = without_points(texts)
    if whole is None:
        return rows
    example = texts.filter(texts != whole)[0]
    logger.warning_once(
        f"{source}: all ids of {column!r} are whole numbers, though some are written with a point, such as {example}. "
        "They are read as whole numbers, as pandas writes a column of whole numbers with missing values."
    )
    return rows.with_columns(pl.col(name).replace_strict(ids, whole, return_dtype=pl.String).cast(pl.Categorical))


def _scan_items(table: Table, source: Any, names: Mapping[str, Any]) -> pl.LazyFrame:
    title = null_if_blank(pl.col(names["title"]).cast(pl.String))
    return table.scan(source).select(
        item_id=table.id(names["item_id"]), title=title, **{name: pl.col(name) for name in table.helpers}
    )


def _read_items(source: Source, names: Mapping[str, Any], options: TableOptions, advice: str = "") -> pl.DataFrame:
    id_column, title_column = names["item_id"], names["title"]
    table = Table.of(source, [id_column, title_column], options, advice=advice)
    kind = table.kinds[title_column]
    if len(table.lists) == 1:
        other = id_column if table.lists == (title_column,) else title_column
        raise ValueError(
            f"{source}: column {table.lists[0]!r} holds lists, but {other!r} does not; titles must be texts, and ids "
            "whole numbers or texts, or both columns hold lists of them."
        )
    if kind.is_nested() or kind in (pl.Binary, pl.Object):
        raise ValueError(f"{source}: column {title_column!r} holds {kind}; titles must be texts.")
    faults = table.faults | {
        table.id_fault(id_column): pl.col("item_id").is_null(),
        f"{title_column!r} holds a zero character, or half of a character": pl.col("title").str.contains(
            "\0", literal=True
        ),
    }
    scan = partial(_scan_items, names=names)
    parts = table.parts_for(scan)

    def finish(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.select("item_id", "title").unique(maintain_order=True)

    rows, _ = read_checked(
        source,  # type: ignore[arg-type]
        partial(scan, table),
        faults,
        finish=finish,
        parts=parts,
    )
    _warn_of_empty_lists(table)
    rows = _settle_ids(rows, "item_id", id_column, source, partial(scan, table), parts).unique(maintain_order=True)
    titles = pl.col("title").drop_nulls()
    items = rows.group_by("item_id", maintain_order=True).agg(titles.first(), several=titles.len() > 1)
    if items["several"].any():
        item_id = items.filter("several")["item_id"][0]
        its_titles = rows.filter(pl.col("item_id") == item_id)["title"].drop_nulls().to_list()
        raise ValueError(f"{source} gives item {item_id!r} {len(its_titles)} titles: {its_titles[:3]}. Keep one.")
    return items.drop("several")
