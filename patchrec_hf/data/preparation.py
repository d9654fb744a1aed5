"""Preparation: turns raw data into filtered, ordered and split interactions, and saves and shares them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi

from ..runtime.catalog import Catalog
from ..runtime.hub_files import require_token
from .filters import Filters, FilterStep, apply_filters, report_steps
from .id_columns import as_texts, unify_ids
from .interactions import (
    INTERACTIONS_NAME,
    ITEMS_NAME,
    check_items,
    count_per_user,
    order_interactions,
    read_directory,
)
from .raw import RawData
from .splits import SPLITS


_FACTS_NAME = "preparation.json"
_GROUP_SIZE = 500_000

_HUB_CARD = """---
configs:
- config_name: interactions
  data_files: interactions.parquet
  default: true
- config_name: items
  data_files: items.parquet
tags:
- recommender-systems
- patchrec
---

# {name}

Interactions with titled items, for sequential recommendation; prepared with
[patchrec-hf](https://pypi.org/project/patchrec-hf/). `load_recommendation_data("{repo_id}")` loads it.

{steps}

{splits}
"""


@dataclass(frozen=True, eq=False)
class PreparedData:
    """
    A data set from which rows can be made (see [`make_rows`]).

    Args:
        name (`str`):
            Name of the data set.
        interactions (`polars.DataFrame`):
            As [`order_interactions`] returns them, with `split` and, if known, `timestamp` (seconds).
        items (`polars.DataFrame`):
            `item_id` (whole numbers or texts) and `title`.
        users (`polars.DataFrame`, *optional*):
            `user_id` (whole numbers or texts), in ascending order.
        steps (`tuple[FilterStep, ...]`, *optional*, defaults to `()`):
            Counts of the raw data and after each filter.
        license_terms (`str`, *optional*):
            Terms of the public data set from which this one was made.
        ties (`"stable"` or `"release"`, *optional*):
            Order of simultaneous interactions (see [`order_interactions`]), if it is known.
    """

    name: str
    interactions: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame | None = None
    steps: tuple[FilterStep, ...] = ()
    license_terms: str | None = None
    ties: str | None = None

    @property
    def catalog(self) -> Catalog:
        """The items as a [`Catalog`], built anew at each access."""
        return Catalog.from_frame(self.items)

    def save(self, directory: str | Path) -> None:
        """
        Writes Parquet files that [`load_recommendation_data`] reads. The directory appears when all files are written.

        Args:
            directory (`str` or `pathlib.Path`):
                Directory to create. It may exist if it is empty.

        Raises:
            FileExistsError: If the directory exists and is not empty.
        """
        directory = Path(directory)
        if directory.is_dir() and any(directory.iterdir()):
            raise FileExistsError(f"{directory} is not empty. Choose another directory, or delete its files.")
        part = directory.with_name(f"{directory.name}.part-{os.getpid()}")
        part.mkdir(parents=True)
        try:
            _write_by_users(self.interactions, part / INTERACTIONS_NAME)
            self.items.write_parquet(part / ITEMS_NAME)
            if self.users is not None:
                self.users.write_parquet(part / "users.parquet")
            facts = {
                "name": self.name,
                "terms": self.license_terms,
                "steps": [asdict(step) for step in self.steps],
                "ties": self.ties,
            }
            (part / _FACTS_NAME).write_text(json.dumps(facts, indent=2), encoding="utf-8")
            if directory.is_dir():
                directory.rmdir()
            part.rename(directory)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise

    @classmethod
    def load(cls, directory: str | Path) -> PreparedData:
        """
        Reads a directory with `interactions.parquet` and `items.parquet` (see [`read_directory`]).

        Raises:
            FileNotFoundError: If one of the two files is missing.
            ValueError: If a table fails its check.
        """
        directory = Path(directory)
        interactions, items = read_directory(directory)
        users = directory / "users.parquet"
        facts = _read_facts(directory)
        return cls(
            facts["name"],
            interactions,
            items,
            pl.read_parquet(users) if users.is_file() else None,
            tuple(FilterStep(**step) for step in facts["steps"]),
            facts["terms"],
            facts["ties"],
        )

    def with_split(self, split: Callable[[pl.DataFrame], pl.DataFrame]) -> PreparedData:
        """Returns the same data, split by another function."""
        return replace(self, interactions=split(self.interactions.drop("split", strict=False)))

    def push_to_hub(self, repo_id: str, private: bool | None = None, token: str | None = None) -> str:
        """
        Uploads your own data to the Hub as a data set with a card. [`load_recommendation_data`] loads it by its name.

        Args:
            repo_id (`str`):
                Name of the data set on the Hub, as `"user/name"`.
            private (`bool`, *optional*):
                Whether only its owners can see the data set.
            token (`str`, *optional*):
                Token for the Hub. If not given, the one stored by `hf auth login`.

        Returns:
            `str`: the address of the data set.

        Raises:
            ValueError: If the data was made from a public data set (`license_terms` is set), which is not yours to
                pass on, or there is no token.
        """
        if self.license_terms is not None:
            raise ValueError(
                f"{self.name} was made from a public data set, which is not yours to pass on. {self.license_terms} "
                "Share your settings instead: everybody who uses them prepares the same rows."
            )
        require_token(token)
        api = HfApi(token=token)
        url = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "data"
            self.save(folder)
            counts = self.interactions["split"].cast(pl.String).value_counts()
            lengths = dict(counts.iter_rows())
            splits = [f"| {split} | {lengths.get(split, 0):,} |" for split in SPLITS]
            card = _HUB_CARD.format(
                name=self.name,
                repo_id=repo_id,
                steps=report_steps(list(self.steps)) if self.steps else "",
                splits="\n".join(["| split | interactions |", "|---|---|", *splits]),
            )
            (folder / "README.md").write_text(card, encoding="utf-8")
            api.upload_folder(repo_id=url.repo_id, repo_type="dataset", folder_path=folder)
        return str(url)


def prepare(
    name: str,
    raw: RawData,
    filters: Filters,
    split: Callable[[pl.DataFrame], pl.DataFrame],
    title_rule: Callable[[str], str] | None = None,
    ties: str = "stable",
    keeps_all_items: bool = False,
    license_terms: str | None = None,
) -> PreparedData:
    """
    Prepares raw data: filters it, rewrites titles, and orders and splits the interactions. Ids stay as they are in
    the raw data: whole numbers, if all of them are written so, and otherwise texts.

    Args:
        name, license_terms:
            As for [`PreparedData`].
        raw ([`RawData`]):
            Raw data, read with the `min_rating` of `filters`.
        filters ([`Filters`]):
            The filters to apply.
        split (`Callable[[polars.DataFrame], polars.DataFrame]`):
            Function that adds the column `split`, such as [`temporal_split`].
        title_rule (`Callable[[str], str]`, *optional*):
            Function that turns a published title into the title to use. Titles stay unchanged if not given.
        ties (`"stable"` or `"release"`, *optional*, defaults to `"stable"`):
            See [`order_interactions`].
        keeps_all_items (`bool`, *optional*, defaults to `False`):
            Whether items without interactions stay in the catalog, whatever the filters say.

    Returns:
        [`PreparedData`]

    Raises:
        ValueError: If an item has no title, the filters leave nothing, or a split is empty.
    """
    interactions, items = unify_ids(raw.interactions, raw.items)
    items = items.drop_nulls("title").unique("item_id", keep="first", maintain_order=True)
    rows, steps, kept_items = apply_filters(interactions, items["item_id"], filters)
    if not keeps_all_items:
        items = items.filter(pl.col("item_id").is_in(kept_items.implode()))
    if title_rule is not None:
        items = items.with_columns(title=pl.Series([title_rule(title) for title in items["title"]], dtype=pl.String))
    order = "position" if "position" in rows.columns else "timestamp"
    rows = order_interactions(rows.select("user_id", "item_id", order), ties)  # type: ignore[arg-type]
    users = rows.select(pl.col("user_id").unique(maintain_order=True))
    if raw.ticks_per_second > 1:  # only after sorting, which uses the order within a second
        rows = rows.with_columns(pl.col("timestamp") // raw.ticks_per_second)
    items = as_texts(items)
    check_items(items)
    reading = [FilterStep(step, **counts) for step, counts in {"as read": raw.num_read, **raw.num_left}.items()]
    return PreparedData(name, split(rows), items, users, (*reading, *steps), license_terms, ties)


def write_sequences(interactions: Path, target: Path) -> None:
    """
    Writes one row per user, with the lists of items, times and splits, oldest first. Memory holds one row group, which
    has whole users.

    Args:
        interactions (`pathlib.Path`):
            The interactions, as [`PreparedData.save`] writes them.
        target (`pathlib.Path`):
            The Parquet file to write.
    """
    with ExitStack() as stack:
        file = stack.enter_context(pq.ParquetFile(interactions))
        names = [name for name in ("item_id", "timestamp", "split") if name in file.schema_arrow.names]
        writer = None
        for group in range(file.num_row_groups):
            rows = pl.DataFrame(file.read_row_group(group, ["user_id", *names]))
            if "split" in names:  # the same type in each group
                rows = rows.with_columns(pl.col("split").cast(pl.String))
            sequences = rows.group_by("user_id", maintain_order=True).agg(*names).to_arrow()
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(target, sequences.schema, compression="zstd"))
            writer.write_table(sequences)


def ties_of_prepared(directory: Path) -> str | None:
    """Returns how a directory of prepared data orders simultaneous interactions; `None` if it does not say so."""
    ties: str | None = _read_facts(directory)["ties"]
    return ties


def _read_facts(directory: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": directory.name, "terms": None, "steps": [], "ties": None}
    if (directory / _FACTS_NAME).is_file():
        facts |= json.loads((directory / _FACTS_NAME).read_text(encoding="utf-8"))
    return facts


def _write_by_users(ordered: pl.DataFrame, path: Path) -> None:
    """Writes row groups that hold whole users, so that groups can be read, shuffled and distributed one by one."""
    ends = np.cumsum(count_per_user(ordered))
    cuts = ends[np.unique(np.searchsorted(ends, np.arange(_GROUP_SIZE, len(ordered), _GROUP_SIZE)))]
    starts = [0, *cuts.tolist()]
    schema = ordered[:0].to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    # Store differences between rows: ids and positions of a sorted table hardly change from row to row.
    encoding = {field.name: "DELTA_BINARY_PACKED" for field in schema if pa.types.is_integer(field.type)}
    others = [name for name in schema.names if name not in encoding]
    with pq.ParquetWriter(path, schema, use_dictionary=others, column_encoding=encoding) as writer:
        for start, stop in zip(starts, [*starts[1:], len(ordered)], strict=True):
            if start < stop:
                group = ordered[start:stop].to_arrow(compat_level=pl.CompatLevel.oldest())
                writer.write_table(group, row_group_size=stop - start)
