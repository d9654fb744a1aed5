"""Goodreads, read from the files of the UCSD Book Graph."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from .files import find_file, read_checked
from .filters import Filters
from .keywords import check_keys
from .raw import RawData, null_if_blank, read_interactions, scan_json_lines


GOODREADS_FILTERS = Filters(min_rating=5, drop_untitled=True, min_user_interactions=50, min_item_users=10)
"""The paper's filters: five stars only, then users with 50 interactions and items with 10 users, in one pass."""

_DATE = "%a %b %d %H:%M:%S %z %Y"
_EPOCH = pl.Datetime("us", "UTC")


def read_goodreads(
    directory: Path, min_rating: float | None = None, columns: Mapping[str, str] | None = None
) -> RawData:
    """
    Reads Goodreads reviews or interactions, for all genres or for one genre.

    Args:
        directory (`pathlib.Path`):
            Directory that holds one `goodreads_reviews_*.json.gz` or `goodreads_interactions_*.json.gz`, and one
            `goodreads_books*.json.gz`. The files may be uncompressed. If the directory holds both logs, the reviews
            are read.
        min_rating (`float`, *optional*):
            Interactions with a lower rating are left out. A book that is on a shelf without a rating has the rating 0.
        columns (`Mapping[str, str]`, *optional*):
            Fields to read instead of the default ones. For `timestamp`: `"date_added"` (default), `"date_updated"` or
            `"read_at"`. For `title`: `"title"` (default; the series follows in brackets) or `"title_without_series"`.

    Returns:
        [`RawData`]: the items are all books.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is not in the published form or ends too early. The message names the line. Also if
            several files match.
    """
    fields = {"timestamp": "date_added", "title": "title"}
    check_keys("columns", columns or {}, list(fields))
    fields |= columns or {}
    log = _find_one(directory, "goodreads_reviews_*", "goodreads_interactions_*")

    def scan_log(source: Path | io.BytesIO) -> pl.LazyFrame:
        schema = {"user_id": pl.String, "book_id": pl.String, "rating": pl.Float32, fields["timestamp"]: pl.String}
        date = pl.col(fields["timestamp"]).str.strptime(_EPOCH, _DATE, strict=False)
        return scan_json_lines(source, schema).select(
            user_id=pl.col("user_id").cast(pl.Categorical),
            item_id=pl.col("book_id").cast(pl.Categorical),
            rating="rating",
            timestamp=date.dt.epoch("s"),
            date=pl.col(fields["timestamp"]),
        )

    def scan_books(source: Path | io.BytesIO) -> pl.LazyFrame:
        return scan_json_lines(source, {"book_id": pl.String, fields["title"]: pl.String}).select(
            item_id=pl.col("book_id").cast(pl.Categorical), title=null_if_blank(pl.col(fields["title"]))
        )

    faults = {
        f"{fields['timestamp']} is missing": pl.col("date").is_null(),
        f"{fields['timestamp']} is no date like 'Sun Jul 30 07:44:10 -0700 2017'": pl.col("timestamp").is_null(),
    }
    rows, num_read = read_interactions(log, scan_log, min_rating, (0, 5), faults)
    books = _find_one(directory, "goodreads_books*")
    items, _ = read_checked(books, scan_books, {"book_id is missing": pl.col("item_id").is_null()})
    return RawData(rows.drop("date"), items, num_read)


def _find_one(directory: Path, *patterns: str) -> Path:
    for pattern in patterns:
        names = sorted(path.name for path in directory.glob(pattern) if path.name.endswith((".json.gz", ".json")))
        if len(names) > 1:
            raise ValueError(f"{directory} holds several files {pattern}: {names}. Leave one in the directory.")
        if names:
            return find_file(directory, names[0])
    raise FileNotFoundError(f"{directory} holds no {' or '.join(patterns)} (.json.gz or .json).")
