"""Streams: make training rows while training, for data sets whose rows would not fit into memory or on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Features, IterableDataset, List, Value

from .examples import iterate_rows


_FEATURES = Features(
    {"user_id": Value("int64"), "item_ids": List(Value("int64")), "target_positions": List(Value("int64"))}
)


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
    groups = list(range(pq.ParquetFile(path).metadata.num_row_groups))
    return IterableDataset.from_generator(
        _generate, features=_FEATURES, gen_kwargs={"path": str(path), "groups": groups, "settings": settings}
    )


def _generate(path: str, groups: list[int], settings: dict[str, int]) -> Iterator[dict[str, Any]]:
    file = pq.ParquetFile(path)
    for group in groups:
        table = file.read_row_group(group, use_threads=False)
        users, items, positions = (table[name].to_numpy() for name in ("user_id", "item_id", "position"))
        is_in_split = pc.equal(table["split"].cast(pa.string()), "train").to_numpy()
        for batch in iterate_rows(users, items, positions, is_in_split, **settings):
            yield from batch.to_pylist()
