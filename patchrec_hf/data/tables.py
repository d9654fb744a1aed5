"""Tables: reads your own log and its items from data frames, CSV, Parquet or JSON lines, with any column names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from .conditions import read_values, warn_of_absent_values
from .files import NotUtf8Error, columns_of, read_checked, require_columns
from .filters import Filters
from .frames import Frame
from .id_columns import is_id_type
from .keywords import check_keys
from .raw import RawData, drop_blank_rows, null_if_blank, read_interactions
from .text_files import INFERRED_ROWS, find_separator, refuse_other_kinds
from .times import find_times


_SEPARATED = (".csv", ".tsv")
_JSON = (".jsonl", ".ndjson", ".json")
_COLUMNS = ("user_id", "item_id", "timestamp", "title", "rating")


@dataclass(frozen=True)
class TableOptions:
    """
    How your own log and its items are written.

    Args:
        columns (`Mapping[str, str]`, *optional*):
            Column names in the tables, for each of `user_id`, `item_id`, `timestamp`, `title` and `rating` that has
            another name there. Ratings are read if `rating` is named here or a filter needs them.
        time_unit (`"s"`, `"ms"`, `"us"` or `"ns"`, *optional*, defaults to `"s"`):
            Unit of times that are numbers.
        date_format (`str`, *optional*):
            Format of times that are texts, as for `datetime.strptime`, such as `"%d/%m/%Y %H:%M"`. If not given, texts
            may be numbers, ISO 8601, or dates with the year last, if some date of the file tells whether day or month
            stands first. All times of a file must be written in the same way. A text without a time zone is in UTC.
        separator (`str`, *optional*):
            Character between the values of a CSV file. If not given, the first line tells which of comma, semicolon,
            tab and `|` it is. It applies to the log and to the items, if both are CSV files.
        encoding (`str`, *optional*):
            Encoding of CSV files and JSON lines that are not in UTF-8, such as `"latin-1"` or `"utf-16"`. It applies
            to the log and to the items; a file that is in UTF-8 already stays as it is.
    """

    columns: Mapping[str, str] | None = None
    time_unit: str = "s"
    date_format: str | None = None
    separator: str | None = None
    encoding: str | None = None


def is_table(path: Path) -> bool:
    """Whether a file's name has an extension that [`read_tables`] reads."""
    return is_text_table(path) or _kind(path) == ".parquet"


def is_text_table(path: Path) -> bool:
    """Whether a file's name has the extension of a CSV file or of JSON lines."""
    return _kind(path) in (*_SEPARATED, *_JSON)


def read_tables(
    log: Path | Frame,
    items: Path | Frame | None = None,
    options: TableOptions | None = None,
    filters: Filters | None = None,
) -> RawData:
    """
    Reads your own log of interactions.

    Args:
        log (`pathlib.Path` or [`Frame`]):
            A data frame; or a file: CSV or TSV (with a header), JSON lines, or Parquet. CSV, TSV and JSON lines may be
            compressed (`.gz`), and are in UTF-8.
        items (`pathlib.Path` or [`Frame`], *optional*):
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
            `time_unit`, the order of day and month cannot be told, the rows of one item give it different titles, or
            `where` cannot be evaluated. Also if `options` has an unknown value.
    """
    options, filters = options or TableOptions(), filters or Filters()
    check_keys("columns", options.columns or {}, _COLUMNS)
    names = {name: name for name in _COLUMNS} | dict(options.columns or {})
    try:
        rows, num_read, ticks_per_second = _read_log(log, names, options, filters)
        advice = "If the titles are in another table, pass it as `items`." if items is None else ""
        titles = _read_items(log if items is None else items, names, options.separator, advice)
    except NotUtf8Error as error:
        raise ValueError(f"{error} Pass the file's `encoding`, such as `encoding='latin-1'`.") from error
    return RawData(rows, titles, num_read, ticks_per_second)


def _read_log(
    log: Path | Frame, names: Mapping[str, str], options: TableOptions, filters: Filters
) -> tuple[pl.DataFrame, dict[str, int], int]:
    has_rating = filters.min_rating is not None or "rating" in (options.columns or {})
    required = ["user_id", "item_id", "timestamp", *(["rating"] if has_rating else [])]
    table = Table.of(log, [names[name] for name in required], options.separator, filters)
    time = names["timestamp"]
    times = find_times(str(log), table.scan(log), time, table.kinds[time], options.time_unit, options.date_format)
    others, faults, where = {}, dict(times.faults), None
    if table.where is not None:
        where = pl.col("is_kept")
        others["is_kept"] = where.fill_null(False)
    if has_rating:
        rating = pl.col("rating")
        others["rating"] = pl.col(names["rating"]).cast(pl.Float32, strict=False)
        faults[f"{names['rating']!r} is missing or not a number"] = rating.is_null() | rating.is_nan()

    def scan_log(source: Any) -> pl.LazyFrame:
        ids = {name: table.id(names[name]) for name in ("user_id", "item_id")}
        return table.scan(source).select(**ids, timestamp=times.value, **others)

    rows, num_read = read_interactions(
        log, scan_log, filters.min_rating, faults=faults, has_header=table.has_header, where=where
    )
    if isinstance(filters.where, Mapping):
        values = read_values(filters.where, table.typed, str(log))
        warn_of_absent_values(values, table.scan_as(log, table.typed), str(log))
    times.check_latest(str(log), time, rows["timestamp"].max())  # type: ignore[arg-type]
    return rows.drop("is_kept", strict=False), num_read, times.ticks_per_second


