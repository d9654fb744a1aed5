"""Loading: turns the name or path of a data set into rows and a catalog."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl
from datasets import Dataset, DatasetDict, IterableDataset
from datasets.fingerprint import Hasher
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers.utils import logging

from ..runtime.catalog import Catalog
from .balance import find_heavy_users
from .downloads import cache_directory, log_terms
from .examples import make_rows
from .files import make_once
from .filters import Filters, choose_filters, report_steps
from .frames import Frame, FrameLike, read_frame
from .interactions import INTERACTIONS_NAME, ITEMS_NAME, PREPARED_NAMES, order_interactions
from .keywords import name_nearest_keyword, nearest_file
from .preparation import PreparedData, prepare
from .row_facts import keep_facts
from .sample import generate_sample_interactions, load_sample_items
from .sources import TitleRule, find_source
from .splits import SPLITS, temporal_split
from .streams import stream_rows
from .tables import TableOptions


logger = logging.get_logger(__name__)

Split = Callable[[pl.DataFrame], pl.DataFrame]

_CACHE_VERSION = 2  # raise this number when the same settings give other rows


@name_nearest_keyword
def load_recommendation_data(
    name_or_path: str | Path | FrameLike,
    max_history: int = 100,
    min_history: int = 3,
    targets_per_row: int = 1,
    *,
    filters: Filters | Mapping[str, Any] | None = None,
    split: Split | None = None,
    ties: Literal["stable", "release"] = "stable",
    title_rule: TitleRule | None = None,
    columns: Mapping[str, str] | None = None,
    items: str | Path | FrameLike | None = None,
    time_unit: str = "s",
    date_format: str | None = None,
    separator: str | None = None,
    encoding: str | None = None,
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
        filters, split, ties, title_rule, columns, items, time_unit, date_format, separator, encoding (*optional*):
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
    options = TableOptions(columns, time_unit, date_format, separator, encoding)
    preparation = _Preparation(filters, split, ties, title_rule, options, items)
    if data == "sample" and not streaming:
        sample = _prepare_sample(preparation)
        catalog = sample.catalog
        return make_rows(sample.interactions, catalog, **row_settings), catalog
    cache = cache_directory(cache_dir)
    prepared = _prepare_in_cache(data, cache, preparation)
    catalog = Catalog.from_parquet(prepared / ITEMS_NAME)
    kept = SPLITS[1:] if streaming else SPLITS

    def make(directory: Path) -> None:
        interactions = PreparedData.load(prepared).interactions
        make_rows(interactions, catalog, **row_settings, directory=directory, splits=kept)

    directory = make_once(cache / "examples" / f"{prepared.name}-{Hasher.hash([row_settings, kept])}", make)
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
    ties: Literal["stable", "release"] = "stable",
    title_rule: TitleRule | None = None,
    columns: Mapping[str, str] | None = None,
    items: str | Path | FrameLike | None = None,
    time_unit: str = "s",
    date_format: str | None = None,
    separator: str | None = None,
    encoding: str | None = None,
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
        ties (`"stable"` or `"release"`, *optional*, defaults to `"stable"`):
            Order of a user's interactions that share a time: their order in the file, or their order in the paper's
            released files (see [`release_order`]).
        title_rule (`Callable[[str], str]`, *optional*):
            Function that turns a published title into the title to use. If not given: [`clean_movie_title`] for
            MovieLens, and unchanged titles for all other data. `str` leaves titles unchanged, [`tidy_title`] cleans
            them.
        columns, time_unit, date_format, separator, encoding (*optional*):
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
    options = TableOptions(columns, time_unit, date_format, separator, encoding)
    preparation = _Preparation(filters, split, ties, title_rule, options, items)
    if data == "sample":
        return _prepare_sample(preparation)
    return PreparedData.load(_prepare_in_cache(data, cache_directory(cache_dir), preparation))


@dataclass(frozen=True)
class _Preparation:
    """The settings of [`prepare_data`] that change its result."""

    filters: Filters | Mapping[str, Any] | None = None
    split: Split | None = None
    ties: Literal["stable", "release"] = "stable"
    title_rule: TitleRule | None = None
    options: TableOptions = field(default_factory=TableOptions)
    items: str | Path | FrameLike | None = None

    def check_only_split(self, name: str) -> None:
        """
        Checks that no setting but `split` is given, for data that is already prepared.

        Args:
            name (`str`):
                Name of the data, for the error message.

        Raises:
            ValueError: If another setting is given.
        """
        others = (self.filters or None, self.title_rule, self.items)
        is_default = self.ties == "stable" and self.options == TableOptions()
        if not is_default or any(other is not None for other in others):
            raise ValueError(
                f"{name} is prepared already: `filters`, `ties`, `title_rule`, `columns`, `items`, `time_unit`, "
                "`date_format`, `separator` and `encoding` apply to raw data only. Leave them out; only `split` "
                "applies here."
            )


def _prepare_sample(preparation: _Preparation) -> PreparedData:
    preparation.check_only_split("The sample")
    interactions = order_interactions(generate_sample_interactions())
    items = load_sample_items().select("item_id", "title")
    return PreparedData("sample", (preparation.split or temporal_split)(interactions), items)


def _name_path_or_frame(data: str | Path | FrameLike) -> str | Path | Frame:
    if isinstance(data, str):
        return data
    return Path(data) if isinstance(data, os.PathLike) else read_frame(data, "The data frame")


def _prepare_in_cache(data: str | Path | Frame, cache: Path, preparation: _Preparation) -> Path:
    """Returns the directory in the cache with the prepared data, and prepares the data if the cache lacks it."""
    directory = _find_in_cache(data, cache, preparation)
    interactions = pl.scan_parquet(directory / INTERACTIONS_NAME)
    if warning := find_heavy_users(interactions):
        logger.warning_once(warning)
    return directory


def _find_in_cache(data: str | Path | Frame, cache: Path, preparation: _Preparation) -> Path:
    split = preparation.split
    if data == "sample":
        sample = _prepare_sample(preparation)
        return make_once(cache / "prepared" / f"sample-{Hasher.hash([_CACHE_VERSION, split])}", sample.save)
    if isinstance(data, Frame):
        return _prepare_raw("frame", data, cache, preparation)
    path = Path(data).expanduser()
    name = re.sub(r"[^\w.-]+", "-", str(data) if not path.exists() else path.name)
    if not path.exists() and (snapshot := _from_hub(str(data))):
        path = snapshot
    if not any((path / file).is_file() for file in PREPARED_NAMES):
        return _prepare_raw(name, path if path.exists() else str(data), cache, preparation)
    preparation.check_only_split(str(path))

    def make(directory: Path) -> None:
        found = PreparedData.load(path)
        has_split = "split" in found.interactions.columns
        (found if has_split and split is None else found.with_split(split or temporal_split)).save(directory)

    key = _key([path / file for file in PREPARED_NAMES if (path / file).is_file()], split)
    return make_once(cache / "prepared" / f"{name}-{key}", make)


def _prepare_raw(name: str, data: str | Path | Frame, cache: Path, preparation: _Preparation) -> Path:
    options, ties = preparation.options, preparation.ties
    source = find_source(data, cache, options, preparation.items)
    if source.license_terms:
        log_terms(source.license_terms)
    filters = choose_filters(preparation.filters, source.filters)
    title_rule = preparation.title_rule or source.title_rule
    splitter = preparation.split or temporal_split

    def make(directory: Path) -> None:
        logger.info(f"Preparing {', '.join(str(file) for file in source.files)}")
        raw = source.read(filters)
        prepared = prepare(
            name, raw, filters, splitter, title_rule, ties, source.keeps_all_items, source.license_terms
        )
        logger.info(f"{name}:\n{report_steps(list(prepared.steps))}")
        prepared.save(directory)

    # The encoding changes the files themselves, which are re-encoded by now.
    read_as = replace(options, encoding=None)
    key = _key(source.files, [filters, splitter, title_rule, ties, read_as, source.keeps_all_items])
    return make_once(cache / "prepared" / f"{name}-{key}", make)


def _from_hub(name: str) -> Path | None:
    """Downloads a prepared data set from the Hub. Returns `None` if `name` cannot be the name of one."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.split("/")[0] in ("goodreads", "amazon-2023"):
        return None
    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=["*.parquet", "*.json"]))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(
            f"There is no file or directory {name!r}.{nearest_file(Path(name))} And no data set of that name could be "
            f"loaded from the Hub: {error}"
        ) from error


def _key(files: Sequence[Path | Frame], settings: Any) -> str:
    """
    Returns the cache key: a hash of the contents of files and frames, and of settings. Functions of a script and
    lambdas are hashed by their code, imported functions by their name.
    """
    digests = []
    for path in files:
        if isinstance(path, Frame):
            digests.append((str(path), path.digest()))
            continue
        with path.open("rb") as file:
            digests.append((path.name, hashlib.file_digest(file, "blake2b").hexdigest()))
    return Hasher.hash([_CACHE_VERSION, digests, settings])
