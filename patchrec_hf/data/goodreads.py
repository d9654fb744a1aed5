"""Goodreads, read from the files of the UCSD Book Graph."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

import polars as pl
from transformers.utils import logging

from .files import find_file, read_checked, require_columns
from .filters import Filters
from .keywords import check_keys
from .lines import BROKEN_COMPRESSION, json_lines_of, open_raw
from .raw import COUNTS, RawData, null_if_blank, read_interactions, scan_json_lines


logger = logging.get_logger(__name__)

GOODREADS_FILTERS = Filters(
    min_rating=5, drop_untitled=True, min_user_interactions=50, min_item_users=10, keep_passing_items=True
)
"""
The paper's filters: five stars only, then users with 50 interactions and items with 10 users, in one pass. Items whose
users all have fewer than 50 interactions stay in the catalog.
"""

_DATE, _DAY = "%a %b %d %H:%M:%S %z %Y", "%Y-%m-%d"
_EPOCH = pl.Datetime("us", "UTC")
_TIME_FIELDS = ("date_added", "timestamp")
"""The time of an interaction: in most files, and in `goodreads_reviews_spoiler.json.gz`, which knows days only."""


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
            Fields to read instead of the default ones. For `timestamp`: `"date_added"` (default), `"date_updated"`,
            `"started_at"` or `"read_at"`. In these last two, most lines of the published files have no date; such
            lines are left out, and counted in a step of their own. `goodreads_reviews_spoiler.json.gz` has only
            `"timestamp"` (default there), a day. For `title`: `"title"` (default; the series follows in brackets) or
            `"title_without_series"`.

    Returns:
        [`RawData`]: the items are all books.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is not in the published form or ends too early. The message names the line. Also if
            several files match, or the file has no field of the chosen name.
    """
    check_keys("columns", columns or {}, ["timestamp", "title"])
    columns = columns or {}
    log = _find_one(directory, "goodreads_reviews_*", "goodreads_interactions_*")
    field = _time_field(log, columns.get("timestamp"))
    title = columns.get("title", "title")
    form, example = (_DAY, "2017-07-30") if field == "timestamp" else (_DATE, "Sun Jul 30 07:44:10 -0700 2017")

    def scan_log(source: Path | io.BytesIO) -> pl.LazyFrame:
        schema = {"user_id": pl.String, "book_id": pl.String, "rating": pl.Float32, field: pl.String}
        return scan_json_lines(source, schema).select(
            user_id=pl.col("user_id").cast(pl.Categorical),
            item_id=pl.col("book_id").cast(pl.Categorical),
            rating="rating",
            timestamp=pl.col(field).str.strptime(_EPOCH, form, strict=False).dt.epoch("s"),
            date=pl.col(field),
        )

    def scan_books(source: Path | io.BytesIO) -> pl.LazyFrame:
        return scan_json_lines(source, {"book_id": pl.String, title: pl.String}).select(
            item_id=pl.col("book_id").cast(pl.Categorical), title=null_if_blank(pl.col(title))
        )

    faults = {
        f"the field {field} is missing": pl.col("date").is_null(),
        f"{field} is no date like {example!r}": pl.col("timestamp").is_null(),
    }
    has_time = (pl.col("date") != "").fill_null(True) if field in ("read_at", "started_at") else None
    records = json_lines_of(log)
    rows, num_read = read_interactions(log, scan_log, min_rating, (0, 5), faults, records, has_time)
    num_left = {}
    if has_time is not None:
        timed = scan_log(log).filter(has_time).select(COUNTS).collect(engine="streaming").row(0, named=True)
        num_left[f"with {field}"] = timed
        number = num_read["interactions"] - timed["interactions"]
        logger.warning(
            f"{log}: {number} of {num_read['interactions']} lines have no {field} and are left out. `date_added` is "
            "never empty."
        )
    books = _find_one(directory, "goodreads_books*")
    faults = {"book_id is missing": pl.col("item_id").is_null()}
    items, _ = read_checked(books, scan_books, faults, records=json_lines_of(books))
    return RawData(rows.drop("date"), items, num_read, num_left=num_left)


def _time_field(log: Path, given: str | None) -> str:
    """Finds the field with the times. A file of another form than the first line's is reported where it is read."""
    try:
        with open_raw(log) as file:
            first = next((line for line in file if line.strip()), b"")
        known = dict(json.loads(first))
    except (ValueError, TypeError, *BROKEN_COMPRESSION):  # the reader names the line
        return given or _TIME_FIELDS[0]
    if given is None:
        return next((name for name in _TIME_FIELDS if name in known), _TIME_FIELDS[0])
    require_columns(log, list(known), [given], "`columns` names the field with the times.")
    return given


def _find_one(directory: Path, *patterns: str) -> Path:
    for pattern in patterns:
        names = sorted(
            path.name
            for path in directory.iterdir()
            if fnmatch(path.name.lower(), pattern) and path.name.lower().endswith((".json.gz", ".json"))
        )
        if len(names) > 1:
            raise ValueError(f"{directory} holds several files {pattern}: {names}. Leave one in the directory.")
        if names:
            return find_file(directory, names[0])
    raise FileNotFoundError(f"{directory} holds no {' or '.join(patterns)} (.json.gz or .json).")
