"""Rows: the columns of a row for training or evaluation, and their checks."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NotRequired, TypedDict

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, IterableDataset

from .id_columns import is_arrow_id_type


ROW_COLUMNS = ("user_id", "item_ids", "target_positions")
TIMES_COLUMN = "timestamps"
"""The optional column of rows that holds the time of each item."""
_CHECKSUM_ROWS = 100
CHUNK_ROWS = 10_000
"""Number of rows that are read into memory, or made, at once."""


class Row(TypedDict):
    """
    Items of one user, and which of them to predict. Further columns are ignored.

    Args:
        user_id (`int` or `str`):
            The user whose items these are.
        item_ids (`list[int]` or `list[str]`):
            Item ids, oldest first.
        target_positions (`list[int]`):
            Indices into `item_ids`, ascending. Each target is predicted from the items before it.
        timestamps (`list[int]`, *optional*):
            The time of each item, in whole seconds since 1970 UTC. No item is earlier than the one before it. All rows
            of a data set have timestamps, or the data set has no such column.
    """

    user_id: int | str
    item_ids: Sequence[int] | Sequence[str]
    target_positions: Sequence[int]
    timestamps: NotRequired[Sequence[int]]


def plain_rows(rows: Any) -> Any:
    """
    Undoes the format of rows, so that each row is a dictionary of numbers, texts and lists, as if `with_format` had
    never been called. A function that makes rows when they are read (`set_transform`) stays.

    Args:
        rows ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or any other object):
            Rows. Other objects are returned unchanged.
    """
    if isinstance(rows, Dataset):
        return rows if rows.format["type"] == "custom" else rows.with_format(None)
    return rows.with_format(None) if isinstance(rows, IterableDataset) else rows


def read_columns(dataset: Dataset, *columns: str) -> Iterator[pl.DataFrame]:
    """
    Reads columns of a data set in chunks of up to `CHUNK_ROWS` rows, which bounds the memory.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows.
        *columns (`str`):
            Names of the columns.

    Yields:
        `polars.DataFrame`: the columns of the next rows, in the order of the data set.
    """
    for table in dataset.select_columns(list(columns)).with_format("arrow").iter(CHUNK_ROWS):
        yield _to_frame(table)


def read_frame(dataset: Dataset, *columns: str) -> pl.DataFrame:
    """
    Reads columns of a data set at once.

    Args:
        dataset, *columns:
            See [`read_columns`].

    Returns:
        `polars.DataFrame`: the columns, in the order of the data set.
    """
    return _to_frame(dataset.select_columns(list(columns)).with_format("arrow")[:])


def _to_frame(table: Any) -> pl.DataFrame:
    # The rows of a shuffled data set are slices of one table. Polars would read the whole table for each of them.
    return pl.DataFrame(pl.from_arrow(table.combine_chunks()))


def spaced_rows(num_rows: int, max_rows: int | None) -> np.ndarray:
    """
    Chooses rows that are evenly spaced over a data set.

    Args:
        num_rows (`int`):
            Rows of the data set.
        max_rows (`int`, *optional*):
            How many rows to choose at most; all if not given.

    Returns:
        `numpy.ndarray` of shape `(min(num_rows, max_rows),)`, int64: row numbers, ascending.

    Raises:
        ValueError: If `max_rows` is less than 1.
    """
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"`max_rows` must be at least 1 or None, got {max_rows}.")
    if max_rows is None or max_rows >= num_rows:
        return np.arange(num_rows)
    return np.linspace(0, num_rows - 1, max_rows).astype(np.int64)


def select_spaced(dataset: Dataset, max_rows: int | None) -> Dataset:
    """Selects at most `max_rows` rows, evenly spaced (see [`spaced_rows`]); all if it is `None`."""
    return dataset.select(spaced_rows(len(dataset), max_rows))


def latest_target_time(dataset: Dataset) -> int:
    """Returns the time of the latest target of rows with timestamps, in whole seconds since 1970 UTC."""
    last = pl.col(TIMES_COLUMN).list.get(pl.col("target_positions").list.last()).max()
    parts = read_columns(dataset, TIMES_COLUMN, "target_positions")
    return max(int(part.select(last).item()) for part in parts)


def rows_checksum(dataset: Dataset, reads_times: bool = False) -> int:
    """
    Computes a checksum of a hundred evenly spaced rows. It changes if the rows or their order change. It reads
    timestamps only with `reads_times`. So a run whose model is not told of times can begin with rows without
    timestamps, and resume with them.
    """
    columns = [*ROW_COLUMNS, *([TIMES_COLUMN] if reads_times else [])]
    rows = select_spaced(dataset, _CHECKSUM_ROWS).select_columns(columns)
    return zlib.crc32(json.dumps(rows.to_list()).encode())


def check_columns(dataset: Dataset) -> None:
    """
    Checks that a data set is one of rows, without looking at the rows.

    Args:
        dataset ([`~datasets.Dataset`]):
            The data set.

    Raises:
        TypeError: If it is no data set, or a column holds values of another kind.
        ValueError: If a column is missing, or there is no row.
    """
    if not isinstance(dataset, Dataset):
        advice = f" Pass one of its splits, {list(dataset)}." if isinstance(dataset, DatasetDict) else ""
        raise TypeError(f"Data sets must be `datasets.Dataset`s of rows, got `{type(dataset).__name__}`.{advice}")
    if len(dataset) == 0:
        raise ValueError("The data set of rows is empty.")
    missing = [column for column in ROW_COLUMNS if column not in dataset.column_names]
    if missing:
        raise ValueError(
            "A data set of rows needs `user_id`, `item_ids` and `target_positions`, got the columns "
            f"{dataset.column_names}. See `load_recommendation_data`."
        )
    schema = dataset.features.arrow_schema
    lists = [
        ("item_ids", is_arrow_id_type, "whole numbers or of texts"),
        ("target_positions", pa.types.is_integer, "whole numbers"),
    ]
    if TIMES_COLUMN in dataset.column_names:
        lists.append((TIMES_COLUMN, pa.types.is_integer, "whole numbers (seconds since 1970 UTC)"))
    for column, is_expected, expected in lists:
        kind = schema.field(column).type
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        if not (is_list and is_expected(kind.value_type)):
            raise TypeError(f"Column `{column}` must hold lists of {expected}, got {kind}.")
    kind = schema.field("user_id").type
    if not is_arrow_id_type(kind):
        raise TypeError(f"Column `user_id` must hold whole numbers or texts, got {kind}.")


def check_rows(dataset: Dataset, max_history: int | None = None) -> None:
    """
    Checks all rows of a data set at once, before training. A collator would raise only in the middle of training.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows. The collator checks their item ids.
        max_history (`int`, *optional*):
            The processor's `max_history`: a row's targets must lie less than this apart. No bound if not given.

    Raises:
        TypeError: If `dataset` is not a `datasets.Dataset`, or a column holds values of another kind.
        ValueError: If there is no row, a column is missing, or a row has no target or fails [`check_targets`].
    """
    check_columns(dataset)
    if TIMES_COLUMN in dataset.column_names:
        _check_all_times(dataset)
    targets = read_frame(dataset, "target_positions")["target_positions"]
    # First check the underlying table, which may hold further rows: gathering the items of shuffled rows takes long.
    all_items, all_targets = (pl.Series(dataset.data.column(name)) for name in ("item_ids", "target_positions"))
    num_items = None
    if not (all_targets.list.last() < all_items.list.len()).all():
        num_items = pl.concat([part["item_ids"].list.len() for part in read_columns(dataset, "item_ids")])
    bad = find_bad_row(targets, num_items, max_history)
    if bad is None:
        return
    row = dataset[bad]
    if not row["target_positions"] or None in row["target_positions"]:
        raise ValueError(
            f"Row {bad} (user {row['user_id']}) has the target positions {row['target_positions']}; it needs at "
            "least one, and all must be whole numbers. Leave such rows out."
        )
    try:
        check_targets(row, max_history)
    except ValueError as error:
        raise ValueError(f"{error} It is row {bad} of the data set.") from None


def find_bad_row(targets: pl.Series, num_items: pl.Series | None, max_history: int | None = None) -> int | None:
    """
    Finds the first row that fails the conditions of [`check_targets`].

    Args:
        targets (`polars.Series` of lists):
            The target positions of each row.
        num_items (`polars.Series`, *optional*):
            The number of items of each row. If not given, the upper bound of the positions is not checked.
        max_history (`int`, *optional*):
            As in [`check_targets`].

    Returns:
        `int`, *optional*: the index of the row, or `None` if all rows are valid.
    """
    first, last = targets.list.first(), targets.list.last()
    ascends = (targets.list.len() == 1) | (targets.list.diff().list.min() > 0)
    is_whole = targets.list.drop_nulls().list.len() == targets.list.len()
    is_valid = is_whole & ascends & (first > 0)
    if num_items is not None:
        is_valid &= last < num_items
    if max_history is not None:
        is_valid &= last - first < max_history
    is_valid = is_valid.fill_null(False)
    return None if is_valid.all() else is_valid.index_of(False)


def check_targets(row: Row | Mapping[str, Any], max_history: int | None = None) -> None:
    """
    Checks that a row's targets can be predicted from one window, and that its items have ascending times, if any.

    Args:
        row ([`Row`]):
            Row with at least one target.
        max_history (`int`, *optional*):
            The processor's `max_history`: a row's targets must lie less than this apart. No bound if not given.

    Raises:
        ValueError: If the targets do not ascend, lie `max_history` or more apart, have no earlier item or lie outside
            the row's items; or if the row fails [`check_times`].
    """
    check_times(row)
    targets, num_items = row["target_positions"], len(row["item_ids"])
    for position in targets:
        if not 0 < position < num_items:
            raise ValueError(
                f"Row of user {row.get('user_id')}: target position {position} must lie between 1 and "
                f"{num_items - 1}; a target is one of the row's {num_items} items, after at least one other."
            )
    if any(later <= earlier for earlier, later in pairwise(targets)):
        raise ValueError(f"Row of user {row.get('user_id')}: its target positions {list(targets)} must ascend.")
    if max_history is not None and targets[-1] - targets[0] >= max_history:
        raise ValueError(
            f"Row of user {row.get('user_id')}: its targets, at {targets[0]} to {targets[-1]}, must lie less than "
            f"`max_history` ({max_history}) apart. One window predicts all of them, and it would otherwise more than "
            "double. Make shorter rows with `targets_per_row` of `load_recommendation_data` or `make_rows`."
        )


def check_times(row: Row | Mapping[str, Any]) -> None:
    """
    Checks the timestamps of a row. A row without the column `timestamps` passes.

    Args:
        row ([`Row`]):
            The row.

    Raises:
        ValueError: If there are not as many timestamps as items, one is no whole number, or one is earlier than the
            one before it.
    """
    if "timestamps" not in row:
        return
    user, times, num_items = row.get("user_id"), row["timestamps"], len(row["item_ids"])
    if times is None or len(times) != num_items:
        found = "no timestamps" if times is None else f"{len(times)} timestamps"
        raise ValueError(
            f"Row of user {user} has {found} for {num_items} items. Give each item its time, in whole seconds since "
            f"1970 UTC, or leave the column out of all rows: `rows.remove_columns({TIMES_COLUMN!r})`."
        )
    values = np.asarray(times)
    if values.dtype.kind not in "iu":
        raise ValueError(
            f"Row of user {user}: its timestamps must be whole numbers (seconds since 1970 UTC), got {list(times)}."
        )
    descends = values[1:] < values[:-1]
    if descends.any():
        place = int(descends.argmax()) + 1
        raise ValueError(
            f"Row of user {user}: its timestamps must ascend, since its items are in order of time, but item {place} "
            f"has {values[place]} after {values[place - 1]}. Sort the user's interactions by time, or leave the "
            f"column out of all rows: `rows.remove_columns({TIMES_COLUMN!r})`."
        )


def _check_all_times(dataset: Dataset) -> None:
    # First check the underlying table, as `check_rows` does, in parts: timestamps can be larger than memory.
    items, times = (dataset.data.column(name) for name in ("item_ids", TIMES_COLUMN))
    starts = range(0, len(items), CHUNK_ROWS)
    if all(_are_times_valid(items.slice(start, CHUNK_ROWS), times.slice(start, CHUNK_ROWS)) for start in starts):
        return
    for number, row in enumerate(dataset):
        try:
            check_times(row)
        except ValueError as error:
            raise ValueError(f"{error} It is row {number} of the data set.") from None


def _are_times_valid(items: pa.ChunkedArray, times: pa.ChunkedArray) -> bool:
    lengths = pc.list_value_length(times)
    if times.null_count > 0 or not lengths.equals(pc.list_value_length(items).cast(lengths.type)):
        return False
    flat = pc.list_flatten(times)
    if flat.null_count > 0:
        return False
    values, ends = flat.to_numpy(), np.cumsum(lengths.to_numpy())
    descends = np.append(values[1:] < values[:-1], False)
    descends[ends[ends > 0] - 1] = False  # the next value is another row's first
    return not descends.any()
