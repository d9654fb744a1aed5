"""Records: finds the records of a CSV file in its bytes, and refuses those that cannot be read without a guess."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from .lines import BROKEN_COMPRESSION, SHOWN, decode_line, is_utf8, open_raw, read_lines


_BLOCK = 1 << 22
_LONGEST = 1 << 26
"""Bytes beyond which a record is taken for one whose last quote is missing."""

NEWLINE, _RETURN = ord("\n"), ord("\r")


@dataclass(frozen=True)
class Dialect:
    """
    How a CSV file is written.

    Args:
        separator (`str`, *optional*, defaults to `","`):
            Character between values.
        quote_char (`str`, *optional*, defaults to `'"'`):
            Character around values that hold a separator, a line end or the character itself, which is written twice
            there. It only counts where it begins a value; elsewhere it is a character like any other. `None` if there
            is no such character.
        is_asked (`bool`, *optional*, defaults to `False`):
            Whether the user gave `quote_char`. If not, a file that can be read in two ways is refused.
    """

    separator: str = ","
    quote_char: str | None = '"'
    is_asked: bool = False


@dataclass(frozen=True)
class Block:
    """
    Some records of a file.

    Args:
        line (`int`):
            Number of the first line.
        content (`bytes`):
            The records, with their line ends.
        quotes (`numpy.ndarray`, int64):
            Places of the quotes that begin a value, end it, or stand within it.
        has_literals (`bool`, *optional*, defaults to `False`):
            Whether there are other quotes, which are characters.
    """

    line: int
    content: bytes
    quotes: np.ndarray
    has_literals: bool = False


def read_blocks(path: Path | bytes, dialect: Dialect, num_skipped: int = 0) -> Iterator[Block]:
    """
    Reads a CSV file in blocks of whole records.

    Args:
        path (`pathlib.Path` or `bytes`):
            The file, which may be compressed (`.gz`), or its content.
        dialect ([`Dialect`]):
            How the file is written.
        num_skipped (`int`, *optional*, defaults to `0`):
            Number of lines before the first record.

    Yields:
        [`Block`]

    Raises:
        ValueError: If a quote is missing, or the compressed file is damaged. The message names the line.
    """
    line, rest = num_skipped + 1, b""
    try:
        with io.BytesIO(path) if isinstance(path, bytes) else open_raw(path) as file:
            for _ in range(num_skipped):
                file.readline()
            while True:
                part = file.read(_BLOCK)
                content = rest + part
                if line == 1 and not rest:
                    content = content.removeprefix(b"\xef\xbb\xbf")
                if not content:
                    return
                block = _cut(path, line, content, dialect, is_last=not part)
                if block.content:
                    yield block
                rest = content[len(block.content) :]
                line += block.content.count(b"\n")
                if not part:
                    return
    except BROKEN_COMPRESSION as error:
        for _ in read_lines(path) if isinstance(path, Path) else ():  # raises at the line that breaks
            pass
        raise ValueError(
            f"{_label(path)}, line {line} or later: the compressed file ends or breaks there ({error}). Download or "
            "copy the file again."
        ) from error


def read_records(path: Path, dialect: Dialect, num_skipped: int = 0) -> Iterator[tuple[int, bytes]]:
    """Reads the records of a CSV file, each with the number of its first line (see [`read_blocks`])."""
    for block in read_blocks(path, dialect, num_skipped):
        line = block.line
        for start, end in bounds(block, inside_quotes(block)):
            record = block.content[start:end]
            yield line, record
            line += record.count(b"\n")


def quote_literals(block: Block, dialect: Dialect) -> bytes:
    """
    Writes the records of a block so that every quote stands around a value, or twice within one. Parsers that take any
    quote for the beginning of a value read them right.

    Args:
        block ([`Block`]):
            The records.
        dialect ([`Dialect`]):
            How they are written, with a `quote_char`.

    Returns:
        `bytes`: the records, with the same lines.
    """
    if not block.has_literals or dialect.quote_char is None:
        return block.content
    mark = dialect.quote_char.encode()
    separator = re.escape(dialect.separator.encode())
    quoted = b"%s(?:[^%s]|%s%s)*%s" % ((mark,) * 5)
    values = re.compile(
        rb"(?:\A|(?<=[\n%s]))(?:(%s)|([^%s\n]*?))(?=[%s\n]|\r\n|\r?\Z)" % ((separator, quoted) + (separator,) * 2)
    )

    def escape(match: re.Match[bytes]) -> bytes:
        plain = match[2]
        if plain is None or mark not in plain:
            return match[0]
        return mark + plain.replace(mark, mark * 2) + mark

    return values.sub(escape, block.content)


def _cut(path: Path | bytes, line: int, content: bytes, dialect: Dialect, is_last: bool) -> Block:
    """Cuts whole records from the beginning of bytes."""
    mark = (dialect.quote_char or "").encode()
    if not mark or mark not in content:
        end = len(content) if is_last else content.rfind(b"\n") + 1
        if end == 0 and len(content) > _LONGEST:
            refuse_line(path, line, content, f"it is longer than {_LONGEST >> 20} MiB")
        return Block(line, content[:end], np.empty(0, dtype=np.int64))
    array = np.frombuffer(content, dtype=np.uint8)
    found = np.flatnonzero(array == mark[0])
    quotes = _quotes_of_values(path, line, content, array, found, dialect)
    end = len(content)
    if not is_last:
        end = content.rfind(b"\n") + 1
        while end and np.searchsorted(quotes, end) % 2 == 1:  # this line end stands within quotes
            end = content.rfind(b"\n", 0, int(quotes[np.searchsorted(quotes, end) - 1])) + 1
    is_open = len(quotes) % 2 == 1
    if is_open and (is_last or (end == 0 and len(content) > _LONGEST)):
        _refuse_quote(path, line, content, int(quotes[-1]), "is never closed")
    kept = quotes[quotes < end]
    return Block(line, content[:end], kept, bool(np.count_nonzero(found < end) > len(kept)))


def _quotes_of_values(
    path: Path | bytes, line: int, content: bytes, array: np.ndarray, found: np.ndarray, dialect: Dialect
) -> np.ndarray:
    """Returns the quotes that are none of a value's characters; those that open and close values alternate."""
    separator, mark = ord(dialect.separator), ord(str(dialect.quote_char))
    before = np.where(found > 0, array[found - 1], NEWLINE)
    after = np.where(found + 1 < len(array), array[np.minimum(found + 1, len(array) - 1)], NEWLINE)
    opens, closes = before[0::2], after[1::2]
    is_doubled = np.zeros(len(opens), dtype=bool)
    is_doubled[1:] = found[2::2] == found[1:-1:2] + 1
    if np.all((opens == separator) | (opens == NEWLINE) | is_doubled) and np.all(
        (closes == separator) | (closes == NEWLINE) | (closes == _RETURN) | (closes == mark)
    ):
        return found
    kept: list[int] = []
    places = iter(found.tolist())
    for opening in places:
        if opening > 0 and content[opening - 1] not in (separator, NEWLINE):
            continue  # a quote within a value is a character
        kept.append(opening)
        for closing in places:
            kept.append(closing)
            following = content[closing + 1 : closing + 2]
            if following == b"" or following[0] in (separator, NEWLINE, _RETURN):
                break
            if following[0] != mark:
                number = line + content.count(b"\n", 0, closing)
                _refuse_quote(
                    path,
                    line,
                    content,
                    opening,
                    f"is followed by {following.decode('latin-1')!r} where it ends, in line {number}",
                )
            kept.append(next(places))
    return np.array(kept, dtype=np.int64)


