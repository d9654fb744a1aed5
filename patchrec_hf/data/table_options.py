"""Table options: how your own log and its items are written, and the kinds of files that hold a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .csv_files import TYPED_ENDINGS


SEPARATED = (".csv", ".tsv", ".txt", *TYPED_ENDINGS)
JSON = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class TableOptions:
    """
    How your own log and its items are written.

    Args:
        columns (`Mapping[str, str | None]`, *optional*):
            Column names in the tables, for each of `user_id`, `item_id`, `timestamp`, `title` and `rating` that has
            another name there. Ratings are read if `rating` is named here or a filter needs them. `None` for
            `timestamp` says that the log has no times, and that its rows are in order.
        time_unit (`"s"`, `"ms"`, `"us"` or `"ns"`, *optional*, defaults to `"s"`):
            Unit of times that are numbers.
        date_format (`str`, *optional*):
            Format of times that are texts, as for `datetime.strptime`, such as `"%d/%m/%Y %H:%M"`. If not given, texts
            may be numbers, ISO 8601 as year-month-day (`2024-12-25T18:00:00Z`, `2024-12-25`), or dates with the year
            last, if some date of the file tells whether day or month stands first. All times of a file must be written
            in the same way. A text without a time zone is in UTC.
        separator (`str`, *optional*):
            Character between the values of a CSV file. If not given, the first line tells which of comma, semicolon,
            tab and `|` it is. It applies to the log and to the items, if both are CSV files.
        encoding (`str`, *optional*):
            Encoding of CSV files and JSON lines that are not in UTF-8, such as `"latin-1"` or `"utf-16"`. It applies
            to the log and to the items; a file that is in UTF-8 already stays as it is.
        quote_char (`str`, *optional*):
            Character around values of CSV files that hold a separator or a line end; an empty text if there is none.
            If not given, it is `"`, but none in a file with tabs between its values.
        has_header (`bool`, *optional*, defaults to `True`):
            Whether the first line of CSV files names the columns. If not, they are `column_1`, `column_2` and so on.
        item_columns (`Mapping[str, str]`, *optional*):
            Column names in the table of the items, for `item_id` and `title` if they differ from `columns`.
    """

    columns: Mapping[str, str | None] | None = None
    time_unit: str = "s"
    date_format: str | None = None
    separator: str | None = None
    encoding: str | None = None
    quote_char: str | None = None
    has_header: bool = True
    item_columns: Mapping[str, str] | None = None


def is_table(path: Path) -> bool:
    """Whether a file's name has an extension that [`read_tables`] reads."""
    return is_text_table(path) or _kind(path) == ".parquet"


def is_text_table(path: Path) -> bool:
    """Whether a file's name has the extension of a CSV file or of JSON lines."""
    return _kind(path) in (*SEPARATED, *JSON)


def is_csv(path: Path) -> bool:
    """Whether a file's name has the extension of a CSV file."""
    return _kind(path) in SEPARATED


def _kind(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix
