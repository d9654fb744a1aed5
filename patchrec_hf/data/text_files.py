"""Text files: finds out how a user's own text file is written, re-encodes it, and refuses files of other kinds."""

from __future__ import annotations

import codecs
import csv
import shutil
import zipfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from .files import make_once, place_for
from .lines import BROKEN_COMPRESSION, SHOWN, NotUtf8Error, is_utf8, open_raw


SEPARATORS = (",", ";", "\t", "|")
"""Separators that are recognized. Any other must be given."""

_WITH_TABS = (".tsv", ".inter", ".item", ".user")
_EXCEL_ENDINGS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
_EXCEL = (
    "is a spreadsheet (Excel or similar). Save it as CSV in UTF-8, or read it with `polars.read_excel` or "
    "`pandas.read_excel` and pass the frame instead of the file."
)
_OTHER_KINDS = {
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": _EXCEL,
    b"PAR1": "is a Parquet file. Give it a name that ends in .parquet.",
    b"\x1f\x8b": "is compressed. Give it a name that ends in .gz, such as log.csv.gz.",
    b"PK\x03\x04": "is a zip archive. Unpack it.",
}
_PART = 1 << 20

INFERRED_ROWS = 1000
"""Rows from which polars infers the types of columns."""

_BYTE_ORDER_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def refuse_spreadsheet(path: Path) -> None:
    """
    Refuses a spreadsheet, which is known by the ending of its name or by its content.

    Raises:
        ValueError: If the file is a spreadsheet. The message says how to get its content.
    """
    is_spreadsheet = path.suffix.lower() in _EXCEL_ENDINGS
    if not is_spreadsheet and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            is_spreadsheet = any(name in ("xl/workbook.xml", "xl/workbook.bin") for name in archive.namelist())
    if is_spreadsheet:
        raise ValueError(f"{path} {_EXCEL}")


def refuse_other_kinds(path: Path, is_json: bool) -> None:
    """
    Refuses a file that is named like a text file but is none, by its first bytes.

    Args:
        path (`pathlib.Path`):
            The file.
        is_json (`bool`):
            Whether the file holds JSON lines, which may not begin with a byte order mark.

    Raises:
        NotUtf8Error: If a line from which the columns follow is not in UTF-8.
        ValueError: If the file is of another kind, or begins with a byte order mark. The message says what to do.
    """
    with path.open("rb") as file:
        beginning = file.read(8)
    if is_json and beginning.lstrip().startswith(b"["):
        raise ValueError(
            f"{path} holds one JSON array. Write one object per line, or read it with `polars.read_json` and pass the "
            "frame."
        )
    for signature, problem in _OTHER_KINDS.items():
        if beginning.startswith(signature) and not (path.suffix.lower() == ".gz" and signature == b"\x1f\x8b"):
            raise ValueError(f"{path} {problem}")
    marks = _BYTE_ORDER_MARKS | ({codecs.BOM_UTF8: "utf-8-sig"} if is_json else {})
    for number, line in enumerate(_first_lines(path, INFERRED_ROWS if is_json else 1), start=1):
        for mark, encoding in marks.items():
            if number == 1 and line.startswith(mark):
                raise ValueError(f"{path} begins with a byte order mark. Pass `encoding={encoding!r}`.")
        if not is_json and b"\r" in line.rstrip(b"\r\n"):
            raise ValueError(
                f"{path}, line 1: its lines end with \\r alone, as on old Macintosh computers. Write it anew with the "
                f"line end \\n. It begins with {line[:SHOWN]!r}."
            )
        if not is_utf8(line):
            raise NotUtf8Error(f"{path}, line {number}: it is not in UTF-8. The line is {line[:SHOWN]!r}.")


