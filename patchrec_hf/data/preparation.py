"""Preparation: raw data → filtered, numbered, ordered and split interactions; kept, and shared."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
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
from .interactions import count_per_user, order_interactions, read_directory
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
    A data set that is ready to make example rows of.

    Args:
        name (`str`):
            What to call it.
        interactions (`polars.DataFrame`):
            As [`order_interactions`] returns them, with `split` and, if known, `timestamp` (seconds).
        items (`polars.DataFrame`):
            `item_id` and `title`; and `original_id` where the raw ids were no numbers.
        users (`polars.DataFrame`, *optional*):
            `user_id`, and `original_id` where the raw ids were no numbers.
        steps (`tuple[FilterStep, ...]`, *optional*, defaults to `()`):
            What the filters left, from the raw data on.
        license_terms (`str`, *optional*):
            The terms of the public data set that it was made of.
    """

    name: str
    interactions: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame | None = None
    steps: tuple[FilterStep, ...] = ()
    license_terms: str | None = None

    @property
    def catalog(self) -> Catalog:
        """The items as a [`Catalog`]."""
        return Catalog.from_frame(self.items)

    def save(self, directory: str | Path) -> None:
        """
        Writes Parquet files that [`load_recommendation_data`] reads. The directory appears when all of them are there.

        Raises:
            FileExistsError: If the directory exists and is not empty.
        """
        directory = Path(directory)
        if directory.is_dir() and any(directory.iterdir()):
            raise FileExistsError(f"{directory} is not empty. Choose another directory, or empty it.")
        part = directory.with_name(f"{directory.name}.part-{os.getpid()}")
        part.mkdir(parents=True)
        try:
            _write_by_users(self.interactions, part / "interactions.parquet")
            self.items.write_parquet(part / "items.parquet")
            if self.users is not None:
                self.users.write_parquet(part / "users.parquet")
            facts = {"name": self.name, "terms": self.license_terms, "steps": [asdict(step) for step in self.steps]}
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
            FileNotFoundError: If one of the two is missing.
            ValueError: If a table is not as described.
        """
        directory = Path(directory)
        interactions, _ = read_directory(directory)
        items = pl.read_parquet(directory / "items.parquet")
        users = directory / "users.parquet"
        facts: dict[str, Any] = {"name": directory.name, "terms": None, "steps": []}
        if (directory / _FACTS_NAME).is_file():
            facts = json.loads((directory / _FACTS_NAME).read_text(encoding="utf-8"))
        return cls(
            facts["name"],
            interactions,
            items,
            pl.read_parquet(users) if users.is_file() else None,
            tuple(FilterStep(**step) for step in facts["steps"]),
            facts["terms"],
        )

    def with_split(self, split: Callable[[pl.DataFrame], pl.DataFrame]) -> PreparedData:
        """The same data, split by another rule."""
        return replace(self, interactions=split(self.interactions.drop("split", strict=False)))

    def push_to_hub(self, repo_id: str, private: bool | None = None, token: str | None = None) -> str:
        """
        Shares data of one's own as a data set on the Hub, with a card. [`load_recommendation_data`] loads it by name.

        Args:
            repo_id (`str`):
                Its name, as `"user/name"`.
            private (`bool`, *optional*):
                Whether only its owners see it.
            token (`str`, *optional*):
                The Hub's; that of `hf auth login` if not given.

        Returns:
            `str`: its address.

        Raises:
            ValueError: If it was made of a public data set whose terms forbid to pass it on, or there is no token.
        """
        if self.license_terms is not None:
            raise ValueError(
                f"{self.name} was made of a public data set that is not yours to pass on. {self.license_terms} "
                "Share the settings instead: with the same settings, everybody prepares the same rows."
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
    Prepares raw data: filters, titles, numbers, order, split.

    Args:
        name, license_terms:
            As for [`PreparedData`].
        raw ([`RawData`]):
            Read with the filters' `min_rating`.
        filters ([`Filters`]):
            What to keep.
        split (`Callable[[polars.DataFrame], polars.DataFrame]`):
            Adds the column `split`: [`temporal_split`] or another.
        title_rule (`Callable[[str], str]`, *optional*):
            Makes a title of the published one; titles stay as they are if not given.
        ties (`"stable"` or `"release"`, *optional*, defaults to `"stable"`):
            See [`order_interactions`].
        keeps_all_items (`bool`, *optional*, defaults to `False`):
            Whether items without interactions stay in the catalog.

    Returns:
        [`PreparedData`]

    Raises:
        ValueError: If an item has no title, the filters leave nothing, or a split is empty.
    """
    items = raw.items.drop_nulls("title").unique("item_id", keep="first", maintain_order=True)
    rows, steps = apply_filters(raw.interactions, items["item_id"], filters)
    if not keeps_all_items:
        items = items.filter(pl.col("item_id").is_in(rows["item_id"].unique().implode()))
    if title_rule is not None:
        items = items.with_columns(title=pl.Series([title_rule(title) for title in items["title"]], dtype=pl.String))
    users = rows.select(pl.col("user_id").unique()).sort(pl.col("user_id").cast(pl.String))
    rows, users = _number(rows, "user_id", users)
    rows, items = _number(rows, "item_id", items)
    rows = order_interactions(rows.select("user_id", "item_id", "timestamp"), ties)  # type: ignore[arg-type]
    if raw.ticks_per_second > 1:  # after sorting: within a second, they tell the order
        rows = rows.with_columns(pl.col("timestamp") // raw.ticks_per_second)
    Catalog.from_frame(items)
    read = FilterStep("as read", **raw.num_read)
    return PreparedData(name, split(rows), items, users, (read, *steps), license_terms)


def _write_by_users(ordered: pl.DataFrame, path: Path) -> None:
    """A row group holds whole users, so that groups can be read, shuffled and shared out one by one."""
    ends = np.cumsum(count_per_user(ordered))
    cuts = ends[np.unique(np.searchsorted(ends, np.arange(_GROUP_SIZE, len(ordered), _GROUP_SIZE)))]
    starts = [0, *cuts.tolist()]
    schema = ordered[:0].to_arrow().schema
    # Differences from row to row, as ids and positions of a sorted table hardly change.
    encoding = {field.name: "DELTA_BINARY_PACKED" for field in schema if pa.types.is_integer(field.type)}
    others = [name for name in schema.names if name not in encoding]
    with pq.ParquetWriter(path, schema, use_dictionary=others, column_encoding=encoding) as writer:
        for start, stop in zip(starts, [*starts[1:], len(ordered)], strict=True):
            if start < stop:
                writer.write_table(ordered[start:stop].to_arrow(), row_group_size=stop - start)


def _number(rows: pl.DataFrame, column: str, table: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Numbers for ids that are none, in the order of the table."""
    if rows[column].dtype.is_integer():
        return rows, table
    numbered = table.with_row_index("number").with_columns(pl.col("number").cast(pl.Int64))
    rows = rows.join(numbered.select(column, "number"), on=column, how="left", maintain_order="left")
    others = [name for name in table.columns if name != column]
    table = numbered.select(pl.col("number").alias(column), *others, original_id=pl.col(column).cast(pl.String))
    return rows.drop(column).rename({"number": column}), table
