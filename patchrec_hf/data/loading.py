"""Loading: from the name or path of a data set to example rows and a catalog."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import polars as pl
from datasets import Dataset, DatasetDict
from datasets.fingerprint import Hasher
from filelock import FileLock
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers.utils import logging

from ..runtime.catalog import Catalog
from .downloads import cache_directory, say_terms
from .examples import make_rows
from .filters import Filters, report_steps
from .interactions import order_interactions
from .preparation import PreparedData, prepare
from .sample import generate_sample_interactions, load_sample_items
from .sources import TitleRule, find_source
from .splits import SPLITS, temporal_split
from .streams import stream_rows


logger = logging.get_logger(__name__)

Split = Callable[[pl.DataFrame], pl.DataFrame]

_CACHE_VERSION = 1  # to be raised when the same settings shall give other rows
_PREPARED_NAMES = ("interactions.parquet", "items.parquet")


def load_recommendation_data(
    name_or_path: str | Path,
    max_history: int = 100,
    min_history: int = 3,
    targets_per_row: int = 1,
    *,
    streaming: bool = False,
    cache_dir: str | Path | None = None,
    **preparation: Any,
) -> tuple[Any, Catalog]:
    """
    Loads a data set as example rows. They are kept in the cache, by what the files hold and by the settings.

    Args:
        name_or_path (`str` or `pathlib.Path`):
            See [`prepare_data`].
        max_history (`int`, *optional*, defaults to `100`):
            How many of the latest earlier items a row holds.
        min_history (`int`, *optional*, defaults to `3`):
            Interactions with fewer earlier ones are predicted by no row.
        targets_per_row (`int`, *optional*, defaults to `1`):
            How many consecutive interactions of a user a training row may predict (see [`make_rows`]). 1 gives
            sliding windows.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether training rows are made on the way instead of kept. The trainers then need `max_steps`.
        cache_dir (`str` or `pathlib.Path`, *optional*):
            See [`prepare_data`].
        **preparation:
            `filters`, `split`, `ties`, `title_rule`, `columns`, `items` and `time_unit` of [`prepare_data`].

    Returns:
        `tuple[DatasetDict, Catalog]`: the rows of `train`, `validation` and `test` (see [`make_rows`]), and the
        items. With `streaming`, a `dict` in which `train` is a [`~datasets.IterableDataset`].

    Raises:
        FileNotFoundError: If there is no such data set, or it lacks a file.
        PermissionError: If the cache cannot be written to.
        ConnectionError: If it could not be downloaded.
        ValueError: If a file is not as described (with the line), a split is empty, or a setting is out of its range.
        KeyError: If the items lack one of the interactions.

    Example:
    ```python
    >>> examples, catalog = load_recommendation_data("ml-1m", max_history=50)
    >>> examples, catalog = load_recommendation_data("clicks.csv", items="products.csv", columns={"item_id": "sku"})
    ```
    """
    settings: dict[str, Any] = {
        "max_history": max_history,
        "min_history": min_history,
        "targets_per_row": targets_per_row,
    }
    if name_or_path == "sample" and not streaming:
        data = prepare_data(name_or_path, **preparation)
        return make_rows(data.interactions, data.catalog, **settings), data.catalog
    cache = cache_directory(cache_dir)
    prepared = _prepare_in_cache(name_or_path, cache, **preparation)
    catalog = Catalog.from_parquet(prepared / "items.parquet")
    kept = SPLITS[1:] if streaming else SPLITS

    def make(part: Path) -> None:
        interactions = PreparedData.load(prepared).interactions
        make_rows(interactions, catalog, **settings, directory=part, splits=kept)

    directory = _make_once(cache / "examples" / f"{prepared.name}-{Hasher.hash([settings, kept])}", make)
    examples = {split: Dataset.from_file(str(directory / f"{split}.arrow")) for split in kept}
    if not streaming:
        return DatasetDict(examples), catalog
    return {"train": stream_rows(prepared / "interactions.parquet", **settings), **examples}, catalog


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
    Prepares a data set: reads, filters, numbers, orders and splits it. The result is kept in the cache, by what the
    files hold and by the settings.

    Args:
        name_or_path (`str` or `pathlib.Path`):
            One of
            - a public data set: `"ml-100k"`, `"ml-1m"`, `"ml-latest-small"`, `"ml-32m"`, `"goodreads"`,
              `"goodreads/<genre>"`, `"amazon-2023/<Category>"`; or a directory or zip archive with its files;
            - a log of one's own: CSV, TSV, JSON lines or Parquet (see [`read_tables`]);
            - prepared data: a directory with `interactions.parquet` and `items.parquet` (see [`read_directory`]), or
              the name of such a data set on the Hub;
            - `"sample"`, the embedded one (synthetic readers of real books).
        filters ([`Filters`] or `Mapping[str, Any]`, *optional*):
            What to keep. If not given: the paper's filters for its data sets, and for others nothing but repeated and
            untitled rows is left out. A mapping changes single settings of these.
        split (`Callable[[polars.DataFrame], polars.DataFrame]`, *optional*):
            [`temporal_split`], [`leave_one_out_split`], [`user_ratio_split`], one of these with other `cuts` by
            `functools.partial`, or another function that adds the column `split`. If not given, prepared data keeps
            its own split, and all else gets the paper's [`temporal_split`].
        ties (`"stable"` or `"release"`, *optional*, defaults to `"stable"`):
            In which order a user's interactions of one time come: as in the file, or as in the files of the paper's
            authors (see [`release_order`]).
        title_rule (`Callable[[str], str]`, *optional*):
            Makes a title of the published one. If not given: [`clean_movie_title`] for MovieLens, and titles as they
            are for all else. `str` leaves them as they are.
        columns, items, time_unit (*optional*):
            See [`read_tables`]; for logs of one's own.
        cache_dir (`str` or `pathlib.Path`, *optional*):
            Where downloads and prepared data are kept. If not given: the environment variable `PATCHREC_HF_CACHE`, or
            the user's own directory for caches.

    Returns:
        [`PreparedData`]

    Raises:
        FileNotFoundError: If there is no such data set, or it lacks a file.
        PermissionError: If the cache cannot be written to.
        ConnectionError: If it could not be downloaded.
        ValueError: If a file is not as described (with the line), a download's checksum differs, an item has no title,
            nothing is left, a split is empty, or an argument is not for such data.
    """
    if name_or_path == "sample":
        _refuse_raw_settings("The sample", filters, ties, title_rule, columns, items, time_unit)
        interactions = order_interactions(generate_sample_interactions())
        sample = load_sample_items().select("item_id", "title")
        return PreparedData("sample", (split or temporal_split)(interactions), sample)
    prepared = _prepare_in_cache(
        name_or_path,
        cache_directory(cache_dir),
        filters=filters,
        split=split,
        ties=ties,
        title_rule=title_rule,
        columns=columns,
        items=items,
        time_unit=time_unit,
    )
    return PreparedData.load(prepared)


