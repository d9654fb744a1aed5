"""History files: finds out in which form a file holds the histories of users, and how its columns are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ..data.files import columns_of, require_columns
from ..data.id_columns import is_id_type
from ..data.interactions import INTERACTIONS_NAME
from ..data.keywords import check_keys, nearest_file
from ..data.table_options import is_csv, is_table, is_text_table
from ..data.text_files import INFERRED_ROWS, refuse_other_kinds
from ..data.ticks import TICKS_PER_SECOND


LIST_COLUMNS = ("item_ids", "exclude", "candidates")
"""Columns of the form with one row per user that hold lists of item ids."""

_WIDE = ("user_id", "item_ids", "timestamps", "exclude", "candidates")
_LONG = ("user_id", "item_id", "timestamp", "position")
_ADVICE = (
    "Histories have one row per user, with `user_id` and `item_ids` (a list, oldest first), or one row per "
    "interaction, with `user_id`, `item_id` and `timestamp`. Name the file's own columns with `columns`, such as "
    "`columns={'user_id': 'customer'}`."
)


@dataclass(frozen=True)
class HistoryFile:
    """
    A file with the histories of users.

    Args:
        path (`pathlib.Path`):
            The file.
        names (`Mapping[str, str]`):
            The file's names for the columns that it has. With one row per user, these are `user_id`, `item_ids`,
            `timestamps`, `exclude` and `candidates`. With one row per interaction, they are `user_id`, `item_id`,
            `timestamp` and `position`.
        is_long (`bool`):
            Whether a row is an interaction, and not a user.
        time_unit (`str`, *optional*, defaults to `"s"`):
            Unit of times that are numbers.
        date_format (`str`, *optional*):
            Format of times that are texts, for files with one row per interaction.
        separator (`str`, *optional*):
            Character between the values of a CSV file.
        quote_char (`str`, *optional*):
            Character around values of a CSV file; an empty text if there is none (see [`load_recommendation_data`]).
        has_header (`bool`, *optional*, defaults to `True`):
            Whether the first line of a CSV file names the columns. If not, they are `column_1`, `column_2` and so on.
    """

    path: Path
    names: Mapping[str, str]
    is_long: bool
    time_unit: str = "s"
    date_format: str | None = None
    separator: str | None = None
    quote_char: str | None = None
    has_header: bool = True

    @property
    def has_timestamps(self) -> bool:
        """Whether the file says when each item was chosen."""
        return "timestamps" in self.names or "timestamp" in self.names

    @property
    def is_ready(self) -> bool:
        """Whether the histories can be read in chunks as they are: one row per user, in Parquet."""
        return not self.is_long and not is_text_table(self.path)

    def scan(self) -> pl.LazyFrame:
        """Reads the columns of a file with one row per user, lazily, under the file's names."""
        if not is_text_table(self.path):
            return pl.scan_parquet(self.path).select(list(dict.fromkeys(self.names.values())))
        # Ids are read as texts, because the types of the first rows need not be the types of all rows.
        kinds: dict[str, pl.DataType] = {"user_id": pl.String(), "timestamps": pl.List(pl.Int64)}
        kinds |= {name: pl.List(pl.String) for name in LIST_COLUMNS}
        return pl.scan_ndjson(self.path, schema={theirs: kinds[ours] for ours, theirs in self.names.items()})

    def expressions(self, schema: pl.Schema) -> list[pl.Expr]:
        """
        Returns the expressions that read the columns of a file with one row per user.

        Args:
            schema (`polars.Schema`):
                The columns of the file and their types.

        Returns:
            `list[polars.Expr]`: `user_id`, whole numbers or texts; `item_ids`, `exclude` and `candidates`, lists of
            whole numbers or texts; `timestamps`, lists of int64, in seconds since 1970 UTC.

        Raises:
            ValueError: If a column has another type.
        """
        kind = schema[self.names["user_id"]]
        if not is_id_type(kind):
            raise ValueError(
                f"{self.path}: column {self.names['user_id']!r} holds {kind}; ids must be whole numbers or texts."
            )
        user = pl.col(self.names["user_id"])
        expressions = [(user if kind.is_integer() else user.cast(pl.String)).alias("user_id")]
        for ours, theirs in self.names.items():
            if ours != "user_id":
                expressions.append(self._list(ours, theirs, schema[theirs]).alias(ours))
        return expressions

    def _list(self, ours: str, theirs: str, kind: pl.DataType) -> pl.Expr:
        column, found = pl.col(theirs), str(kind)
        if isinstance(kind, pl.Array):
            column, kind = column.arr.to_list(), pl.List(kind.inner)
        inner: Any = kind.inner if isinstance(kind, pl.List) else None
        if inner == pl.Null:  # lists that all are empty have no type of their own
            return column.cast(pl.List(pl.Int64))
        if inner is not None and ours != "timestamps" and is_id_type(inner):
            return column if inner.is_integer() else column.cast(pl.List(pl.String))
        if inner is not None and ours == "timestamps" and isinstance(inner, pl.Datetime | pl.Date):
            return column.list.eval(pl.element().dt.epoch("s").cast(pl.Int64))
        if inner is not None and ours == "timestamps" and inner.is_integer():
            return column.list.eval(pl.element().cast(pl.Int64) // TICKS_PER_SECOND[self.time_unit])
        wanted = "times (whole numbers or dates)" if ours == "timestamps" else "ids (whole numbers or texts)"
        raise ValueError(f"{self.path}: column {theirs!r} holds {found}; it must hold a list of {wanted} in each row.")


def find_histories(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    time_unit: str = "s",
    date_format: str | None = None,
    separator: str | None = None,
    quote_char: str | None = None,
    has_header: bool = True,
) -> HistoryFile:
    """
    Finds out in which form a file holds the histories of users.

    Args:
        path (`str` or `pathlib.Path`):
            Parquet or JSON lines with one row per user; Parquet, JSON lines or CSV with one row per interaction; or a
            prepared directory, whose `interactions.parquet` is read.
        columns (`Mapping[str, str]`, *optional*):
            The file's names for columns that it names differently.
        time_unit (`"s"`, `"ms"`, `"us"` or `"ns"`, *optional*, defaults to `"s"`):
            Unit of times that are numbers.
        date_format (`str`, *optional*):
            Format of times that are texts, for files with one row per interaction.
        separator (`str`, *optional*):
            Character between the values of a CSV file. If not given, it is found.
        quote_char (`str`, *optional*):
            Character around values of a CSV file; an empty text if there is none (see [`load_recommendation_data`]).
        has_header (`bool`, *optional*, defaults to `True`):
            Whether the first line of a CSV file names the columns. If not, they are `column_1`, `column_2` and so on.

    Returns:
        [`HistoryFile`]

    Raises:
        FileNotFoundError: If there is no such file. The message names the nearest one.
        ValueError: If the file is of no known kind or lacks a column, or an argument has an unknown value.
    """
    path = Path(path)
    check_keys("columns", columns or {}, list(dict.fromkeys([*_WIDE, *_LONG])))
    if time_unit not in TICKS_PER_SECOND:
        raise ValueError(f"`time_unit` must be one of {list(TICKS_PER_SECOND)}, got {time_unit!r}.")
    if path.is_dir():
        if not (path / INTERACTIONS_NAME).is_file():
            raise FileNotFoundError(
                f"The directory {path} holds no {INTERACTIONS_NAME}. Name a file, or a prepared directory."
            )
        path = path / INTERACTIONS_NAME
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.{nearest_file(path)}")
    if not is_table(path):
        raise ValueError(f"{path} is of no known kind; it must be Parquet, JSON lines (.jsonl) or CSV.")
    own = {name: name for name in (*_WIDE, *_LONG)} | dict(columns or {})
    mapped = columns or {}
    if is_csv(path):
        if lists := [name for name in _WIDE[1:] if name in mapped]:
            raise ValueError(
                f"{path} is a CSV file, which holds no lists, so it cannot have {lists}. Write Parquet or JSON "
                "lines, or one row per interaction."
            )
        others = [name for name in _LONG[2:] if name in mapped] or ["timestamp"]
        names = {name: own[name] for name in ("user_id", "item_id", *others)}
        return HistoryFile(path, names, True, time_unit, date_format, separator, quote_char, has_header)
    if is_text_table(path):
        refuse_other_kinds(path, is_json=True)
        rows = pl.scan_ndjson(path, infer_schema_length=INFERRED_ROWS)
    else:
        rows = pl.scan_parquet(path)
    schema = columns_of(path, rows)
    is_long = own["item_ids"] not in schema and own["item_id"] in schema
    names = (_names_of_interactions if is_long else _names_of_users)(path, schema, own, mapped)
    return HistoryFile(path, names, is_long, time_unit, date_format, separator)


def _names_of_users(
    path: Path, schema: pl.Schema, own: Mapping[str, str], mapped: Mapping[str, str]
) -> dict[str, str]:
    wanted = ["user_id", "item_ids", *(name for name in _WIDE[2:] if own[name] in schema or name in mapped)]
    require_columns(path, schema.names(), [own[name] for name in wanted], _ADVICE)
    if others := [name for name in _LONG[1:] if name in mapped]:
        raise ValueError(
            f"{path} has one row per user, so `columns` cannot name {others}, which belong to one row per interaction."
        )
    return {name: own[name] for name in wanted}


def _names_of_interactions(
    path: Path, schema: pl.Schema, own: Mapping[str, str], mapped: Mapping[str, str]
) -> dict[str, str]:
    if lists := [name for name in _WIDE[2:] if own[name] in schema or name in mapped]:
        raise ValueError(
            f"{path} has one row per interaction, so it cannot have {lists}, which hold a list per user. Write "
            "one row per user, with `user_id` and `item_ids`."
        )
    wanted = ["user_id", "item_id"]
    wanted += [name for name in _LONG[2:] if own[name] in schema or name in mapped]
    if len(wanted) == 2:  # nothing tells the order
        wanted.append("timestamp")
    require_columns(path, schema.names(), [own[name] for name in wanted], _ADVICE)
    if lists := [own[name] for name in wanted if isinstance(schema[own[name]], pl.List | pl.Array)]:
        raise ValueError(
            f"{path} has one row per interaction, but the columns {lists} hold lists. If a row is a user, name the "
            "list of items `item_ids`, and the list of times `timestamps`: `columns={'item_ids': 'item_id'}`. "
            "Otherwise, write one row per interaction."
        )
    return {name: own[name] for name in wanted}
