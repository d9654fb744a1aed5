"""Loading: turns the name or path of a data set into rows and a catalog."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, DatasetDict, IterableDataset
from datasets.fingerprint import Hasher

from ..runtime.catalog import Catalog
from .cache import Preparation, Split, prepare_in_cache, prepare_sample
from .downloads import cache_directory
from .examples import make_rows
from .files import make_once
from .filters import Filters
from .frames import Frame, FrameLike, read_frame
from .interactions import INTERACTIONS_NAME, ITEMS_NAME
from .keywords import name_nearest_keyword
from .preparation import PreparedData
from .row_facts import keep_facts
from .sources import TitleRule
from .splits import SPLITS
from .streams import stream_rows
from .table_options import TableOptions


_ROWS_VERSION = 1  # raise this number when the same prepared data and settings give other rows


@name_nearest_keyword
def load_recommendation_data(
    name_or_path: str | Path | FrameLike,
    max_history: int = 100,
    min_history: int = 3,
    targets_per_row: int = 1,
    *,
    filters: Filters | Mapping[str, Any] | None = None,
    split: Split | None = None,
    ties: Literal["stable", "release"] | None = None,
    title_rule: TitleRule | None = None,
    columns: Mapping[str, str | None] | None = None,
    items: str | Path | FrameLike | None = None,
    time_unit: str = "s",
    date_format: str | None = None,
    separator: str | None = None,
    encoding: str | None = None,
    quote_char: str | None = None,
    has_header: bool = True,
    item_columns: Mapping[str, str] | None = None,
    streaming: bool = False,
    cache_dir: str | Path | None = None,
) -> tuple[DatasetDict | dict[str, Dataset | IterableDataset], Catalog]:
    """
    Loads a data set as rows for training and evaluation. The rows are kept in the cache, under a key made of file
    contents and settings.

    Args:
        name_or_path (`str`, `pathlib.Path` or a data frame):
            See [`prepare_data`].
        max_history (`int`, *optional*, defaults to `100`):
            Number of latest earlier items that a row holds at most.
        min_history (`int`, *optional*, defaults to `3`):
            An interaction with fewer earlier ones is no target.
        targets_per_row (`int`, *optional*, defaults to `1`):
            Number of consecutive interactions of a user that a training row predicts at most (see [`make_rows`]). 1
            gives sliding windows.
        filters, split, ties, title_rule, columns, items, time_unit, date_format, separator, encoding, quote_char,
        has_header, item_columns (*optional*):
            See [`prepare_data`].
        streaming (`bool`, *optional*, defaults to `False`):
            Whether training rows are made while training instead of kept in the cache. The trainers then need
            `max_steps`.
        cache_dir (`str` or `pathlib.Path`, *optional*):
            See [`prepare_data`].

    Returns:
        `tuple[DatasetDict, Catalog]`: the rows of `train`, `validation` and `test` (see [`make_rows`]), and the
        items. With `streaming`, the first is a `dict` in which `train` is a [`~datasets.IterableDataset`].

    Raises:
        FileNotFoundError: If there is no such data set, or it lacks a file.
        PermissionError: If the cache is not writable.
        ConnectionError: If a download failed.
        ValueError: If a file is not as described (the message names the line), a split is empty, or a setting is out
            of its range or does not apply to the data set.
        TypeError: If the data, `items` or `filters` is of no known type, or a keyword is unknown.
        KeyError: If the interactions hold an item that is not among the items.

    Example:
    ```python
    >>> splits, catalog = load_recommendation_data("ml-1m", max_history=50)
    >>> splits, catalog = load_recommendation_data("clicks.csv", items="products.csv", columns={"item_id": "sku"})
    >>> splits, catalog = load_recommendation_data(pandas.read_sql(query, connection), items=products)
    ```
    """
    row_settings: dict[str, Any] = {
        "max_history": max_history,
        "min_history": min_history,
        "targets_per_row": targets_per_row,
    }
    data = _name_path_or_frame(name_or_path)
    options = TableOptions(columns, time_unit, date_format, separator, encoding, quote_char, has_header, item_columns)
    preparation = Preparation(filters, split, ties, title_rule, options, items)
    if data == "sample" and not streaming:
        sample = prepare_sample(preparation)
        catalog = sample.catalog
        return make_rows(sample.interactions, catalog, **row_settings), catalog
    cache = cache_directory(cache_dir)
    prepared = prepare_in_cache(data, cache, preparation)
    catalog = Catalog.from_parquet(prepared / ITEMS_NAME)
    kept = SPLITS[1:] if streaming else SPLITS

    def make(directory: Path) -> None:
        interactions = PreparedData.load(prepared).interactions
        make_rows(interactions, catalog, **row_settings, directory=directory, splits=kept)

    key = Hasher.hash([row_settings, kept, _ROWS_VERSION])
    directory = make_once(cache / "examples" / f"{prepared.name}-{key}", make)
    splits: dict[str, Any] = {name: Dataset.from_file(str(directory / f"{name}.arrow")) for name in kept}
    if streaming:
        splits = {"train": stream_rows(prepared / INTERACTIONS_NAME, **row_settings), **splits}
    for rows in splits.values():
        keep_facts(rows, catalog, max_history)
    return splits if streaming else DatasetDict(splits), catalog


@name_nearest_keyword
def prepare_data(
    name_or_path: str | Path | FrameLike,
    *,
    filters: Filters | Mapping[str, Any] | None = None,
    split: Split | None = None,
    ties: Literal["stable", "release"] | None = None,
    title_rule: TitleRule | None = None,
    columns: Mapping[str, str | None] | None = None,
    items: str | Path | FrameLike | None = None,
    time_unit: str = "s",
    date_format: str | None = None,
    separator: str | None = None,
    encoding: str | None = None,
    quote_char: str | None = None,
    has_header: bool = True,
    item_columns: Mapping[str, str] | None = None,
    cache_dir: str | Path | None = None,
) -> PreparedData:
    """
    Prepares a data set: reads and filters it, and orders and splits the interactions. The ids of users and items stay
    as they are. The result is kept in the cache, under a key made of file contents and settings.

    Args:
        name_or_path (`str`, `pathlib.Path` or a data frame):
            One of
            - a public data set: `"ml-100k"`, `"ml-1m"`, `"ml-latest-small"`, `"ml-32m"`, `"goodreads"`,
              `"goodreads/<genre>"`, `"amazon-2023/<Category>"`; or a directory or zip archive with its files;
            - your own log as a file: CSV, TSV, JSON lines or Parquet (see [`read_tables`]);
            - your own log as a data frame: of polars (also a lazy one) or of pandas (without its index), a table of
              Arrow, or a [`~datasets.Dataset`];
            - prepared data: a directory with `interactions.parquet` and `items.parquet` (see [`read_directory`]), or
              the name of such a data set on the Hub;
            - `"sample"`, the embedded data set (synthetic readers of real books).
        filters ([`Filters`] or `Mapping[str, Any]`, *optional*):
            Filters to apply. If not given: the paper's filters for its data sets; for others, only repeated and
            untitled rows are dropped. A mapping changes single settings of these defaults.
        split (`Callable[[polars.DataFrame], polars.DataFrame]`, *optional*):
            [`temporal_split`], [`leave_one_out_split`], [`user_ratio_split`], one of these with other `cuts` through
            `functools.partial`, or another function that adds the column `split`. If not given, prepared data keeps
            its own split, and all other data gets the paper's [`temporal_split`].
        ties (`"stable"` or `"release"`, *optional*):
            Order of a user's interactions that share a time: their order in the file, or their order in the paper's
            released files (see [`release_order`]). If not given: `"stable"` for raw data; prepared data keeps the
            order that it has.
        title_rule (`Callable[[str], str]`, *optional*):
            Function that turns a published title into the title to use. If not given: [`clean_movie_title`] for
            MovieLens, and unchanged titles for all other data. `str` leaves titles unchanged, [`tidy_title`] cleans
            them.
        columns, time_unit, date_format, separator, encoding, quote_char, has_header, item_columns (*optional*):
            See [`TableOptions`]. For your own logs; `columns` also for Goodreads.
        items (`str`, `pathlib.Path` or a data frame, *optional*):
            The titles of your own log, if the log does not hold them.
        cache_dir (`str` or `pathlib.Path`, *optional*):
            Directory for downloads and prepared data. If not given: the environment variable `PATCHREC_HF_CACHE`, or
            else the user's cache directory.

    Returns:
        [`PreparedData`]

    Raises:
        FileNotFoundError: If there is no such data set, or it lacks a file.
        PermissionError: If the cache is not writable.
        ConnectionError: If a download failed.
        ValueError: If a file is not as described (the message names the line), a download's checksum differs, an item
            has no title, no interaction is left, a split is empty, or an argument does not apply to the data set.
        TypeError: If the data, `items` or `filters` is of no known type, or a keyword is unknown.
    """
    data = _name_path_or_frame(name_or_path)
    options = TableOptions(columns, time_unit, date_format, separator, encoding, quote_char, has_header, item_columns)
    preparation = Preparation(filters, split, ties, title_rule, options, items)
    if data == "sample":
        return prepare_sample(preparation)
    return PreparedData.load(prepare_in_cache(data, cache_directory(cache_dir), preparation))


def _name_path_or_frame(data: str | Path | FrameLike) -> str | Path | Frame:
    if isinstance(data, str):
        return data
    return Path(data) if isinstance(data, os.PathLike) else read_frame(data, "The data frame")
