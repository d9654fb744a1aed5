"""Lines: the lines of a raw file, and the search for the first one that cannot be read or has a fault."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import polars as pl


Scan = Callable[[Any], pl.LazyFrame]
"""Function that reads a file, a data frame, or some records of a file, without its header."""

BROKEN_COMPRESSION = (EOFError, zlib.error, gzip.BadGzipFile)
"""Errors of a compressed file that is damaged."""

SHOWN = 200
"""Characters of a line that a message shows."""

_CHUNK = 100_000
_BLOCK = 1 << 22
_UNPARSED = re.compile(r"could not parse `(.*?)` as (?:dtype )?`(\w+)` at column '(.*?)'", re.DOTALL)


class NotUtf8Error(ValueError):
    """A line of a text file is not in UTF-8."""


@dataclass(frozen=True)
class Records:
    """
    The records of a text file, as they stand there.

    Args:
        count (`int`, *optional*):
            Number of records that hold a value; `None` if a record may become several rows.
        read (`Callable[[], Iterator[tuple[int, bytes]]]`):
            Reads the records, each with the number of its first line.
        explain (`Callable[[bytes], str | None]`, *optional*):
            Says what is wrong with a record that cannot be read.
    """

    count: int | None
    read: Callable[[], Iterator[tuple[int, bytes]]]
    explain: Callable[[bytes], str | None] = lambda record: None


def lines_of(path: Path) -> Records:
    """Returns the lines of a text file as records. Blank lines are none."""
    return Records(_count_lines(path), lambda: read_lines(path))


def json_lines_of(path: Path) -> Records:
    """Returns the lines of a file with JSON lines as records. Blank lines are none."""
    return Records(_count_lines(path), lambda: read_lines(path), _explain_json)


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


def decode_line(line: bytes) -> str:
    """Returns the beginning of a line as it stands in the file, for messages."""
    return line.decode("utf-8", errors="replace").strip("\r\n")[:SHOWN]


def raise_at_line(
    path: Path, scan: Scan, faults: Mapping[str, pl.Expr], records: Records, error: Exception | None
) -> NoReturn:
    """
    Reads a text file again in chunks, and raises at the first record that cannot be read or has a fault.

    Args:
        path (`pathlib.Path`):
            The file.
        scan (`Scan`):
            Reads some of its records.
        faults (`Mapping[str, polars.Expr]`):
            Faults that a row may have.
        records ([`Records`]):
            The records of the file.
        error (`Exception`, *optional*):
            The error that the whole file raised; `None` if a row has a fault, or the number of rows is wrong.

    Raises:
        NotUtf8Error: If the record is not in UTF-8.
        ValueError: In all other cases.
    """
    found = records.read()
    while batch := list(islice(found, _CHUNK)):
        contents = [content for _, content in batch]
        if not (problem := _problem(scan, contents, faults, records.count is not None)):
            continue
        low, high = 0, len(batch)  # the first `low` records are valid, the first `high` records are not
        while high - low > 1:
            middle = (low + high) // 2
            if earlier := _problem(scan, contents[:middle], faults, records.count is not None):
                high, problem = middle, earlier
            else:
                low = middle
        number, content = batch[low]
        if not is_utf8(content):
            raise NotUtf8Error(f"{path}, line {number}: it is not in UTF-8. The line is {content[:SHOWN]!r}.")
        reason = records.explain(content) or problem
        raise ValueError(f"{path}, line {number}: {reason}. The line is {decode_line(content)!r}.") from error
    if error is None:
        raise ValueError(
            f"{path} holds {records.count} records, but other rows were read. The file changed while it was being "
            "read, or the library read it wrongly. Run this again."
        )
    raise ValueError(f"{path} cannot be read: {first_line(error)}.") from error


def refuse_mixed_json(path: Path, error: Exception) -> None:
    """
    Raises at the first of some JSON lines in which a field holds a list or an object, and no other line's field does,
    or the other way round.

    Raises:
        ValueError: If there is such a line.
    """
    kinds: dict[str, str] = {}
    for number, line in islice(read_lines(path), _CHUNK):
        try:
            fields = json.loads(line) if line.strip() else {}
        except ValueError:
            return
        for name, value in fields.items() if isinstance(fields, dict) else ():
            kind = "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else "a value"
            if value is not None and kinds.setdefault(name, kind) != kind:
                raise ValueError(
                    f"{path}, line {number}: {name!r} holds {kind}, but {kinds[name]} in the lines before it. The "
                    f"line is {decode_line(line)!r}."
                ) from error


def first_line(error: Exception) -> str:
    """Returns the first line of a foreign error message, shortened, without its last dot."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:SHOWN].rstrip(".")


def _count_lines(path: Path) -> int:
    """Counts the lines that are not blank."""
    number, rest = 0, b""
    try:
        with open_raw(path) as file:
            while part := file.read(_BLOCK):
                content = rest + part
                end = content.rfind(b"\n") + 1
                content, rest = content[:end], content[end:]
                if not content:
                    continue
                ends = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == ord("\n"))
                firsts = np.frombuffer(content, dtype=np.uint8)[np.append(0, ends[:-1] + 1)]
                if firsts.min() <= ord(" "):
                    number += sum(1 for line in content.split(b"\n") if line.strip())
                else:
                    number += len(ends)
    except BROKEN_COMPRESSION:
        for _ in read_lines(path):  # raises at the line that breaks
            pass
    return number + bool(rest.strip())


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """
    Reads the lines of a file, each with its number.

    Raises:
        ValueError: If the compressed file is damaged. The message names the line.
    """
    number = 0
    with open_raw(path) as file:
        try:
            for line in file:
                number += 1
                yield number, line
        except BROKEN_COMPRESSION as error:
            raise ValueError(
                f"{path}, line {number + 1}: the compressed file ends or breaks there ({error}). Download or copy "
                "the file again."
            ) from error


def _problem(scan: Scan, records: list[bytes], faults: Mapping[str, pl.Expr], is_counted: bool) -> str | None:
    """Returns what is wrong with one of several records, in words; `None` if they can be read."""
    content = b"".join(records)
    if not content.strip():
        return None
    try:
        rows = scan(io.BytesIO(content)).collect()
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        return _in_words(error)
    if fault := next((name for name, fault in faults.items() if rows.select(fault.any()).item()), None):
        return fault
    if is_counted and len(rows) > sum(1 for record in records if record.strip()):
        return "it is read as several records"
    return None


def _in_words(error: Exception) -> str:
    if match := _UNPARSED.search(str(error)):
        value, kind, column = match.groups()
        wanted = "a whole number" if kind.startswith(("i", "u")) else "a number"
        return f"{column!r} must be {wanted}, got {value!r}"
    if "found more fields" in str(error):
        return "it holds more values than there are columns"
    return f"it cannot be read ({first_line(error)})"


def _explain_json(line: bytes) -> str | None:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        return f"it is not valid JSON ({error.msg.removesuffix(' at')} at character {error.pos + 1})"
    except ValueError as error:
        return f"it is not valid JSON ({error})"
    if not isinstance(found, dict):
        return f'it must hold a JSON object, such as {{"user_id": 1}}, got a {type(found).__name__}'
    return None