def find_separator(path: Path, columns: Sequence[str], separator: str | None) -> str:
    """
    Finds the separator of a file from its whole first line. Blank lines before it do not count.

    Args:
        path (`pathlib.Path`):
            The file; it may be compressed (`.gz`).
        columns (`Sequence[str]`):
            Columns that the caller reads.
        separator (`str`, *optional*):
            The separator, if it is known.

    Returns:
        `str`: the separator under which the first line holds all of the columns. If there is none, the only one that
        the line holds; without any, the file has a single column, and `","` does as well as any other.

    Raises:
        ValueError: If the first line holds several of `SEPARATORS`, and does not hold the columns under any of them.
            Also if `separator` is not one character of ASCII.
    """
    if separator is not None:
        if len(separator) != 1 or not separator.isascii() or separator in '"\r\n':
            raise ValueError(f"`separator` must be one character of ASCII, such as ';', got {separator!r}.")
        return separator
    line = _first_text(path)
    headers = {mark: next(csv.reader([line], delimiter=mark), []) for mark in SEPARATORS}
    for mark, header in headers.items():
        if columns and set(columns) <= set(header):
            return mark
    present = [mark for mark, header in headers.items() if len(header) > 1]
    if len(present) > 1 and "\t" in present and path.name.lower().removesuffix(".gz").endswith(_WITH_TABS):
        return "\t"
    if len(present) > 1:
        raise ValueError(
            f"{path} has no columns {list(columns)} under any separator: its first line, {line[:SHOWN]!r}, holds "
            f"{present}. Name its columns with `columns`, and pass `separator` if it is none of {list(SEPARATORS)}."
        )
    return present[0] if present else ","


def recode(path: Path, encoding: str, parent: Path) -> Path:
    """
    Writes a text file anew in UTF-8, unless that was done before (see [`make_once`]). A file that is in UTF-8 already
    stays as it is, since the log and the items may differ.

    Args:
        path (`pathlib.Path`):
            The file; it may be compressed (`.gz`).
        encoding (`str`):
            Its encoding, such as `"latin-1"` or `"utf-16"`.
        parent (`pathlib.Path`):
            The directory that gets a directory for the new file.

    Returns:
        `pathlib.Path`: the new file, which has the same name without `.gz`; or `path`.

    Raises:
        ValueError: If Python knows no such encoding, or the file is not in it.
    """
    try:
        "".encode(encoding)
    except LookupError as error:
        raise ValueError(
            f"`encoding` must be a text encoding of Python, such as 'latin-1', 'cp1252' or 'utf-16', got {encoding!r}."
        ) from error
    if _is_surely_utf8(path):
        return path

    def write(directory: Path) -> None:
        try:
            with (
                open_raw(path) as file,
                codecs.getreader(encoding)(file) as text,
                (directory / _new_name(path)).open("w", encoding="utf-8", newline="") as new,
            ):
                shutil.copyfileobj(text, new)
        except UnicodeError as error:
            raise ValueError(
                f"{path} is not in the encoding {encoding!r}: {error}. Pass another `encoding`."
            ) from error
        except BROKEN_COMPRESSION as error:
            raise ValueError(f"{path} is damaged ({error}). Download or copy the file again.") from error

    return make_once(place_for(path, parent / codecs.lookup(encoding).name), write) / _new_name(path)


def _is_surely_utf8(path: Path) -> bool:
    """Whether a file is valid UTF-8 and not only ASCII. Text of another encoding hardly ever is."""
    decoder, is_ascii = codecs.getincrementaldecoder("utf-8")(), True
    try:
        with open_raw(path) as file:
            while part := file.read(_PART):
                decoder.decode(part)
                is_ascii &= part.isascii()
            decoder.decode(b"", final=True)
    except (UnicodeDecodeError, *BROKEN_COMPRESSION):
        return False  # a file that is broken is reported when it is written anew
    # A byte order mark must be taken away, which writing the file anew does.
    return not is_ascii and not b"".join(_first_lines(path, 1)).startswith(codecs.BOM_UTF8)


def _new_name(path: Path) -> str:
    return path.name[: -len(".gz")] if path.suffix.lower() == ".gz" else path.name


def _first_text(path: Path) -> str:
    """Returns the first line that is not blank, without its end."""
    try:
        with open_raw(path) as file:
            lines = (line.removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n") for line in file)
            return next((line for line in lines if line), b"").decode(errors="replace")  # the reader refuses it
    except BROKEN_COMPRESSION as error:
        raise _broken(path, error) from error


def _first_lines(path: Path, number: int) -> list[bytes]:
    try:
        with open_raw(path) as file:
            return list(islice(file, number))
    except BROKEN_COMPRESSION as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path}: the compressed file ends or breaks near its beginning ({error}). Download or copy it again."
    )
