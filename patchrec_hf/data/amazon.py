"""Amazon Reviews 2023, read from the files that McAuley Lab publishes."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl

from .files import columns_of, read_checked, require_columns
from .filters import Filters
from .raw import RawData, drop_blank_rows, null_if_blank, read_interactions, scan_json_lines


AMAZON_FILTERS = Filters(drop_untitled=True)
"""Drops interactions with products that have no title, or no metadata at all."""

_TYPES = {"user_id": pl.String, "parent_asin": pl.String, "rating": pl.Float32, "timestamp": pl.Int64}
_PREFIX = "meta_"


def read_amazon(directory: Path, min_rating: float | None = None) -> RawData:
    """
    Reads one category of Amazon Reviews 2023. An item is a product with all its variants (`parent_asin`).

    Args:
        directory (`pathlib.Path`):
            Directory that holds one `meta_<category>.jsonl`, and the log as `<category>.jsonl` (all reviews) or
            `<category>.csv` (the 5-core ratings). The files may lie in subdirectories and may be compressed (`.gz`).
            If the directory holds both logs, the CSV file is read.
        min_rating (`float`, *optional*):
            Interactions with a lower rating are left out.

    Returns:
        [`RawData`]: the items are all products of the category, and the timestamps are milliseconds.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is not in the published form or ends too early. The message names the line.
    """
    metadata = sorted(path for path in directory.rglob(f"{_PREFIX}*.jsonl*") if path.suffix in (".jsonl", ".gz"))
    if len(metadata) != 1:
        raise FileNotFoundError(
            f"{directory} must hold one {_PREFIX}<category>.jsonl (or .jsonl.gz), found "
            f"{[path.name for path in metadata]}."
        )
    category = metadata[0].name.removeprefix(_PREFIX).split(".")[0]
    names = [f"{category}{ending}" for ending in (".csv", ".csv.gz", ".jsonl", ".jsonl.gz")]
    log = next((path for name in names for path in sorted(directory.rglob(name))), None)
    if log is None:
        raise FileNotFoundError(f"{directory} holds none of {names}.")
    is_csv = ".csv" in log.suffixes
    if is_csv:
        require_columns(log, columns_of(log, pl.scan_csv(log)).names(), list(_TYPES))
    rows, num_read = read_interactions(
        log, _scan_csv if is_csv else _scan_reviews, min_rating, (1, 5), has_header=is_csv
    )
    items, _ = read_checked(metadata[0], _scan_products, {"parent_asin is missing": pl.col("item_id").is_null()})
    return RawData(rows, items, num_read, ticks_per_second=1000)


def _scan_csv(source: Path | io.BytesIO) -> pl.LazyFrame:
    rows = pl.scan_csv(source, schema_overrides=_TYPES).select(list(_TYPES))
    return _select_columns(drop_blank_rows(rows))


def _scan_reviews(source: Path | io.BytesIO) -> pl.LazyFrame:
    return _select_columns(scan_json_lines(source, _TYPES))


def _select_columns(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.select(
        user_id=pl.col("user_id").cast(pl.Categorical),
        item_id=pl.col("parent_asin").cast(pl.Categorical),
        rating="rating",
        timestamp="timestamp",
    )


def _scan_products(source: Path | io.BytesIO) -> pl.LazyFrame:
    return scan_json_lines(source, {"parent_asin": pl.String, "title": pl.String}).select(
        item_id=pl.col("parent_asin").cast(pl.Categorical), title=null_if_blank(pl.col("title"))
    )
