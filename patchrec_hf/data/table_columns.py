"""Table columns: finds out how a table is written, and reads its columns as they stand there."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from .column_kinds import cast_texts, find_kind
from .csv_files import CsvFile
from .files import ROW, Part, columns_of, require_columns
from .filters import Filters
from .frames import Frame
from .id_columns import EXACT, is_id_type
from .lines import Records, json_lines_of, raise_at_line, refuse_mixed_json
from .part_files import Parts
from .table_options import JSON, SEPARATED, TableOptions, is_csv, is_table, is_text_table
from .text_files import INFERRED_ROWS, refuse_other_kinds


Source = Path | Parts | Frame
"""A table: a file, several files, or a data frame."""

_UNEVEN = "is uneven"


@dataclass(frozen=True)
class Table:
    """
    A table, and how its columns are read.

    Args:
        source (`pathlib.Path`, [`Parts`] or [`Frame`]):
            The file, the files or the data frame.
        kinds (`Mapping[str, polars.DataType]`):
            The columns to read, and the types of their values, or of the values in their lists. The values of a text
            file are read as texts, whatever their types.
        lists (`tuple[str, ...]`, *optional*):
            The columns among them that hold lists. Each value of a list becomes a row.
        csv ([`CsvFile`], *optional*):
            How a CSV file is written.
        where (`polars.Expr`, *optional*):
            True for the rows to keep.
        typed (`Mapping[str, polars.DataType]`, *optional*):
            Columns that `where` reads, and their types.
        parts (`tuple[Table, ...]`, *optional*):
            The tables of several files.
        num_empty (`int`, *optional*, defaults to `0`):
            Number of rows with empty lists, which are left out.
    """

    source: Source
    kinds: Mapping[str, pl.DataType]
    lists: tuple[str, ...] = ()
    csv: CsvFile | None = None
    where: pl.Expr | None = None
    typed: Mapping[str, pl.DataType] = field(default_factory=dict)
    parts: tuple[Table, ...] = ()
    num_empty: int = 0

    @classmethod
    def of(
        cls,
        source: Source,
        columns: Sequence[str],
        options: TableOptions | None = None,
        filters: Filters | None = None,
        advice: str = "",
    ) -> Table:
        """
        Finds out how a table is written.

        Args:
            source (`pathlib.Path`, [`Parts`] or [`Frame`]):
                The file, the files or the data frame.
            columns (`Sequence[str]`):
                The columns to read, by their names in it.
            options ([`TableOptions`], *optional*):
                How the table is written.
            filters ([`Filters`], *optional*):
                Its `where` chooses the rows to keep.
            advice (`str`, *optional*):
                A sentence that ends the error message about a missing column.

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If it is of no known kind, cannot be read, or lacks a column, or `where` is no condition.
        """
        options = options or TableOptions()
        if isinstance(source, Parts):
            if not source.files:
                raise ValueError(f"{source} holds no interaction: all of its parts are empty.")
            found = [cls._of_one(part, columns, options, advice) for part in source.files]
            for (table, _), part in zip(found, source.files, strict=True):
                if dict(table.kinds) != dict(found[0][0].kinds) or table.lists != found[0][0].lists:
                    kinds = {name: str(kind) for name, kind in table.kinds.items()}
                    raise ValueError(f"{part} has columns of other types than {source.files[0].name}: {kinds}.")
            first, schema = found[0]
            table = replace(first, source=source, csv=None, parts=tuple(part for part, _ in found))
        else:
            table, schema = cls._of_one(source, columns, options, advice)
        table = table._with_lists()
        return table if filters is None or filters.where is None else table._with_where(filters, schema)

    @classmethod
    def _of_one(
        cls, source: Path | Frame, columns: Sequence[str], options: TableOptions, advice: str
    ) -> tuple[Table, pl.Schema]:
        csv, naming = None, ""
        if isinstance(source, Frame):
            schema = columns_of(source, source.rows)
        elif not source.is_file():
            raise FileNotFoundError(f"There is no file {source}.")
        elif not is_table(source):
            raise ValueError(f"{source} is of no known kind; it must be one of {[*SEPARATED, *JSON, '.parquet']}.")
        elif not is_text_table(source):
            schema = columns_of(source, pl.scan_parquet(source))
        elif is_csv(source):
            refuse_other_kinds(source, is_json=False)
            csv = CsvFile.of(source, columns, options.separator, options.quote_char, options.has_header)
            schema = pl.Schema(dict.fromkeys(csv.names, pl.String()))
            naming = csv.advice()
        else:
            refuse_other_kinds(source, is_json=True)
            schema = _json_schema(source)
        kind = "frame" if isinstance(source, Frame) else "file"
        naming += f"Name the {kind}'s own columns with `columns`, such as `columns={{'user_id': 'customer'}}`."
        if isinstance(source, Frame):
            naming += " The index of a pandas frame is no column; `frame.reset_index()` makes it one."
        if "timestamp" in columns and "timestamp" not in schema.names():
            naming += (
                " A log without times needs a column that counts its interactions in their order, or "
                "`columns={'timestamp': None}` if its rows are in order."
            )
        require_columns(source, schema.names(), columns, f"{naming} {advice}")
        if csv is not None:
            csv.require_once(columns)
        kinds, lists = {}, []
        for name in columns:
            kinds[name] = schema[name]
            if isinstance(schema[name], pl.List | pl.Array):
                kinds[name] = schema[name].inner  # type: ignore[attr-defined]
                lists.append(name)
        return cls(source, kinds, tuple(lists), csv), schema

    def _with_lists(self) -> Table:
        """Counts the rows with empty lists, and holds the rows of a text file against its records."""
        if not self.lists:
            return self
        length = _list(self, self.lists[0]).list.len()
        counts = self._rows(self.source).select(pl.len().alias("rows"), empty=(length == 0).sum())
        parts = self.parts or (self,)
        try:
            num_rows, num_empty = counts.collect(engine="streaming").row(0)
        except (pl.exceptions.PolarsError, OSError) as error:
            for part in parts:
                if part._is_text_file():
                    path = Path(str(part.source))
                    raise_at_line(path, part._rows, {}, json_lines_of(path), error)
            raise ValueError(f"{self.source} cannot be read: {error}") from error
        if all(part._is_text_file() for part in parts):
            num_records = sum(json_lines_of(Path(str(part.source))).count or 0 for part in parts)
            if num_rows != num_records:
                raise ValueError(f"{self.source} holds {num_records} lines, but {num_rows} rows were read.")
        return replace(self, num_empty=num_empty)

    def _with_where(self, filters: Filters, schema: pl.Schema) -> Table:
        if isinstance(filters.where, pl.Expr) and filters.where.meta.has_multiple_outputs():
            raise ValueError("`where` must be one condition, but its expression makes several. Join them by `&`.")
        roots = filters.where.meta.root_names() if isinstance(filters.where, pl.Expr) else filters.where or ()
        names = list(dict.fromkeys(roots))
        label = str(self.source)
        require_columns(label, schema.names(), names, "`where` reads that column; it takes the log's own names.")
        typed = {name: schema[name] for name in names}
        if self._is_text_file():
            plain = [name for name in names if not schema[name].is_nested()]
            texts = self._rows(self.source, plain)
            typed |= {name: find_kind(texts, name, schema[name], self._is_csv()) for name in plain}
        schema = pl.Schema({**schema, **typed})
        where = filters.condition(schema, label)
        try:
            # An empty table shows which types do not go together before any row is read.
            kind = schema.to_frame().select(is_kept=where).schema["is_kept"]
        except pl.exceptions.PolarsError as error:
            types = {name: str(schema[name]) for name in names}
            raise ValueError(f"{label}: `where` cannot be evaluated on columns of {types}: {error}") from error
        if kind != pl.Boolean:
            raise ValueError(f"`where` must be true or false for each row, but its expression makes {kind}.")
        parts = tuple(replace(part, where=where, typed=typed) for part in self.parts)
        return replace(self, where=where, typed=typed, parts=parts)

    @property
    def helpers(self) -> list[str]:
        """Columns of [`Table.scan`] that do not stand in the table: what is left out, and what is wrong."""
        kept = [] if self.where is None else ["is_kept", *(f"no {name}" for name in self._mistyped())]
        return [*kept, *([ROW, _UNEVEN] if self.lists else [])]

    @property
    def faults(self) -> dict[str, pl.Expr]:
        """Faults of rows that concern several columns, or the condition (see [`read_checked`])."""
        faults = {
            f"{name!r} is no {self.typed[name]}, as most of its values are; `where` compares it": pl.col(f"no {name}")
            for name in (self._mistyped() if self.where is not None else ())
        }
        if self.lists:
            faults[f"the lists of {list(self.lists)} have different lengths"] = pl.col(_UNEVEN)
        return faults

    def parts_for(self, scan: Callable[[Table, Any], pl.LazyFrame]) -> list[Part]:
        """Returns the files for [`read_checked`], with a function that reads a table or some of its records."""
        parts = self.parts or (self,)
        found: list[Part] = []
        for part in parts:
            if isinstance(part.source, Path):
                found.append((part.source, _bound(scan, part), part.records))
        return found

    @property
    def records(self) -> Records | None:
        """The records of a text file; `None` for other tables."""
        if self.csv is not None:
            return self.csv.records
        if not isinstance(self.source, Path) or not is_text_table(self.source):
            return None
        records = json_lines_of(self.source)
        return replace(records, count=None) if self.lists else records

    def scan(self, source: Any) -> pl.LazyFrame:
        """Reads the columns of `kinds`, as texts from a text file, one row for each value of lists, and `helpers`."""
        rows = self._rows(source)
        if self.where is not None:
            rows = self._marked(rows)
        if not self.lists:
            return rows
        rows = rows.with_row_index(ROW).with_columns(_list(self, name) for name in self.lists)
        first, *others = (pl.col(name).list.len() for name in self.lists)
        uneven = pl.any_horizontal(pl.lit(False), *(other.ne_missing(first) for other in others))
        rows = rows.with_columns(uneven.alias(_UNEVEN)).filter(pl.col(_UNEVEN) | first.is_null() | (first > 0))
        # Lists of different lengths become one row, which has a fault.
        even = (pl.when(~pl.col(_UNEVEN)).then(pl.col(name)).alias(name) for name in self.lists)
        return rows.with_columns(even).explode(self.lists)

    def scan_typed(self, source: Any) -> pl.LazyFrame:
        """Reads the columns of `typed`, with these types."""
        rows = self._rows(source, list(self.typed))
        if not self._is_text_file():
            return rows
        return rows.select(cast_texts(name, kind).alias(name) for name, kind in self.typed.items())

    def _marked(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        if not self._is_text_file():
            return rows.select(*self.kinds, is_kept=pl.Expr.fill_null(self.where, False))  # type: ignore[arg-type]
        # An id must stay a text (007 is not 7), also if the condition compares it as a number.
        text = {name: f"text of {name}" for name in self.typed}
        rows = rows.with_columns(pl.col(name).alias(new) for name, new in text.items())
        rows = rows.with_columns(cast_texts(name, kind).alias(name) for name, kind in self.typed.items())
        mistyped = {
            f"no {name}": pl.col(text[name]).is_not_null() & pl.col(name).is_null() for name in self._mistyped()
        }
        # A row that the condition cannot read is no row to leave out.
        is_kept = pl.any_horizontal(pl.Expr.fill_null(self.where, False), *mistyped.values())  # type: ignore[arg-type]
        rows = rows.with_columns(is_kept=is_kept, **mistyped)
        kept = {name: pl.col(text.get(name, name)) for name in self.kinds}
        return rows.select("is_kept", *mistyped, **kept)

    def _mistyped(self) -> list[str]:
        """Columns that the condition reads as another type than the text that stands in the file."""
        if not self._is_text_file():
            return []
        return [name for name, kind in self.typed.items() if not kind.is_nested() and kind != pl.String]

    def _rows(self, source: Any, columns: Sequence[str] | None = None) -> pl.LazyFrame:
        """Reads columns as they stand in the table, as texts from a text file."""
        names = list(dict.fromkeys([*self.kinds, *self.typed])) if columns is None else list(columns)
        if isinstance(source, Parts):
            return pl.concat(part._rows(part.source, names) for part in self.parts)
        if isinstance(self.source, Frame):
            # All columns may be named by an expression.
            return self.source.rows.select(names)
        if self.csv is not None:
            return self.csv.scan(source, names)
        if isinstance(source, io.BytesIO) or self._is_text_file():
            nested = {name: kind for name, kind in self.typed.items() if kind.is_nested()}
            schema: dict[str, Any] = {name: nested.get(name, pl.String()) for name in names}
            schema |= {name: pl.List(pl.String) for name in self.lists if name in names}
            return pl.scan_ndjson(source, schema=schema)
        return pl.scan_parquet(source).select(names)

    def id(self, column: str) -> pl.Expr:
        """
        Returns the expression that reads a column of ids: int64, or categories of texts.

        Raises:
            ValueError: If the column holds neither whole numbers nor texts.
        """
        kind = self.kinds[column]
        is_number = kind.is_float() or kind.is_decimal()
        if not (is_id_type(kind) or kind == pl.Null or is_number):
            raise ValueError(f"{self.source}: column {column!r} holds {kind}; ids must be whole numbers or texts.")
        value = pl.col(column)
        if not self._is_text_file() and is_number:
            # Pandas makes floats of whole numbers if one is missing. The reader refuses other floats.
            return pl.when((value == value.floor()) & (value.abs() <= EXACT)).then(value.cast(pl.Int64, strict=False))
        # Only whole numbers that all are within 64 bits with a sign stay numbers.
        if not self._is_text_file() and kind.is_integer() and kind not in (pl.UInt64, pl.Int128, pl.UInt128):
            return value.cast(pl.Int64)
        return value.cast(pl.String).cast(pl.Categorical)

    def id_fault(self, column: str) -> str:
        """Returns the fault of a row whose id [`Table.id`] reads as null."""
        kind = self.kinds[column]
        if not self._is_text_file() and (kind.is_float() or kind.is_decimal()):
            return f"{column!r} is missing, or is no whole number that a column of {kind} can hold exactly"
        return f"{column!r} is missing"

    def _is_csv(self) -> bool:
        return any(part.csv is not None for part in self.parts or (self,))

    def _is_text_file(self) -> bool:
        source = self.source.files[0] if isinstance(self.source, Parts) else self.source
        return isinstance(source, Path) and is_text_table(source)


def _bound(scan: Callable[[Table, Any], pl.LazyFrame], table: Table) -> Callable[[Any], pl.LazyFrame]:
    return lambda source: scan(table, source)


def _list(table: Table, name: str) -> pl.Expr:
    source = table.source
    is_array = (
        isinstance(source, Frame | Path)
        and not table._is_text_file()
        and isinstance(columns_of(source, table._rows(source))[name], pl.Array)
    )
    return pl.col(name).arr.to_list() if is_array else pl.col(name)


def _json_schema(path: Path) -> pl.Schema:
    try:
        return pl.scan_ndjson(path, infer_schema_length=INFERRED_ROWS).collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        refuse_mixed_json(path, error)
        raise_at_line(
            path, lambda source: pl.scan_ndjson(source, schema={"": pl.String()}), {}, json_lines_of(path), error
        )
