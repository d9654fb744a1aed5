"""Amazon Reviews 2023, read from the files that McAuley Lab publishes."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import polars as pl

from .csv_files import CsvFile
from .files import is_hidden, read_checked, require_columns
from .filters import Filters
from .lines import json_lines_of
from .raw import RawData, null_if_blank, read_interactions, scan_json_lines


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
    files = [path for path in directory.rglob("*") if not is_hidden(path.relative_to(directory))]
    metadata = sorted(path for path in files if path.name.lower().startswith(_PREFIX) and _is_json(path))
    if len(metadata) != 1:
        raise FileNotFoundError(
            f"{directory} must hold one {_PREFIX}<category>.jsonl (or .jsonl.gz), found "
            f"{[path.name for path in metadata]}."
        )
    category = metadata[0].name[len(_PREFIX) :].split(".")[0]
    names = [f"{category}{ending}" for ending in (".csv", ".csv.gz", ".jsonl", ".jsonl.gz")]
    log = next((path for name in names for path in sorted(files) if path.name.lower() == name.lower()), None)
    if log is None:
        raise FileNotFoundError(f"{directory} holds none of {names}.")
    if _is_json(log):
        rows, num_read = read_interactions(log, _scan_reviews, min_rating, (1, 5), records=json_lines_of(log))
    else:
        csv = CsvFile.of(log, list(_TYPES))
        require_columns(log, csv.names, list(_TYPES))
        faults = {
            f"{name} must be a number": pl.col(f"text of {name}").is_not_null() & pl.col(name).is_null()
            for name in ("rating", "timestamp")
        }
        scan = partial(_scan_csv, csv)
        rows, num_read = read_interactions(log, scan, min_rating, (1, 5), faults, csv.records)
        rows = rows.drop("text of rating", "text of timestamp")
    fault = {"parent_asin is missing": pl.col("item_id").is_null()}
    items, _ = read_checked(metadata[0], _scan_products, fault, records=json_lines_of(metadata[0]))
    return RawData(rows, items, num_read, ticks_per_second=1000)


def _is_json(path: Path) -> bool:
    return path.name.lower().endswith((".jsonl", ".jsonl.gz"))


def _scan_csv(csv: CsvFile, source: Path | io.BytesIO) -> pl.LazyFrame:
    texts = csv.scan(source, list(_TYPES))
    numbers = {name: pl.col(name).cast(_TYPES[name], strict=False) for name in ("rating", "timestamp")}
    return texts.select(
        user_id=pl.col("user_id").cast(pl.Categorical),
        item_id=pl.col("parent_asin").cast(pl.Categorical),
        **numbers,
        **{f"text of {name}": pl.col(name) for name in numbers},
    )


def _scan_reviews(source: Path | io.BytesIO) -> pl.LazyFrame:
    return scan_json_lines(source, _TYPES).select(
        user_id=pl.col("user_id").cast(pl.Categorical),
        item_id=pl.col("parent_asin").cast(pl.Categorical),
        rating="rating",
        timestamp="timestamp",
    )


def _scan_products(source: Path | io.BytesIO) -> pl.LazyFrame:
    return scan_json_lines(source, {"parent_asin": pl.String, "title": pl.String}).select(
        item_id=pl.col("parent_asin").cast(pl.Categorical), title=null_if_blank(pl.col("title"))
    )
