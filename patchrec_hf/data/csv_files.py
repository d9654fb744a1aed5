"""CSV files: how one is written, and its rows as texts, held against the records that stand in its bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from .lines import Records
from .record_counts import Counts, count_records, read_header
from .records import Dialect, quote_literals, read_blocks, read_records
from .text_files import find_separator


TYPED_ENDINGS = (".inter", ".item", ".user")
"""Endings of RecBole's files, whose header gives each column a type, such as `user_id:token`."""

_TYPE = re.compile(r":(?:token|float)(?:_seq)?$")


@dataclass(frozen=True)
class CsvFile:
    """
    A CSV file.

    Args:
        path (`pathlib.Path`):
            The file; it may be compressed (`.gz`).
        names (`tuple[str, ...]`):
            Names of its columns, as its first line has them, or `column_1`, `column_2` and so on.
        dialect ([`Dialect`]):
            How it is written.
        num_skipped (`int`):
            Number of lines before the first record.
        counts ([`Counts`]):
            Counts over its records.
    """

    path: Path
    names: tuple[str, ...]
    dialect: Dialect
    num_skipped: int
    counts: Counts

    @classmethod
    def of(
        cls,
        path: Path,
        columns: Sequence[str] = (),
        separator: str | None = None,
        quote_char: str | None = None,
        has_header: bool = True,
    ) -> CsvFile:
        """
        Finds out how a CSV file is written, and checks all of its bytes.

        Args:
            path (`pathlib.Path`):
                The file; it may be compressed (`.gz`).
            columns (`Sequence[str]`, *optional*):
                Columns that the caller reads.
            separator (`str`, *optional*):
                Character between values. If not given, it is found (see [`find_separator`]).
            quote_char (`str`, *optional*):
                Character around values; an empty text if there is none. If not given, it is `"`, and none if tabs
                separate the values.
            has_header (`bool`, *optional*, defaults to `True`):
                Whether the first line names the columns.

        Returns:
            [`CsvFile`]

        Raises:
            NotUtf8Error: If a line is not in UTF-8.
            ValueError: If a record cannot be read without a guess. The message names the line.
        """
        if quote_char and (len(quote_char) > 1 or not quote_char.isascii() or quote_char in "\r\n\0"):
            raise ValueError(
                f"`quote_char` must be one character of ASCII, or empty if there is none, got {quote_char!r}."
            )
        char = find_separator(path, columns, separator)
        quote = (None if char == "\t" else '"') if quote_char is None else quote_char or None
        if quote == char:
            raise ValueError(f"`quote_char` and `separator` must differ, got {char!r} for both.")
        dialect = Dialect(char, quote, is_asked=quote_char is not None)
        first, num_before, num_skipped = read_header(path, dialect)
        if has_header:
            is_typed = Path(path.name.lower().removesuffix(".gz")).suffix in TYPED_ENDINGS
            names = [_TYPE.sub("", name) if is_typed else name for name in first]
        else:
            names, num_skipped = [f"column_{number}" for number in range(1, len(first) + 1)], num_before
        counts = count_records(path, len(names), dialect, num_skipped)
        return cls(path, tuple(names), dialect, num_skipped, counts)

    @property
    def records(self) -> Records:
        """The records of the file, without its header."""
        return Records(self.counts.records, lambda: read_records(self.path, self.dialect, self.num_skipped))

    def advice(self) -> str:
        """Returns sentences that say why the file may lack columns to read; empty if nothing speaks for a reason."""
        advice = ""
        first = [name.strip() for name in self.names]
        if any(name.replace(".", "", 1).isdigit() for name in first):
            advice += "If the first line is a record like the others, pass `has_header=False`. "
        if self.dialect.quote_char is None and any(name.startswith('"') and name.endswith('"') for name in first):
            advice += "If quotes surround the values, pass `quote_char='\"'`. "
        return advice

    def require_once(self, columns: Sequence[str]) -> None:
        """
        Checks that no column to read stands twice in the file.

        Raises:
            ValueError: If one does. The message names it.
        """
        for column in columns:
            if self.names.count(column) > 1:
                raise ValueError(
                    f"{self.path}, line {self.num_skipped}: {self.names.count(column)} columns have the name "
                    f"{column!r}, so it cannot be told which one to read. Give them different names."
                )

    def scan(self, source: Any, columns: Sequence[str]) -> pl.LazyFrame:
        """
        Reads columns as texts. An empty value is null. Records without any value are left out.

        Args:
            source (`pathlib.Path` or `io.BytesIO`):
                The file, or some of its records.
            columns (`Sequence[str]`):
                Names of the columns to read. If several columns have the same name, the first is read.
        """
        # Names may repeat, so polars gets other ones.
        places = {name: f"column {index}" for index, name in reversed(list(enumerate(self.names)))}
        schema = {f"column {index}": pl.String() for index in range(len(self.names))}
        rows = self._rows(source, schema)
        if self.counts.empty:
            rows = rows.filter(~pl.all_horizontal(pl.all().is_null()))
        return rows.select(pl.col(places[name]).alias(name) for name in dict.fromkeys(columns))

    def _rows(self, source: Any, schema: dict[str, pl.String]) -> pl.LazyFrame:
        quote = self.dialect.quote_char if self.counts.has_quotes else None
        settings: dict[str, Any] = {"separator": self.dialect.separator, "quote_char": quote, "has_header": False}
        mixed = quote is not None and self.counts.has_literals
        if isinstance(source, io.BytesIO):
            content = source.getvalue()
            if mixed:
                parts = [quote_literals(block, self.dialect) for block in read_blocks(content, self.dialect)]
                content = b"".join(parts)
            # Polars takes the number of columns from the first line, which must not be blank.
            return pl.scan_csv(io.BytesIO(content.lstrip(b"\r\n")), schema=schema, **settings)
        if not mixed:
            return pl.scan_csv(source, schema=schema, skip_lines=self.num_skipped, **settings)

        def read(
            with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
        ) -> Iterator[pl.DataFrame]:
            # Polars takes every quote for the beginning of a value, so it reads records in which it is one.
            for block in read_blocks(self.path, self.dialect, self.num_skipped):
                content = quote_literals(block, self.dialect).lstrip(b"\r\n")
                if not content:
                    continue
                rows = pl.read_csv(content, schema=schema, **settings)
                rows = rows if with_columns is None else rows.select(with_columns)
                rows = rows if predicate is None else rows.filter(predicate)
                if n_rows is not None:
                    rows, n_rows = rows.head(n_rows), n_rows - min(n_rows, len(rows))
                yield rows
                if n_rows == 0:
                    return

        return register_io_source(read, schema=schema, is_pure=True)
