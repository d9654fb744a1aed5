"""Raw files: reads and checks them in one streamed pass. Error messages name the file and the line."""

from __future__ import annotations

import gzip
import io
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, NoReturn

import polars as pl
from filelock import FileLock

from ..runtime.ids import nearest_texts
from .frames import Frame


Scan = Callable[[Any], pl.LazyFrame]
"""Function that reads a file, a data frame, or some lines of a file together with its header line, if it has one."""

BROKEN_COMPRESSION = (EOFError, zlib.error, gzip.BadGzipFile)
"""Errors of a compressed file that is damaged."""

_CHUNK_LINES = 100_000


class NotUtf8Error(ValueError):
    """A line of a text file is not in UTF-8."""


def read_checked(
    path: Path | Frame,
    scan: Scan,
    faults: Mapping[str, pl.Expr],
    keep: pl.Expr | None = None,
    facts: Sequence[pl.Expr] = (),
    has_header: bool = False,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """
    Reads and checks a file in one streamed pass. Only the kept rows come into memory.

    Args:
        path (`pathlib.Path` or [`Frame`]):
            The file, which may be compressed (`.gz`), or the data frame.
        scan (`Scan`):
            Reads it.
        faults (`Mapping[str, polars.Expr]`):
            Faults that a row may have: a text for the error message, and an expression that is true for a row with
            the fault.
        keep (`polars.Expr`, *optional*):
            Expression that is true for the rows to return. All rows are returned if not given.
        facts (`Sequence[polars.Expr]`, *optional*):
            Aggregates over all rows, each with a name (`alias`).
        has_header (`bool`, *optional*, defaults to `False`):
            Whether the first line names the columns.

    Returns:
        `tuple[polars.DataFrame, dict[str, Any]]`: the kept rows in the file's order, and the facts by
        name.

    Raises:
        NotUtf8Error: If a line that is read is not in UTF-8.
        ValueError: If the file cannot be read or a row has a fault. The message names the first such line, or the row
            of a Parquet file or data frame.
    """
    try:
        rows = scan(path)
        names = dict(enumerate(faults))
        checks = [faults[name].any().alias(f"fault {index}") for index, name in names.items()]
        kept, summary = pl.collect_all(
            [rows if keep is None else rows.filter(keep), rows.select(*checks, *facts)], engine="streaming"
        )
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        _raise_at_line(path, scan, faults, has_header, error)
    values = summary.row(0, named=True)
    if any(values.pop(f"fault {index}") for index in names):
        _raise_at_line(path, scan, faults, has_header, None)
    return kept, values


def require_columns(path: Path | Frame, columns: Sequence[str], required: Sequence[str], advice: str = "") -> None:
    """
    Checks that a file has the required columns.

    Args:
        path (`pathlib.Path` or [`Frame`]):
            The file or data frame, for the error message.
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
            raise ValueError(
                f"{path} has no column {column!r}; its columns are {list(columns)}. {question}{advice}".rstrip()
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
        raise ValueError(f"{path} cannot be read: {error}.") from error


def find_file(directory: Path, *names: str) -> Path:
    """
    Returns the path of the first of several file names that a directory holds.

    Raises:
        FileNotFoundError: If the directory holds none of the names.
    """
    for name in names:
        if (directory / name).is_file():
            return directory / name
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
        `pathlib.Path`: `target`, or the directory in it if that is its only entry.

    Raises:
        ValueError: If the archive is damaged.
    """

    def extract(directory: Path) -> None:
        try:
            with zipfile.ZipFile(archive) as content:
                content.extractall(directory)
        except (zipfile.BadZipFile, *BROKEN_COMPRESSION) as error:
            raise ValueError(f"{archive} is damaged ({error}). Download it again.") from error

    entries = list(make_once(target, extract).iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else target


def _raise_at_line(
    path: Path | Frame, scan: Scan, faults: Mapping[str, pl.Expr], has_header: bool, error: Exception | None
) -> NoReturn:
    """Reads the file again in chunks, and raises at the first line that cannot be read or has a fault."""
    if isinstance(path, Frame) or path.suffix.lower() == ".parquet":
        _raise_at_row(path, scan, faults, error)
    number = 0
    lines = _lines(path)
    try:
        header = b"".join(islice(lines, int(has_header)))
        number += has_header
        while batch := list(islice(lines, _CHUNK_LINES)):
            if reason := _problem(scan, header, batch, faults):
                low, high = 0, len(batch)  # the first `low` lines are valid, the first `high` lines are not
                while high - low > 1:
                    middle = (low + high) // 2
                    if problem := _problem(scan, header, batch[:middle], faults):
                        high, reason = middle, problem
                    else:
                        low = middle
                line = batch[low].decode("utf-8", errors="replace").strip()
                if "\ufffd" in line and not is_utf8(batch[low]):
                    raise NotUtf8Error(
                        f"{path}, line {number + high}: it is not in UTF-8. The line is {line[:200]!r}."
                    )
                raise ValueError(f"{path}, line {number + high}: {reason}. The line is {line[:200]!r}.") from error
            number += len(batch)
    except _TruncatedError as truncated:
        raise ValueError(
            f"{path}, line {truncated.line}: the compressed file ends or breaks there ({truncated}). Download or "
            "copy the file again."
        ) from error
    raise ValueError(f"{path} cannot be read: {error}") from error


def _raise_at_row(path: Path | Frame, scan: Scan, faults: Mapping[str, pl.Expr], error: Exception | None) -> NoReturn:
    if error is not None:
        raise ValueError(f"{path} cannot be read: {error}") from error
    rows = scan(path).with_row_index("row")
    for name, fault in faults.items():
        faulty = rows.filter(fault).head(1).collect(engine="streaming")
        if len(faulty):
            # The rows of a frame are numbered as its own library numbers them.
            number = f"{faulty['row'][0]}, counted from 0" if isinstance(path, Frame) else faulty["row"][0] + 1
            values = faulty.drop("row").row(0, named=True)
            raise ValueError(f"{path}, row {number}: {name}. The row is {values}.")
    raise ValueError(f"{path} changed while it was being read. Run this again.")


def open_raw(path: Path) -> IO[bytes]:
    """Opens a file to read its bytes, those that it held before it was compressed (`.gz`)."""
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def is_utf8(line: bytes) -> bool:
    """Whether a line is in UTF-8."""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


class _TruncatedError(Exception):
    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def _lines(path: Path) -> Iterator[bytes]:
    number = 0
    with open_raw(path) as file:
        try:
            for line in file:
                number += 1
                yield line
        except BROKEN_COMPRESSION as error:
            raise _TruncatedError(str(error), number + 1) from error


def _problem(scan: Scan, header: bytes, lines: list[bytes], faults: Mapping[str, pl.Expr]) -> str | None:
    if not b"".join(lines).strip():
        return None
    try:
        rows = scan(io.BytesIO(header + b"".join(lines))).collect()
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        return str(error).splitlines()[0].rstrip(".")
    return next((name for name, fault in faults.items() if rows.select(fault.any()).item()), None)
