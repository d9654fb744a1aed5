"""Cache: prepares a data set once, under a key made of file contents and settings."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl
from datasets.fingerprint import Hasher
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers.utils import logging

from .balance import find_heavy_users
from .downloads import log_terms
from .files import make_once
from .filters import Filters, choose_filters, report_steps
from .frames import Frame, FrameLike
from .interactions import INTERACTIONS_NAME, PREPARED_NAMES, order_interactions
from .keywords import nearest_file
from .preparation import PreparedData, prepare, ties_of_prepared
from .sample import generate_sample_interactions, load_sample_items
from .sources import TitleRule, find_source
from .splits import temporal_split
from .table_options import TableOptions
from .ties import check_ties


logger = logging.get_logger(__name__)

Split = Callable[[pl.DataFrame], pl.DataFrame]

_CACHE_VERSION = 4  # raise this number when the same settings give other rows


@dataclass(frozen=True)
class Preparation:
    """
    The settings of [`prepare_data`] that change its result.

    Args:
        filters, split, ties, title_rule, items (*optional*):
            See [`prepare_data`].
        options ([`TableOptions`], *optional*):
            How your own tables are written.
    """

    filters: Filters | Mapping[str, Any] | None = None
    split: Split | None = None
    ties: Literal["stable", "release"] | None = None
    title_rule: TitleRule | None = None
    options: TableOptions = field(default_factory=TableOptions)
    items: str | Path | FrameLike | None = None

    def __post_init__(self) -> None:
        for name, value, example in (
            ("split", self.split, "leave_one_out_split"),
            ("title_rule", self.title_rule, "tidy_title"),
        ):
            if value is not None and not callable(value):
                raise TypeError(f"`{name}` must be a function, such as `patchrec_hf.{example}`, got {value!r}.")
        if self.ties is not None:
            check_ties(self.ties)
        choose_filters(self.filters, Filters())  # checks them before anything is downloaded or read

    def check_only_split(self, name: str, ties: str | None) -> None:
        """
        Checks that no setting but `split` is given, for data that is already prepared. `ties` may be given if the data
        has that order. A warning says so if the order is unknown and `ties` is `"stable"`.

        Args:
            name (`str`):
                Name of the data, for the error message.
            ties (`str`, *optional*):
                Order of its simultaneous interactions, if it is known.

        Raises:
            ValueError: If another setting is given.
        """
        others = (self.filters or None, self.title_rule, self.items)
        if self.options != TableOptions() or any(other is not None for other in others):
            raise ValueError(
                f"{name} is prepared already: `filters`, `ties`, `title_rule`, `columns`, `items`, `time_unit`, "
                "`date_format`, `separator`, `encoding`, `quote_char`, `has_header` and `item_columns` apply to raw "
                "data only. Leave them out; only `split` applies here."
            )
        if self.ties == "stable" and ties is None:
            logger.warning_once(
                f"{name} does not say how its simultaneous interactions are ordered. An earlier version of this "
                "library may have prepared it with `ties='release'`. To be sure of the order, prepare the data again "
                "from its raw files."
            )
        if self.ties is not None and self.ties != (ties or "stable"):
            known = "does not say how its ties are ordered" if ties is None else f"was prepared with `ties={ties!r}`"
            raise ValueError(
                f"{name} is prepared already, so its interactions have a fixed order, and `ties={self.ties!r}` cannot "
                f"change it: it {known}. Leave `ties` out, or prepare the data again from its raw files, with "
                f"`ties={self.ties!r}`."
            )


def prepare_sample(preparation: Preparation) -> PreparedData:
    """
    Prepares the embedded data set.

    Raises:
        ValueError: If a setting other than `split` is given.
    """
    preparation.check_only_split("The sample", "stable")
    interactions = order_interactions(generate_sample_interactions())
    items = load_sample_items().select("item_id", "title")
    return PreparedData("sample", (preparation.split or temporal_split)(interactions), items, ties="stable")


def prepare_in_cache(data: str | Path | Frame, cache: Path, preparation: Preparation) -> Path:
    """
    Prepares a data set if the cache lacks it.

    Args:
        data (`str`, `pathlib.Path` or [`Frame`]):
            See [`prepare_data`].
        cache (`pathlib.Path`):
            Directory for downloads and prepared data.
        preparation ([`Preparation`]):
            The settings.

    Returns:
        `pathlib.Path`: the directory in the cache with the prepared data.

    Raises:
        OSError, TypeError, ValueError: As [`prepare_data`] does.
    """
    directory = _find_in_cache(data, cache, preparation)
    interactions = pl.scan_parquet(directory / INTERACTIONS_NAME)
    if warning := find_heavy_users(interactions):
        logger.warning_once(warning)
    return directory


def _find_in_cache(data: str | Path | Frame, cache: Path, preparation: Preparation) -> Path:
    split = preparation.split
    if data == "sample":
        sample = prepare_sample(preparation)
        return make_once(cache / "prepared" / f"sample-{Hasher.hash([_CACHE_VERSION, split])}", sample.save)
    if isinstance(data, Frame):
        return _prepare_raw("frame", data, cache, preparation)
    path = Path(data).expanduser()
    name = re.sub(r"[^\w.-]+", "-", str(data) if not path.exists() else path.name)
    if not path.exists() and (snapshot := _from_hub(str(data))):
        path = snapshot
    if not any((path / file).is_file() for file in PREPARED_NAMES):
        return _prepare_raw(name, path if path.exists() else str(data), cache, preparation)
    preparation.check_only_split(str(path), ties_of_prepared(path))

    def make(directory: Path) -> None:
        found = PreparedData.load(path)
        has_split = "split" in found.interactions.columns
        (found if has_split and split is None else found.with_split(split or temporal_split)).save(directory)

    key = _key([path / file for file in PREPARED_NAMES if (path / file).is_file()], split)
    return make_once(cache / "prepared" / f"{name}-{key}", make)


def _prepare_raw(name: str, data: str | Path | Frame, cache: Path, preparation: Preparation) -> Path:
    options, ties = preparation.options, preparation.ties or "stable"
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
