"""Tables: reads your own log and its items from CSV, Parquet or JSON lines, with any column names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from .files import columns_of, read_checked, require_columns
from .raw import RawData, drop_blank_rows, null_if_blank, read_interactions


_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_JSON = (".jsonl", ".ndjson", ".json")
_COLUMNS = ("user_id", "item_id", "timestamp", "title", "rating")
_TICKS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_LATEST = 32_503_680_000  # the year 3000, in seconds


def is_table(path: Path) -> bool:
    """Whether a file's name has an extension that [`read_tables`] reads."""
    return _kind(path) in (*_SEPARATORS, *_JSON, ".parquet")


def read_tables(
    interactions_path: Path,
    items_path: Path | None = None,
    columns: Mapping[str, str] | None = None,
    min_rating: float | None = None,
    time_unit: str = "s",
) -> RawData:
    """
    Reads your own log of interactions.

    Args:
        interactions_path (`pathlib.Path`):
            CSV or TSV (with a header), JSON lines, or Parquet. CSV, TSV and JSON lines may be compressed (`.gz`).
        items_path (`pathlib.Path`, *optional*):
            File with the titles, of any of these kinds. If not given, the log itself must hold the titles.
        columns (`Mapping[str, str]`, *optional*):
            Column names in the files, for each of `user_id`, `item_id`, `timestamp`, `title` and `rating` that has
            another name there. Ratings are read if `rating` is named here or `min_rating` is given.
        min_rating (`float`, *optional*):
            Rows with a lower rating are left out.
        time_unit (`"s"`, `"ms"`, `"us"` or `"ns"`, *optional*, defaults to `"s"`):
            Unit of numeric times. Times may also be ISO 8601 texts; a text without a time zone is in UTC.

    Returns:
        [`RawData`]. If all ids of a column are whole numbers, written as numbers or as texts, they become integers;
        otherwise they become categories.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a column is missing, a value cannot be read (with the line), a time cannot be in `time_unit`, or
            the rows of one item give it different titles. Also if `columns` or `time_unit` has an unknown value.
    """
    names = {name: name for name in _COLUMNS} | dict(columns or {})
    if unknown := set(names) - set(_COLUMNS):
        raise ValueError(f"`columns` names {sorted(unknown)}, but its keys must be among {list(_COLUMNS)}.")
    if time_unit not in _TICKS_PER_SECOND:
        raise ValueError(f"`time_unit` must be one of {list(_TICKS_PER_SECOND)}, got {time_unit!r}.")
    has_rating = min_rating is not None or "rating" in (columns or {})
    required = ["user_id", "item_id", "timestamp", *(["rating"] if has_rating else [])]
    table = _Table.of(interactions_path, [names[name] for name in required])
    time, is_number = table.time(names["timestamp"])
    rating = {"rating": pl.col(names["rating"]).cast(pl.Float32, strict=False)} if has_rating else {}

    def scan_log(source: Any) -> pl.LazyFrame:
        ids = {name: table.id(names[name]) for name in ("user_id", "item_id")}
        return table.scan(source).select(**ids, timestamp=time, **rating)

    ticks = _TICKS_PER_SECOND[time_unit if is_number else "us"]
    faults = {
        f"{names['timestamp']!r} is missing, or is not a readable number or date": pl.col("timestamp").is_null(),
        f"{names['timestamp']!r} is beyond the year 3000 in the unit {time_unit!r}; set `time_unit`": (
            pl.col("timestamp") > _LATEST * ticks
        ),
    }
    if has_rating:
        faults[f"{names['rating']!r} is missing or not a number"] = (
            pl.col("rating").is_null() | pl.col("rating").is_nan()
        )
    rows, num_read = read_interactions(
        interactions_path, scan_log, min_rating, faults=faults, has_header=table.has_header
    )
    items = _read_items(items_path or interactions_path, names["item_id"], names["title"])
    return RawData(*_with_numbers(rows, items), num_read, ticks)


def _read_items(path: Path, id_column: str, title_column: str) -> pl.DataFrame:
    try:
        table = _Table.of(path, [id_column, title_column])
    except ValueError as error:
        raise ValueError(f"{error} If the titles are in a separate file, pass it as `items`.") from error

    def scan_items(source: Any) -> pl.LazyFrame:
        title = null_if_blank(pl.col(title_column).cast(pl.String))
        rows = table.scan(source).select(item_id=table.id(id_column), title=title)
        return rows.unique(maintain_order=True)

    faults = {f"{id_column!r} is missing": pl.col("item_id").is_null()}
    rows, _ = read_checked(path, scan_items, faults, has_header=table.has_header)
    titles = pl.col("title").drop_nulls()
    items = rows.group_by("item_id", maintain_order=True).agg(titles.first(), several=titles.len() > 1)
    if items["several"].any():
        item_id = items.filter("several")["item_id"][0]
        its_titles = rows.filter(pl.col("item_id") == item_id)["title"].drop_nulls().to_list()
        raise ValueError(f"{path} gives item {item_id!r} {len(its_titles)} titles: {its_titles[:3]}. Keep one.")
    return items.drop("several")


def _with_numbers(rows: pl.DataFrame, items: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Turns the ids of a column into integers if all of them are written like whole numbers."""
    for column, tables in (("user_id", [rows]), ("item_id", [rows, items])):
        texts = [table[column].unique().cast(pl.String) for table in tables if not table[column].dtype.is_integer()]
        if not texts:
            continue
        ids = pl.concat(texts)
        numbers = ids.cast(pl.Int64, strict=False).cast(pl.String)
        if (numbers == ids).fill_null(False).all():  # 007 is a different id from 7
            as_number = pl.col(column).cast(pl.String).cast(pl.Int64)
            rows = rows.with_columns(as_number)
            items = items.with_columns(as_number) if column == "item_id" else items
        elif len(texts) < len(tables):
            text = ids.filter((numbers != ids).fill_null(True))[0]
            raise ValueError(
                f"`{column}` is a number in one file and a text, such as {text!r}, in the other. Write the ids in "
                "the same way."
            )
    return rows, items


@dataclass(frozen=True)
class _Table:
    """A file, and the types of the columns to read."""

    path: Path
    kinds: Mapping[str, pl.DataType]

    @classmethod
    def of(cls, path: Path, columns: Sequence[str]) -> _Table:
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}.")
        if not is_table(path):
            raise ValueError(f"{path} is of no known kind; it must be one of {[*_SEPARATORS, *_JSON, '.parquet']}.")
        if _kind(path) in _SEPARATORS:
            rows = pl.scan_csv(path, separator=_SEPARATORS[_kind(path)])
        elif _kind(path) in _JSON:
            rows = pl.scan_ndjson(path, infer_schema_length=1000)
        else:
            rows = pl.scan_parquet(path)
        schema = columns_of(path, rows)
        advice = "Name the file's own columns with `columns`, such as `columns={'user_id': 'customer'}`."
        require_columns(path, schema.names(), columns, advice)
        return cls(path, {name: schema[name] for name in columns})

    @property
    def has_header(self) -> bool:
        return _kind(self.path) in _SEPARATORS

    def scan(self, source: Any) -> pl.LazyFrame:
        if self.has_header:
            rows = pl.scan_csv(source, separator=_SEPARATORS[_kind(self.path)], infer_schema=False)
            return drop_blank_rows(rows.select(*self.kinds))
        if _kind(self.path) in _JSON:
            # Read all values as texts, because `kinds` is inferred from the first rows, and later ids may be texts.
            return pl.scan_ndjson(source, schema=dict.fromkeys(self.kinds, pl.String))
        return pl.scan_parquet(source).select(*self.kinds)

    def id(self, column: str) -> pl.Expr:
        kind = self.kinds[column]
        if _kind(self.path) == ".parquet" and kind.is_integer():
            return pl.col(column).cast(pl.Int64)
        if kind.is_float():
            raise ValueError(f"{self.path}: column {column!r} holds {kind}; ids must be whole numbers or texts.")
        return pl.col(column).cast(pl.String).cast(pl.Categorical)

    def time(self, column: str) -> tuple[pl.Expr, bool]:
        """Returns the expression that reads times, and whether the column holds numbers."""
        kind, value = self.kinds[column], pl.col(column)
        if kind.is_numeric():
            return value.cast(pl.Float64, strict=False).floor().cast(pl.Int64, strict=False), True
        if kind.is_temporal():
            return value.cast(pl.Datetime("us")).dt.epoch("us"), False
        return value.str.to_datetime(time_unit="us", time_zone="UTC", strict=False).dt.epoch("us"), False


def _kind(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix
