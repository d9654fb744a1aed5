"""Record counts: checks all bytes of a CSV file and counts its records; what would have to be guessed is refused."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from .lines import SHOWN, NotUtf8Error
from .records import NEWLINE, Block, Dialect, inside_quotes, places, read_blocks, read_records, refuse_line


@dataclass(frozen=True)
class Counts:
    """
    Counts over the records of a file.

    Args:
        records (`int`):
            Number of records, without those that hold no value.
        empty (`int`):
            Number of records that hold no value: blank lines, and lines of nothing but separators.
        has_quotes (`bool`):
            Whether quotes stand around some values.
        has_literals (`bool`):
            Whether some quotes are characters.
    """

    records: int
    empty: int
    has_quotes: bool
    has_literals: bool


def count_records(path: Path, num_columns: int, dialect: Dialect, num_skipped: int = 0) -> Counts:
    """
    Counts the records of a CSV file and checks all of its bytes, also in columns that nobody reads.

    Args:
        path (`pathlib.Path`):
            The file; it may be compressed (`.gz`).
        num_columns (`int`):
            Number of values that a record must have.
        dialect ([`Dialect`]):
            How the file is written.
        num_skipped (`int`, *optional*, defaults to `0`):
            Number of lines before the first record.

    Returns:
        [`Counts`]

    Raises:
        NotUtf8Error: If a line is not in UTF-8.
        ValueError: If a record has too few or too many values, a quote is missing, it cannot be told whether quotes
            are characters, or the compressed file is damaged. The message names the line.
    """
    records = empty = 0
    has_quotes = has_literals = False
    for block in read_blocks(path, dialect, num_skipped):
        _check_bytes(path, block)
        is_inside = inside_quotes(block)
        array = np.frombuffer(block.content, dtype=np.uint8)
        is_end, is_separator = array == NEWLINE, array == ord(dialect.separator)
        if is_inside is not None:
            if not dialect.is_asked and np.any(is_end & is_inside):
                _refuse_ambiguous(path, block, is_inside, num_columns, dialect)
            is_end, is_separator = is_end & ~is_inside, is_separator & ~is_inside
        elif dialect.quote_char is None and not dialect.is_asked:
            _refuse_quoting(path, block, dialect)
        new_records, new_empty = _count(path, block, is_end, is_separator, num_columns, dialect)
        records, empty = records + new_records, empty + new_empty
        has_quotes |= len(block.quotes) > 0
        has_literals |= block.has_literals
    return Counts(records, empty, has_quotes, has_literals)


def _count(
    path: Path, block: Block, is_end: np.ndarray, is_separator: np.ndarray, num_columns: int, dialect: Dialect
) -> tuple[int, int]:
    """Counts the records of a block, and those without any value. Raises at one with too few or too many values."""
    content, separators = block.content, np.flatnonzero(is_separator)
    ends = np.flatnonzero(is_end)
    if not content.endswith(b"\n"):
        ends = np.append(ends, len(content))
    starts = np.append(0, ends[:-1] + 1)
    if num_columns > 1 and len(separators) == len(ends) * (num_columns - 1):
        # As many separators as there must be may still be too few in one record and too many in another.
        groups = separators.reshape(len(ends), num_columns - 1)
        may_be_empty = np.any(groups[:, -1] - starts == num_columns - 2)
        if not may_be_empty and np.all(groups[:, -1] < ends) and np.all(groups[:, 0] >= starts):
            return len(ends), 0
    numbers = np.diff(np.searchsorted(separators, ends), prepend=0) + 1
    # Only records that may hold nothing, or hold too few or too many values, are looked at.
    empty = dialect.separator.encode() * (num_columns - 1)
    suspects = np.flatnonzero((numbers != num_columns) | (ends - starts <= num_columns)).tolist()
    num_empty = 0
    for index in suspects:
        record = content[int(starts[index]) : int(ends[index])]
        if record.removesuffix(b"\r") in (b"", empty):
            num_empty += 1
        elif numbers[index] != num_columns:
            line = block.line + content.count(b"\n", 0, int(starts[index]))
            _refuse_number(path, line, record, int(numbers[index]), num_columns, dialect)
    return len(ends) - num_empty, num_empty


def _refuse_number(path: Path, line: int, record: bytes, number: int, expected: int, dialect: Dialect) -> NoReturn:
    refuse_line(
        path,
        line,
        record,
        f"it holds {number} {'value' if number == 1 else 'values'} between separators {dialect.separator!r}, but the "
        f"file has {expected} columns; mend the line, or pass `separator` or `quote_char` if the file is written in "
        "another way",
    )


def _check_bytes(path: Path, block: Block) -> None:
    content = block.content
    if b"\0" in content:
        _raise_at_byte(path, block, content.index(b"\0"))
    try:
        if not content.isascii():
            content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[content.rfind(b"\n", 0, error.start) + 1 :].split(b"\n", 1)[0]
        number = block.line + content.count(b"\n", 0, error.start)
        raise NotUtf8Error(f"{path}, line {number}: it is not in UTF-8. The line is {line[:SHOWN]!r}.") from error


def _raise_at_byte(path: Path, block: Block, place: int) -> NoReturn:
    start = block.content.rfind(b"\n", 0, place) + 1
    problem = "it holds a zero byte. The file is damaged, or in an `encoding` such as 'utf-16-le', which you can pass"
    refuse_line(path, block.line + block.content.count(b"\n", 0, place), block.content[start:], problem)


def _refuse_ambiguous(path: Path, block: Block, is_inside: np.ndarray, num_columns: int, dialect: Dialect) -> None:
    """Refuses a value over several lines each of which, if not blank, would be a record of its own without quotes."""
    newlines = np.flatnonzero((np.frombuffer(block.content, dtype=np.uint8) == NEWLINE) & is_inside)
    if len(newlines) == 0:
        return
    separator = dialect.separator.encode()
    ends = np.append(places(block.content, NEWLINE, is_inside), len(block.content))
    for index in np.unique(np.searchsorted(ends, newlines)).tolist():
        start = int(ends[index - 1]) + 1 if index else 0
        lines = block.content[start : int(ends[index])].split(b"\n")
        if all(line.count(separator) == num_columns - 1 for line in lines if line.rstrip(b"\r")):
            line, mark = block.line + block.content.count(b"\n", 0, start), dialect.quote_char
            refuse_line(
                path,
                line,
                block.content[start:],
                f"{mark} begins a value that ends in line {line + len(lines) - 1}, but each of these lines that is "
                f"not blank is a whole record if {mark} is a character like any other; pass `quote_char=''` if it is "
                f"one, or `quote_char={mark!r}` if it surrounds values",
            )


def _refuse_quoting(path: Path, block: Block, dialect: Dialect) -> None:
    """Refuses a value that seems to be quoted, in a file that has no quotes by default."""
    if b'""' not in block.content:
        return
    separator = re.escape(dialect.separator.encode())
    quoted = re.compile(rb'(?:\A|(?<=[\n%s]))"[^"\n%s]*(?:""[^"\n%s]*)+"(?=[%s\n]|\r\n|\r?\Z)' % ((separator,) * 4))
    if match := quoted.search(block.content):
        start = block.content.rfind(b"\n", 0, match.start()) + 1
        refuse_line(
            path,
            block.line + block.content.count(b"\n", 0, match.start()),
            block.content[start:],
            "a value begins and ends with a quote and holds doubled quotes; values between tabs have no quotes "
            "around them by default: pass `quote_char='\"'` if these do, or `quote_char=''` if quotes are characters",
        )


def read_header(path: Path, dialect: Dialect) -> tuple[list[str], int, int]:
    """
    Reads the names of the columns of a CSV file.

    Args:
        path (`pathlib.Path`):
            The file; it may be compressed (`.gz`).
        dialect ([`Dialect`]):
            How the file is written.

    Returns:
        `tuple[list[str], int, int]`: the names as they stand there, the number of lines before them, and the number of
        lines before the first record behind them.

    Raises:
        NotUtf8Error: If the first line is not in UTF-8.
        ValueError: If the file is empty, its first line holds a zero byte or a quote is missing there, or the lines
            end in another way.
    """
    names: list[str] | None = None
    num_before = num_lines = 0
    for line, record in read_records(path, dialect):
        text = record.removesuffix(b"\n").removesuffix(b"\r")
        if names is not None and text:
            return names, num_before, line - 1
        if names is None and text:
            _check_bytes(path, Block(line, record, np.empty(0)))
            values = csv.reader(
                [text.decode()],
                delimiter=dialect.separator,
                quotechar=dialect.quote_char,
                quoting=csv.QUOTE_MINIMAL if dialect.quote_char else csv.QUOTE_NONE,
            )
            names, num_before, num_lines = next(values), line - 1, line + record.removesuffix(b"\n").count(b"\n")
    if names is None:
        raise ValueError(f"{path} is empty. Its first line must name the columns.")
    return names, num_before, num_lines
