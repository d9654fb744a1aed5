"""Example rows: what a row of training or evaluation must hold."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import polars as pl
import pyarrow as pa
from datasets import Dataset


_ROWS_AT_A_TIME = 10_000


def check_rows(dataset: Dataset, max_history: int | None = None) -> None:
    """
    Checks a data set of example rows, all at once: a collator would find a bad row in the middle of training.

    Args:
        dataset ([`~datasets.Dataset`]):
            Example rows. Which items they name is left to the collator.
        max_history (`int`, *optional*):
            The processor's, which bounds how far apart a row's targets are; nothing does if not given.

    Raises:
        TypeError: If it is no data set, or a column does not hold whole numbers, or lists of them.
        ValueError: If there is no row, a column is missing, or a row has no target or fails [`check_targets`].
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"Data sets must be `datasets.Dataset`s of example rows, got `{type(dataset).__name__}`.")
    missing = [column for column in ("user_id", "item_ids", "target_positions") if column not in dataset.column_names]
    if missing or len(dataset) == 0:
        raise ValueError(
            f"A data set of example rows needs `user_id`, `item_ids` and `target_positions`, got {len(dataset)} rows "
            f"with {dataset.column_names}. See `load_recommendation_data`."
        )
    for column in ("item_ids", "target_positions"):
        kind = dataset.features.arrow_schema.field(column).type
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        if not (is_list and pa.types.is_integer(kind.value_type)):
            raise TypeError(f"Column `{column}` must hold lists of whole numbers, got {kind}.")
    check_user_ids(dataset)
    targets = dataset.select_columns(["target_positions"]).to_polars()["target_positions"]
    first, last = targets.list.first(), targets.list.last()
    ascends = (targets.list.len() == 1) | (targets.list.diff().list.min() > 0)
    is_whole = targets.list.drop_nulls().list.len() == targets.list.len()
    is_right = is_whole & ascends & (first > 0)
    # First of the table beneath, which may hold other rows too: shuffled ones take long to gather.
    all_items, all_targets = (pl.Series(dataset.data.column(name)) for name in ("item_ids", "target_positions"))
    if not (all_targets.list.last() < all_items.list.len()).all():
        parts = dataset.select_columns(["item_ids"]).with_format("polars").iter(_ROWS_AT_A_TIME)
        is_right &= last < pl.concat([part["item_ids"].list.len() for part in parts])
    if max_history is not None:
        is_right &= last - first < max_history
    is_right = is_right.fill_null(False)
    if is_right.all():
        return
    row_index = is_right.index_of(False)
    row = dataset[row_index]
    if not row["target_positions"] or None in row["target_positions"]:
        raise ValueError(
            f"Row {row_index} (user {row['user_id']}) has the target positions {row['target_positions']}; it needs at "
            "least one, and whole numbers only. Leave such rows out."
        )
    try:
        check_targets(row, max_history)
    except ValueError as error:
        raise ValueError(f"{error} It is row {row_index} of the data set.") from None


def check_user_ids(dataset: Dataset) -> None:
    """
    Checks that users are whole numbers, by which rows are grouped.

    Raises:
        TypeError: If they are not.
    """
    kind = dataset.features.arrow_schema.field("user_id").type
    if not pa.types.is_integer(kind):
        raise TypeError(f"Column `user_id` must hold whole numbers, got {kind}. Number the users.")


def check_targets(row: Mapping[str, Any], max_history: int | None = None) -> None:
    """
    Checks that a row's targets can be predicted from one window.

    Args:
        row (`Mapping[str, Any]`):
            An example row with at least one target.
        max_history (`int`, *optional*):
            The processor's, which bounds how far apart a row's targets are; nothing does if not given.

    Raises:
        ValueError: If they do not ascend, lie `max_history` or more apart, have no earlier item or lie outside the
            row's items.
    """
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
            f"`max_history` ({max_history}) apart, as all of them are predicted from one window, which would more "
            "than double. Make shorter rows, with `targets_per_row` of `load_recommendation_data` or `make_examples`."
        )
