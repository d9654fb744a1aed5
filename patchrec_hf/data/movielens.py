"""MovieLens, read from the files that GroupLens publishes: 100K, 1M, and the CSV form of latest-small and 32M."""

from __future__ import annotations

import io
import re
from functools import partial
from pathlib import Path

import polars as pl

from .csv_files import CsvFile
from .files import find_file, read_checked, require_columns
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
    if ratings.suffix.lower() == ".csv":
        return _read_csv(ratings, find_file(directory, "movies.csv"), min_rating)
    is_100k = ratings.name.lower() == "u.data"
    scan = _scan_tabs if is_100k else _scan_colons
    faults = {} if is_100k else {"it is not in the published form": pl.col("separators").is_not_null()}
    rows, num_read = read_interactions(ratings, scan, min_rating, (1.0, 5.0), faults)
    movies = find_file(directory, "u.item" if is_100k else "movies.dat")
    scan_titles = partial(_scan_titles, separator="|" if is_100k else "::", encoding=_encoding(movies))
    items, _ = read_checked(movies, scan_titles, _TITLE_FAULTS)
    return RawData(rows.select(_FIELDS), items, num_read)


_CSV_NAMES = {"userId": "user_id", "movieId": "item_id", "rating": "rating", "timestamp": "timestamp"}


def _read_csv(ratings: Path, movies: Path, min_rating: float | None) -> RawData:
    log, titles = CsvFile.of(ratings, list(_CSV_NAMES)), CsvFile.of(movies, ["movieId", "title"])
    require_columns(ratings, log.names, list(_CSV_NAMES))
    require_columns(movies, titles.names, ["movieId", "title"])

    def scan_log(source: Path | io.BytesIO) -> pl.LazyFrame:
        texts = log.scan(source, list(_CSV_NAMES)).rename(_CSV_NAMES)
        kinds = dict(zip(_FIELDS, _TYPES, strict=True))
        return texts.select(
            *(pl.col(name).cast(kind, strict=False) for name, kind in kinds.items()),
            *(pl.col(name).alias(f"text of {name}") for name in _FIELDS),
        )

    def scan_titles(source: Path | io.BytesIO) -> pl.LazyFrame:
        item_id = pl.col("movieId").cast(pl.Int32, strict=False)
        return titles.scan(source, ["movieId", "title"]).select(item_id=item_id, title=null_if_blank(pl.col("title")))

    faults = {
        f"{theirs!r} must be a number": pl.col(f"text of {ours}").is_not_null() & pl.col(ours).is_null()
        for theirs, ours in _CSV_NAMES.items()
    }
    rows, num_read = read_interactions(ratings, scan_log, min_rating, (0.5, 5.0), faults, log.records)
    items, _ = read_checked(movies, scan_titles, _TITLE_FAULTS, records=titles.records)
    return RawData(rows.select(_FIELDS), items, num_read)


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


def _encoding(movies: Path) -> str:
    """The published titles are in Latin-1. Many programs save them again in UTF-8, which Latin-1 hardly ever is."""
    try:
        movies.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8-sig"


def _scan_titles(source: Path | io.BytesIO, separator: str, encoding: str) -> pl.LazyFrame:
    text = source.read_bytes() if isinstance(source, Path) else source.read()
    lines = pl.LazyFrame({"line": text.decode(encoding).split("\n")}).select(pl.col("line").str.strip_chars("\r "))
    parts = pl.col("line").str.splitn(separator, 3)
    return lines.filter(pl.col("line") != "").select(
        item_id=parts.struct.field("field_0").cast(pl.Int32, strict=False),
        title=null_if_blank(parts.struct.field("field_1")),
    )
