"""Streams: make training rows while training, for data sets whose rows would not fit into memory or on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Features, IterableDataset, List, Value

from .examples import iterate_rows
from .id_columns import IdColumn
from .interactions import has_ascending_times
from .rows import TIMES_COLUMN


def stream_rows(path: Path, max_history: int = 100, min_history: int = 3, targets_per_row: int = 1) -> IterableDataset:
    """
    Streams training rows: makes them while they are read.

    Args:
        path (`pathlib.Path`):
            `interactions.parquet`, as [`PreparedData.save`] writes it: each row group holds whole users.
        max_history, min_history, targets_per_row:
            As for [`make_rows`].

    Returns:
        [`~datasets.IterableDataset`]: the same rows of `train` as [`make_rows`] makes, in the same order, with one
        shard per row group. Shuffle it, because the rows of a user follow each other.
    """
    settings = {"max_history": max_history, "min_history": min_history, "targets_per_row": targets_per_row}
    file = pq.ParquetFile(path)
    groups = list(range(file.metadata.num_row_groups))
    user, item = (
        Value("int64" if pa.types.is_integer(file.schema_arrow.field(name).type) else "large_string")
        for name in ("user_id", "item_id")
    )
    features = Features({"user_id": user, "item_ids": List(item), "target_positions": List(Value("int64"))})
    has_times = has_ascending_times(pl.scan_parquet(path))
    if has_times:
        features[TIMES_COLUMN] = List(Value("int64"))
    arguments = {"path": str(path), "groups": groups, "settings": settings, "has_times": has_times}
    return IterableDataset.from_generator(_generate, features=features, gen_kwargs=arguments)


def _generate(path: str, groups: list[int], settings: dict[str, int], has_times: bool) -> Iterator[dict[str, Any]]:
    file = pq.ParquetFile(path)
    for group in groups:
        table = file.read_row_group(group, use_threads=False)
        users, items = (IdColumn.of_arrow(table[name]) for name in ("user_id", "item_id"))
        positions = table["position"].to_numpy()
        is_in_split = pc.equal(table["split"].cast(pa.string()), "train").to_numpy()
        times = table["timestamp"].cast(pa.int64()).to_numpy() if has_times else None
        for batch in iterate_rows(users, items, positions, is_in_split, **settings, times=times):
            yield from batch.to_pylist()