def _prepare_in_cache(
    name_or_path: str | Path,
    cache: Path,
    *,
    filters: Filters | Mapping[str, Any] | None = None,
    split: Split | None = None,
    ties: Literal["stable", "release"] = "stable",
    title_rule: TitleRule | None = None,
    columns: Mapping[str, str] | None = None,
    items: str | Path | None = None,
    time_unit: str = "s",
) -> Path:
    """The directory in the cache with the prepared data."""
    if name_or_path == "sample":
        _refuse_raw_settings("The sample", filters, ties, title_rule, columns, items, time_unit)
        data = prepare_data("sample", split=split)
        return _make_once(cache / "prepared" / f"sample-{Hasher.hash([_CACHE_VERSION, split])}", data.save)
    path = Path(name_or_path).expanduser()
    name = re.sub(r"[^\w.-]+", "-", str(name_or_path) if not path.exists() else path.name)
    if not path.exists() and (snapshot := _from_hub(str(name_or_path))):
        path = snapshot
    if any((path / file).is_file() for file in _PREPARED_NAMES):
        _refuse_raw_settings(str(path), filters, ties, title_rule, columns, items, time_unit)

        def make(part: Path) -> None:
            data = PreparedData.load(path)
            has_split = "split" in data.interactions.columns
            (data if has_split and split is None else data.with_split(split or temporal_split)).save(part)

        key = _key([path / file for file in _PREPARED_NAMES if (path / file).is_file()], split)
    else:
        source = find_source(path if path.exists() else str(name_or_path), cache, columns, items, time_unit)
        if source.license_terms:
            say_terms(source.license_terms)
        kept = filters if isinstance(filters, Filters) else replace(source.filters, **(filters or {}))
        rule = title_rule or source.title_rule
        splitter = split or temporal_split

        def make(part: Path) -> None:
            logger.info(f"Preparing {', '.join(file.name for file in source.files)}")
            raw = source.read(kept.min_rating)
            data = prepare(name, raw, kept, splitter, rule, ties, source.keeps_all_items, source.license_terms)
            logger.info(f"{name}:\n{report_steps(list(data.steps))}")
            data.save(part)

        key = _key(source.files, [kept, splitter, rule, ties, columns, time_unit, source.keeps_all_items])
    return _make_once(cache / "prepared" / f"{name}-{key}", make)


def _refuse_raw_settings(name: str, filters: Any, *others: Any) -> None:
    if filters or others != ("stable", None, None, None, "s"):
        raise ValueError(
            f"{name} is prepared already: `filters`, `ties`, `title_rule`, `columns`, `items` and `time_unit` are for "
            "raw data. Only `split` can be given."
        )


def _from_hub(name: str) -> Path | None:
    """A prepared data set on the Hub, if the name can be one's and none of a public data set."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.split("/")[0] in ("goodreads", "amazon-2023"):
        return None
    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=["*.parquet", "*.json"]))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(
            f"There is no file or directory {name!r}, and no data set of that name could be had from the Hub: {error}"
        ) from error


def _key(files: Sequence[Path], settings: Any) -> str:
    """Of what the files hold and of the settings; of functions, their code or, if they are imported, their name."""
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append((path.name, hashlib.file_digest(file, "blake2b").hexdigest()))
    return Hasher.hash([_CACHE_VERSION, digests, settings])


def _make_once(directory: Path, make: Callable[[Path], None]) -> Path:
    """Makes a directory, unless it is there: by one process, and all of it or nothing."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{directory}.lock"):
        if not directory.is_dir():
            part = directory.with_name(f"{directory.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            make(part)
            part.rename(directory)
    return directory
