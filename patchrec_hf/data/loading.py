"""Loading: turns the name or path of a data set into rows and a catalog."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl
from datasets import Dataset, DatasetDict, IterableDataset
from datasets.fingerprint import Hasher
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers.utils import logging

from ..runtime.catalog import Catalog
from .downloads import cache_directory, log_terms
from .examples import make_rows
from .files import make_once
from .filters import Filters, report_steps
from .interactions import INTERACTIONS_NAME, ITEMS_NAME, PREPARED_NAMES, order_interactions
from .preparation import PreparedData, prepare
from .row_facts import keep_facts
from .sample import generate_sample_interactions, load_sample_items
from .sources import TitleRule, find_source
from .splits import SPLITS, temporal_split
from .streams import stream_rows


logger = logging.get_logger(__name__)

Split = Callable[[pl.DataFrame], pl.DataFrame]

_CACHE_VERSION = 2  # raise this number when the same settings give other rows


def load_recommendation_data(
    name_or_path: str | Path,
    max_history: int = 100,
    min_history: int = 3,
    targets_per_row: int = 1,
    *,
    filters: Filters | Mapping[str, Any] | None = None,
    split: Split | None = None,
    ties: Literal["stable", "release"] = "stable",
    title_rule: TitleRule | None = None,
    columns: Mapping[str, str] | None = None,
    items: str | Path | None = None,
    time_unit: str = "s",
    streaming: bool = False,
    cache_dir: str | Path | None = None,
) -> tuple[DatasetDict | dict[str, Dataset | IterableDataset], Catalog]:
    """
    Loads a data set as rows for training and evaluation. The rows are kept in the cache, under a key made of file
    contents and settings.

    Args:
        name_or_path (`str` or `pathlib.Path`):
            See [`prepare_data`].
        max_history (`int`, *optional*, defaults to `100`):
            Number of latest earlier items that a row holds at most.
        min_history (`int`, *optional*, defaults to `3`):
            An interaction with fewer earlier ones is no target.
        targets_per_row (`int`, *optional*, defaults to `1`):
            Number of consecutive interactions of a user that a training row predicts at most (see [`make_rows`]). 1
            gives sliding windows.
        filters, split, ties, title_rule, columns, items, time_unit (*optional*):
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
        KeyError: If the interactions hold an item that is not among the items.

    Example:
    ```python
    >>> splits, catalog = load_recommendation_data("ml-1m", max_history=50)
    >>> splits, catalog = load_recommendation_data("clicks.csv", items="products.csv", columns={"item_id": "sku"})
    ```
    """
    row_settings: dict[str, Any] = {
        "max_history": max_history,
        "min_history": min_history,
        "targets_per_row": targets_per_row,
    }
    preparation = _Preparation(filters, split, ties, title_rule, columns, items, time_unit)
    if name_or_path == "sample" and not streaming:
        data = _prepare_sample(preparation)
        catalog = data.catalog
        return make_rows(data.interactions, catalog, **row_settings), catalog
    cache = cache_directory(cache_dir)
    prepared = _prepare_in_cache(name_or_path, cache, preparation)
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


def prepare_data(
    name_or_path: str | Path,
    *,
    filters: Filters | Mapping[str, Any] | None = None,
    split: Split | None = None,
    ties: Literal["stable", "release"] = "stable",
    title_rule: TitleRule | None = None,
    columns: Mapping[str, str] | None = None,
    items: str | Path | None = None,
    time_unit: str = "s",
    cache_dir: str | Path | None = None,
) -> PreparedData:
    """
    Prepares a data set: reads and filters it, and orders and splits the interactions. The ids of users and items stay
    as they are. The result is kept in the cache, under a key made of file contents and settings.

    Args:
        name_or_path (`str` or `pathlib.Path`):
            One of
            - a public data set: `"ml-100k"`, `"ml-1m"`, `"ml-latest-small"`, `"ml-32m"`, `"goodreads"`,
              `"goodreads/<genre>"`, `"amazon-2023/<Category>"`; or a directory or zip archive with its files;
            - your own log: CSV, TSV, JSON lines or Parquet (see [`read_tables`]);
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
            MovieLens, and unchanged titles for all other data. `str` leaves titles unchanged.
        columns, items, time_unit (*optional*):
            See [`read_tables`]. For your own logs; `columns` also for Goodreads.
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
    """
    preparation = _Preparation(filters, split, ties, title_rule, columns, items, time_unit)
    if name_or_path == "sample":
        return _prepare_sample(preparation)
    return PreparedData.load(_prepare_in_cache(name_or_path, cache_directory(cache_dir), preparation))


@dataclass(frozen=True)
class _Preparation:
    """The settings of [`prepare_data`] that change its result."""

    filters: Filters | Mapping[str, Any] | None = None
    split: Split | None = None
    ties: Literal["stable", "release"] = "stable"
    title_rule: TitleRule | None = None
    columns: Mapping[str, str] | None = None
    items: str | Path | None = None
    time_unit: str = "s"

    def check_only_split(self, name: str) -> None:
        """
        Checks that no setting but `split` is given, for data that is already prepared.

        Args:
            name (`str`):
                Name of the data, for the error message.

        Raises:
            ValueError: If another setting is given.
        """
        if replace(self, filters=self.filters or None, split=None) != _Preparation():
            raise ValueError(
                f"{name} is prepared already: `filters`, `ties`, `title_rule`, `columns`, `items` and `time_unit` "
                "apply to raw data only. Leave them out; only `split` applies here."
            )


def _prepare_sample(preparation: _Preparation) -> PreparedData:
    preparation.check_only_split("The sample")
    interactions = order_interactions(generate_sample_interactions())
    items = load_sample_items().select("item_id", "title")
    return PreparedData("sample", (preparation.split or temporal_split)(interactions), items)


def _prepare_in_cache(name_or_path: str | Path, cache: Path, preparation: _Preparation) -> Path:
    """Returns the directory in the cache with the prepared data, and prepares the data if the cache lacks it."""
    split = preparation.split
    if name_or_path == "sample":
        data = _prepare_sample(preparation)
        return make_once(cache / "prepared" / f"sample-{Hasher.hash([_CACHE_VERSION, split])}", data.save)
    path = Path(name_or_path).expanduser()
    name = re.sub(r"[^\w.-]+", "-", str(name_or_path) if not path.exists() else path.name)
    if not path.exists() and (snapshot := _from_hub(str(name_or_path))):
        path = snapshot
    if any((path / file).is_file() for file in PREPARED_NAMES):
        preparation.check_only_split(str(path))

        def make(directory: Path) -> None:
            data = PreparedData.load(path)
            has_split = "split" in data.interactions.columns
            (data if has_split and split is None else data.with_split(split or temporal_split)).save(directory)

        key = _key([path / file for file in PREPARED_NAMES if (path / file).is_file()], split)
    else:
        columns, time_unit, ties = preparation.columns, preparation.time_unit, preparation.ties
        source = find_source(
            path if path.exists() else str(name_or_path), cache, columns, preparation.items, time_unit
        )
        if source.license_terms:
            log_terms(source.license_terms)
        given = preparation.filters
        filters = given if isinstance(given, Filters) else replace(source.filters, **(given or {}))
        title_rule = preparation.title_rule or source.title_rule
        splitter = split or temporal_split

        def make(directory: Path) -> None:
            logger.info(f"Preparing {', '.join(file.name for file in source.files)}")
            raw = source.read(filters.min_rating)
            data = prepare(
                name, raw, filters, splitter, title_rule, ties, source.keeps_all_items, source.license_terms
            )
            logger.info(f"{name}:\n{report_steps(list(data.steps))}")
            data.save(directory)

        key = _key(source.files, [filters, splitter, title_rule, ties, columns, time_unit, source.keeps_all_items])
    return make_once(cache / "prepared" / f"{name}-{key}", make)


def _from_hub(name: str) -> Path | None:
    """Downloads a prepared data set from the Hub. Returns `None` if `name` cannot be the name of one."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.split("/")[0] in ("goodreads", "amazon-2023"):
        return None
    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=["*.parquet", "*.json"]))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(
            f"There is no file or directory {name!r}, and no data set of that name could be loaded from the Hub: "
            f"{error}"
        ) from error


def _key(files: Sequence[Path], settings: Any) -> str:
    """
    Returns the cache key: a hash of file contents and settings. Functions of a script and lambdas are hashed by their
    code, imported functions by their name.
    """
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append((path.name, hashlib.file_digest(file, "blake2b").hexdigest()))
    return Hasher.hash([_CACHE_VERSION, digests, settings])