def inside_quotes(block: Block) -> np.ndarray | None:
    """Returns which bytes stand within quotes; `None` if there are no quotes."""
    if len(block.quotes) == 0:
        return None
    marks = np.zeros(len(block.content), dtype=np.uint8)
    marks[block.quotes] = 1
    return (np.cumsum(marks, dtype=np.uint8) & 1).view(bool)


def places(content: bytes, character: int, is_inside: np.ndarray | None) -> np.ndarray:
    """Returns the places of a character, but not those within quotes."""
    is_there = np.frombuffer(content, dtype=np.uint8) == character
    return np.flatnonzero(is_there if is_inside is None else is_there & ~is_inside)


def bounds(block: Block, is_inside: np.ndarray | None) -> Sequence[tuple[int, int]]:
    """Returns where each record of a block begins and ends."""
    ends = (places(block.content, NEWLINE, is_inside) + 1).tolist()
    if not ends or ends[-1] < len(block.content):
        ends.append(len(block.content))
    return list(zip([0, *ends[:-1]], ends, strict=True))


def refuse_line(path: Path | bytes, line: int, content: bytes, problem: str) -> NoReturn:
    """Raises an error that names and shows the line with which `content` begins."""
    text = content.split(b"\n", 1)[0]
    shown = decode_line(text) if is_utf8(text) else text[:SHOWN]
    raise ValueError(f"{_label(path)}, line {line}: {problem}. The line is {shown!r}.")


def _refuse_quote(path: Path | bytes, line: int, content: bytes, opening: int, problem: str) -> NoReturn:
    start = content.rfind(b"\n", 0, opening) + 1
    mark = content[opening : opening + 1].decode()
    refuse_line(
        path,
        line + content.count(b"\n", 0, opening),
        content[start:],
        f"the value that {mark} begins {problem}; close it, write {mark} twice within it, or pass `quote_char=''` if "
        f"{mark} is a character like any other in this file",
    )


def _label(path: Path | bytes) -> str:
    return "The text" if isinstance(path, bytes) else str(path)
