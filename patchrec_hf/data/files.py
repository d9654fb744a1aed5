"""Raw files: reads and checks them in one streamed pass. Error messages name the file and the line."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import polars as pl
import pyarrow.parquet as pq
from filelock import FileLock

from ..runtime.ids import nearest_texts
from .frames import Frame
from .lines import BROKEN_COMPRESSION, Records, Scan, first_line, lines_of, raise_at_line


_OF_SYSTEMS = ("__MACOSX", "desktop.ini", "Thumbs.db")

_SHOWN, _SHOWN_COLUMNS, _SHOWN_NAME = 500, 30, 50
ROW = "row of the table"
"""Name of a column with the number of the row from which a row was made."""

Part = tuple[Path, Scan, Records | None]
"""One file of a table: its path, the function that reads it, and its records if it is a text file."""


def read_checked(
    path: Path | Frame,
    scan: Scan,
    faults: Mapping[str, pl.Expr],
    keep: pl.Expr | None = None,
    facts: Sequence[pl.Expr] = (),
    records: Records | None = None,
    finish: Callable[[pl.LazyFrame], pl.LazyFrame] | None = None,
    parts: Sequence[Part] = (),
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """
    Reads and checks a file in one streamed pass. Only the kept rows come into memory. The number of rows that are read
    is held against the records that stand in the file.

    Args:
        path (`pathlib.Path` or [`Frame`]):
            The file, which may be compressed (`.gz`), the directory of several files, or the data frame.
        scan (`Scan`):
            Reads it.
        faults (`Mapping[str, polars.Expr]`):
            Faults that a row may have: a text for the error message, and an expression that is true for a row with
            the fault.
        keep (`polars.Expr`, *optional*):
            Expression that is true for the rows to return. All rows are returned if not given.
        facts (`Sequence[polars.Expr]`, *optional*):
            Aggregates over all rows, each with a name (`alias`).
        records ([`Records`], *optional*):
            The records of a text file. Its lines if not given.
        finish (`Callable[[polars.LazyFrame], polars.LazyFrame]`, *optional*):
            Applied to the kept rows, before they come into memory.
        parts (`Sequence[Part]`, *optional*):
            The files, if there are several.

    Returns:
        `tuple[polars.DataFrame, dict[str, Any]]`: the kept rows in the file's order, and the facts by
        name.

    Raises:
        NotUtf8Error: If a line that is read is not in UTF-8.
        ValueError: If the file cannot be read, a row has a fault, or other rows were read than the file holds. The
            message names the first such line, or the row of a Parquet file or data frame.
    """
    parts = parts or () if isinstance(path, Frame) else parts or [(path, scan, _records(path, records))]
    try:
        rows = scan(path)
        names = dict(enumerate(faults))
        checks = [faults[name].any().alias(f"fault {index}") for index, name in names.items()]
        number = pl.len().alias("number of rows")
        kept_rows = rows if keep is None else rows.filter(keep)
        kept, summary = pl.collect_all(
            [kept_rows if finish is None else finish(kept_rows), rows.select(number, *checks, *facts)],
            engine="streaming",
        )
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        _raise_at_fault(path, scan, parts, faults, error)
    values = summary.row(0, named=True)
    counts = [_count(part, records, rows) for part, _, records in parts]
    is_whole = not parts or None in counts or sum(map(int, counts)) == values["number of rows"]  # type: ignore[arg-type]
    if any(values.pop(f"fault {index}") for index in names) or not is_whole:
        _raise_at_fault(path, scan, parts, faults, None)
    del values["number of rows"]
    return kept, values


def require_columns(path: object, columns: Sequence[str], required: Sequence[str], advice: str = "") -> None:
    """
    Checks that a file has the required columns.

    Args:
        path (`object`):
            The file or data frame, or its name, for the error message.
        columns (`Sequence[str]`):
            Columns of the file.
        required (`Sequence[str]`):
            Columns that the caller reads.
        advice (`str`, *optional*):
            A sentence that ends the error message.

    Raises:
        ValueError: If a required column is missing. The message names the column whose name is most like it.
    """
    for column in required:
        if column not in columns:
            matches = nearest_texts(column, columns, n=1)
            question = f"Did you mean {matches[0]!r}? " if matches else ""
            shown = [name[:_SHOWN_NAME] for name in columns[:_SHOWN_COLUMNS]]
            others = f" and {len(columns) - len(shown)} others" if len(columns) > len(shown) else ""
            raise ValueError(
                f"{path} has no column {column!r}; its columns are {shown}{others}. {question}{advice}".rstrip()
            )


def columns_of(path: Path | Frame, rows: pl.LazyFrame) -> pl.Schema:
    """
    Returns the columns of a file and their types.

    Args:
        path (`pathlib.Path` or [`Frame`]):
            The file or data frame, for the error message.
        rows (`polars.LazyFrame`):
            A scan of the file.

    Raises:
        ValueError: If the file is empty, or so damaged that its columns cannot be read.
    """
    try:
        return rows.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read ({first_line(error)}). It is damaged or of another kind: write or copy it again."
        ) from error


def find_file(directory: Path, *names: str) -> Path:
    """
    Returns the path of the first of several file names that a directory holds, in upper or lower case.

    Raises:
        FileNotFoundError: If the directory holds none of the names.
    """
    files = {path.name.lower(): path for path in sorted(directory.iterdir()) if path.is_file()}
    for name in names:
        if (directory / name).is_file():
            return directory / name
        if name.lower() in files:
            return files[name.lower()]
    raise FileNotFoundError(f"{directory} holds no {' or '.join(names)}.")


def make_once(directory: Path, make: Callable[[Path], None]) -> Path:
    """
    Makes a directory if it does not exist. One process makes it, the others wait. The directory appears when it is
    complete.

    Args:
        directory (`pathlib.Path`):
            The directory.
        make (`Callable[[pathlib.Path], None]`):
            Fills an empty directory, which then gets its name.

    Returns:
        `pathlib.Path`: `directory`.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{directory}.lock"):
        if not directory.is_dir():
            part = directory.with_name(f"{directory.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            make(part)
            part.rename(directory)
    return directory


def place_for(path: Path, parent: Path) -> Path:
    """Returns the directory within `parent` for what is made of a file. It has another name when the file changes."""
    stat = path.stat()
    return parent / f"{path.stem}-{stat.st_size}-{stat.st_mtime_ns}"


def unpack(archive: Path, target: Path) -> Path:
    """
    Unpacks a zip archive, unless the target directory exists (see [`make_once`]).

    Args:
        archive (`pathlib.Path`):
            The archive.
        target (`pathlib.Path`):
            The directory to unpack to.

    Returns:
        `pathlib.Path`: `target`, or the directory in it if that is its only entry (see [`innermost`]).

    Raises:
        ValueError: If the archive is damaged.
    """

    def extract(directory: Path) -> None:
        try:
            with zipfile.ZipFile(archive) as content:
                content.extractall(directory)
        except (zipfile.BadZipFile, *BROKEN_COMPRESSION) as error:
            raise ValueError(f"{archive} is damaged ({error}). Download it again.") from error

    return innermost(make_once(target, extract))


def is_hidden(path: Path) -> bool:
    """Whether a relative path is hidden, or an operating system or a client of the Hub made it or its directory."""
    return any(part.startswith(".") or part in _OF_SYSTEMS for part in path.parts)


def innermost(directory: Path) -> Path:
    """
    Returns the directory that holds the files: the only entry of another one, which holds nothing else but files that
    an operating system adds, such as `__MACOSX` and `.DS_Store`.
    """
    while True:
        entries = [path for path in directory.iterdir() if not is_hidden(Path(path.name))]
        if len(entries) != 1 or not entries[0].is_dir():
            return directory
        directory = entries[0]


def _records(path: Path, records: Records | None) -> Records | None:
    return lines_of(path) if records is None and path.suffix.lower() != ".parquet" else records


def _count(path: Path, records: Records | None, rows: pl.LazyFrame) -> int | None:
    if records is not None:
        return records.count
    return None if ROW in rows.collect_schema() else int(pq.read_metadata(path).num_rows)


def _raise_at_fault(
    path: Path | Frame, scan: Scan, parts: Sequence[Part], faults: Mapping[str, pl.Expr], error: Exception | None
) -> NoReturn:
    """Raises at the first line or row that cannot be read or has a fault."""
    for part, scan_part, records in parts[:-1]:
        try:
            read_checked(part, scan_part, faults, pl.lit(False), records=records)
        except (pl.exceptions.PolarsError, OSError) as cause:
            raise ValueError(f"{part} cannot be read: {first_line(cause)}.") from cause
    if parts:
        last, scan_last, records = parts[-1]
        if records is not None:
            raise_at_line(last, scan_last, faults, records, error)
        path, scan = last, scan_last
    if error is not None:
        raise ValueError(
            f"{path} cannot be read ({first_line(error)}). It is damaged or of another kind: write or copy it again."
        ) from error
    rows = scan(path)
    if ROW not in rows.collect_schema():
        rows = rows.with_row_index(ROW)
    for name, fault in faults.items():
        faulty = rows.filter(fault).head(1).collect(engine="streaming")
        if len(faulty):
            # The rows of a frame are numbered as its own library numbers them.
            row = faulty[ROW][0]
            number = f"{row}, counted from 0" if isinstance(path, Frame) else row + 1
            raw = path.rows if isinstance(path, Frame) else pl.scan_parquet(path)
            values = raw.slice(row, 1).collect().row(0, named=True)
            raise ValueError(f"{path}, row {number}: {name}. The row is {str(values)[:_SHOWN]}.")
    raise ValueError(f"{path} changed while it was being read. Run this again.")