def _read_items(
    source: Path | Frame, names: Mapping[str, str], separator: str | None, advice: str = ""
) -> pl.DataFrame:
    id_column, title_column = names["item_id"], names["title"]
    table = Table.of(source, [id_column, title_column], separator, advice=advice)
    kind = table.kinds[title_column]
    if kind.is_nested() or kind in (pl.Binary, pl.Object):
        raise ValueError(f"{source}: column {title_column!r} holds {kind}; titles must be texts.")

    def scan_items(part: Any) -> pl.LazyFrame:
        title = null_if_blank(pl.col(title_column).cast(pl.String))
        rows = table.scan(part).select(item_id=table.id(id_column), title=title)
        return rows.unique(maintain_order=True)

    faults = {f"{id_column!r} is missing": pl.col("item_id").is_null()}
    rows, _ = read_checked(source, scan_items, faults, has_header=table.has_header)
    titles = pl.col("title").drop_nulls()
    items = rows.group_by("item_id", maintain_order=True).agg(titles.first(), several=titles.len() > 1)
    if items["several"].any():
        item_id = items.filter("several")["item_id"][0]
        its_titles = rows.filter(pl.col("item_id") == item_id)["title"].drop_nulls().to_list()
        raise ValueError(f"{source} gives item {item_id!r} {len(its_titles)} titles: {its_titles[:3]}. Keep one.")
    return items.drop("several")


