"""MovieLens, read from the files that GroupLens publishes: 100K, 1M, and the CSV form of latest-small and 32M."""

from __future__ import annotations

import io
import re
from pathlib import Path

import polars as pl

from .files import columns_of, find_file, read_checked, require_columns
from .filters import Filters
from .raw import RawData, drop_blank_rows, null_if_blank, read_interactions


MOVIELENS_FILTERS = Filters(min_rating=3.5)
"""The paper keeps ratings above 3. MovieLens has half stars, so the lowest rating kept is 3.5."""

MOVIELENS_100K_FILTERS = Filters(min_rating=3.5, min_user_interactions=21)
"""On 100K, the paper keeps users with more than 20 such ratings."""

_ARTICLE = re.compile(r"(?s)(.*), (The|A|An)")
_FIELDS = ("user_id", "item_id", "rating", "timestamp")
_TYPES = (pl.Int32, pl.Int32, pl.Float32, pl.Int64)
_TITLE_FAULTS = {
    "the movie has no number": pl.col("item_id").is_null(),
    "the movie has no title": pl.col("title").is_null(),
}


def clean_movie_title(title: str) -> str:
    """
    Rewrites a title as the paper's released data has it: drops the year and alternative titles, and moves the article
    to the front.

    Example:
    ```python
    >>> clean_movie_title("Postino, Il (1994)"), clean_movie_title("Usual Suspects, The (1995)")
    ('Postino, Il', 'The Usual Suspects')
    ```
    """
    title = title.split(" (")[0].strip().lstrip("'")
    match = _ARTICLE.fullmatch(title)
    return f"{match[2]} {match[1]}" if match else title


def read_movielens(directory: Path, min_rating: float | None = None) -> RawData:
    """
    Reads a MovieLens data set, in any of its published forms.

    Args:
        directory (`pathlib.Path`):
            The unpacked archive. It holds `u.data` and `u.item` (100K), `ratings.dat` and `movies.dat` (1M), or
            `ratings.csv` and `movies.csv`.
        min_rating (`float`, *optional*):
            Interactions with a lower rating are left out.

    Returns:
        [`RawData`]: the items are all movies, including movies without ratings.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is not in the published form. The message names the line.
    """
    ratings = find_file(directory, "u.data", "ratings.dat", "ratings.csv")
    scan, movies_name, lowest_rating = {
        "u.data": (_scan_tabs, "u.item", 1.0),
        "ratings.dat": (_scan_colons, "movies.dat", 1.0),
        "ratings.csv": (_scan_commas, "movies.csv", 0.5),
    }[ratings.name]
    has_header = ratings.suffix == ".csv"
    if has_header:
        require_columns(ratings, columns_of(ratings, pl.scan_csv(ratings)).names(), list(_CSV_NAMES))
    faults = (
        {"it is not in the published form": pl.col("separators").is_not_null()} if ratings.suffix == ".dat" else {}
    )
    rows, num_read = read_interactions(ratings, scan, min_rating, (lowest_rating, 5.0), faults, has_header)
    movies = find_file(directory, movies_name)
    if has_header:
        require_columns(movies, columns_of(movies, pl.scan_csv(movies)).names(), ["movieId", "title"])
    items, _ = read_checked(movies, _MOVIE_SCANS[movies_name], _TITLE_FAULTS, has_header=has_header)
    return RawData(rows.select(_FIELDS), items, num_read)


_CSV_NAMES = {"userId": "user_id", "movieId": "item_id", "rating": "rating", "timestamp": "timestamp"}


def _scan_tabs(source: Path | io.BytesIO) -> pl.LazyFrame:
    schema = dict(zip(_FIELDS, _TYPES, strict=True))
    return drop_blank_rows(pl.scan_csv(source, has_header=False, separator="\t", quote_char=None, schema=schema))


def _scan_colons(source: Path | io.BytesIO) -> pl.LazyFrame:
    # The separator is two colons. Polars takes one character, so it reads an empty column between every two fields.
    schema: dict[str, type[pl.DataType]] = {}
    for index, (name, kind) in enumerate(zip(_FIELDS, _TYPES, strict=True)):
        if index:
            schema[f"empty {index}"] = pl.String
        schema[name] = kind
    rows = drop_blank_rows(pl.scan_csv(source, has_header=False, separator=":", quote_char=None, schema=schema))
    return rows.select(*_FIELDS, separators=pl.coalesce("^empty .*$"))


def _scan_commas(source: Path | io.BytesIO) -> pl.LazyFrame:
    types = dict(zip(_CSV_NAMES, _TYPES, strict=True))
    return drop_blank_rows(pl.scan_csv(source, schema_overrides=types).select(*_CSV_NAMES).rename(_CSV_NAMES))


def _scan_latin1(source: Path | io.BytesIO, separator: str) -> pl.LazyFrame:
    text = source.read_bytes() if isinstance(source, Path) else source.read()
    lines = pl.LazyFrame({"line": text.decode("latin-1").split("\n")}).select(pl.col("line").str.strip_chars("\r "))
    parts = pl.col("line").str.splitn(separator, 3)
    return lines.filter(pl.col("line") != "").select(
        item_id=parts.struct.field("field_0").cast(pl.Int32), title=null_if_blank(parts.struct.field("field_1"))
    )


def _scan_movie_csv(source: Path | io.BytesIO) -> pl.LazyFrame:
    rows = drop_blank_rows(pl.scan_csv(source, infer_schema=False))
    return rows.select(item_id=pl.col("movieId").cast(pl.Int32), title=null_if_blank(pl.col("title")))


_MOVIE_SCANS = {
    "u.item": lambda source: _scan_latin1(source, "|"),
    "movies.dat": lambda source: _scan_latin1(source, "::"),
    "movies.csv": _scan_movie_csv,
}