@dataclass(frozen=True)
class Table:
    """
    A file or data frame, and how its columns are read.

    Args:
        source (`pathlib.Path` or [`Frame`]):
            The file or data frame.
        kinds (`Mapping[str, polars.DataType]`):
            The columns to read, and their types. Those of a text file follow from its first rows, and its values are
            read as texts.
        separator (`str`, *optional*, defaults to `","`):
            Character between the values of a CSV file.
        where (`polars.Expr`, *optional*):
            True for the rows to keep.
        typed (`Mapping[str, polars.DataType]`, *optional*):
            Columns that `where` reads, and their types, which the first rows of a text file have.
    """

    source: Path | Frame
    kinds: Mapping[str, pl.DataType]
    separator: str = ","
    where: pl.Expr | None = None
    typed: Mapping[str, pl.DataType] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        source: Path | Frame,
        columns: Sequence[str],
        separator: str | None = None,
        filters: Filters | None = None,
        advice: str = "",
    ) -> Table:
        """
        Finds out how a file or data frame is written.

        Args:
            source (`pathlib.Path` or [`Frame`]):
                The file or data frame.
            columns (`Sequence[str]`):
                The columns to read, by their names in it.
            separator (`str`, *optional*):
                Character between the values of a CSV file. If not given, it is found.
            filters ([`Filters`], *optional*):
                Its `where` chooses the rows to keep.
            advice (`str`, *optional*):
                A sentence that ends the error message about a missing column.

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If it is of no known kind, cannot be read, or lacks a column, or `where` is no condition.
        """
        char = ","
        if isinstance(source, Frame):
            rows = source.rows
        elif not source.is_file():
            raise FileNotFoundError(f"There is no file {source}.")
        elif not is_table(source):
            raise ValueError(f"{source} is of no known kind; it must be one of {[*_SEPARATED, *_JSON, '.parquet']}.")
        elif not is_text_table(source):
            rows = pl.scan_parquet(source)
        else:
            refuse_other_kinds(source, _kind(source) in _JSON)
            if _kind(source) in _SEPARATED:
                char = find_separator(source, columns, separator)
                rows = pl.scan_csv(source, separator=char, infer_schema_length=INFERRED_ROWS)
            else:
                rows = pl.scan_ndjson(source, infer_schema_length=INFERRED_ROWS)
        schema = columns_of(source, rows)
        kind = "frame" if isinstance(source, Frame) else "file"
        naming = f"Name the {kind}'s own columns with `columns`, such as `columns={{'user_id': 'customer'}}`."
        if isinstance(source, Frame):
            naming += " The index of a pandas frame is no column; `frame.reset_index()` makes it one."
        if "timestamp" in columns and "timestamp" not in schema.names():
            naming += " A log without times needs a column that counts its interactions in their order."
        require_columns(source, schema.names(), columns, f"{naming} {advice}")
        table = cls(source, {name: schema[name] for name in columns}, char)
        return table if filters is None or filters.where is None else table._with_where(filters, schema)

    def _with_where(self, filters: Filters, schema: pl.Schema) -> Table:
        if isinstance(filters.where, pl.Expr) and filters.where.meta.has_multiple_outputs():
            raise ValueError("`where` must be one condition, but its expression makes several. Join them by `&`.")
        roots = filters.where.meta.root_names() if isinstance(filters.where, pl.Expr) else filters.where or ()
        names = list(dict.fromkeys(roots))
        require_columns(self.source, schema.names(), names, "`where` reads that column; it takes the log's own names.")
        where = filters.condition(schema, str(self.source))
        try:
            # An empty table shows which types do not go together before any row is read.
            kind = schema.to_frame().select(is_kept=where).schema["is_kept"]
        except pl.exceptions.PolarsError as error:
            types = {name: str(schema[name]) for name in names}
            raise ValueError(f"{self.source}: `where` cannot be evaluated on columns of {types}: {error}") from error
        if kind != pl.Boolean:
            raise ValueError(f"`where` must be true or false for each row, but its expression makes {kind}.")
        return replace(self, where=where, typed={name: schema[name] for name in names})

    @property
    def has_header(self) -> bool:
        """Whether the first line of the file names the columns."""
        return isinstance(self.source, Path) and _kind(self.source) in _SEPARATED

    def scan(self, source: Any) -> pl.LazyFrame:
        """Reads the columns of `kinds`, as texts from a text file, and `is_kept` if there is a condition."""
        others = {name: kind for name, kind in self.typed.items() if name not in self.kinds}
        # Read values as texts, because `kinds` is inferred from the first rows, and later ids may be texts.
        rows = self.scan_as(source, {**dict.fromkeys(self.kinds, pl.String()), **others})
        if self.where is None:
            return rows
        if not self._is_text_file():
            return rows.with_columns(is_kept=self.where)
        # An id must stay a text (007 is not 7), also if the condition compares it as a number.
        shared = {name: kind for name, kind in self.typed.items() if name in self.kinds}
        rows = rows.with_columns(pl.col(name).alias(f"text of {name}") for name in shared)
        rows = rows.with_columns(pl.col(name).cast(kind) for name, kind in shared.items())
        rows = rows.with_columns(is_kept=self.where)
        texts = {name: pl.col(f"text of {name}") if name in shared else pl.col(name) for name in self.kinds}
        return rows.select("is_kept", **texts)

    def scan_as(self, source: Any, kinds: Mapping[str, pl.DataType]) -> pl.LazyFrame:
        """Reads the columns of `kinds`; from a text file, with these types."""
        if isinstance(self.source, Frame):
            return self.source.rows.select(list(kinds))
        if self.has_header:
            rows = pl.scan_csv(source, separator=self.separator, infer_schema=False, schema_overrides=kinds)
            # polars must read all columns. If it read only some, it would cut a line with too many values in silence.
            rows = rows.map_batches(_as_it_is, projection_pushdown=False, streamable=True)
            return drop_blank_rows(rows.select(list(kinds)))
        if _kind(self.source) in _JSON:
            return pl.scan_ndjson(source, schema=dict(kinds))
        return pl.scan_parquet(source).select(list(kinds))

    def id(self, column: str) -> pl.Expr:
        """
        Returns the expression that reads a column of ids: int64, or categories of texts.

        Raises:
            ValueError: If the column holds neither whole numbers nor texts.
        """
        kind = self.kinds[column]
        if not is_id_type(kind) and kind != pl.Null:  # a column of nulls is an error that names the first row
            raise ValueError(
                f"{self.source}: column {column!r} holds {kind}; ids must be whole numbers or texts. (In pandas, a "
                "column of whole numbers with missing values holds floats.)"
            )
        # Only whole numbers that all are within 64 bits with a sign stay numbers.
        if not self._is_text_file() and kind.is_integer() and kind not in (pl.UInt64, pl.Int128, pl.UInt128):
            return pl.col(column).cast(pl.Int64)
        return pl.col(column).cast(pl.String).cast(pl.Categorical)

    def _is_text_file(self) -> bool:
        return isinstance(self.source, Path) and is_text_table(self.source)


def _as_it_is(rows: pl.DataFrame) -> pl.DataFrame:
    return rows


def _kind(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix
