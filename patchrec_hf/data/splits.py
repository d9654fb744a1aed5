"""Splits: which interactions are learned from and which are predicted, and the example rows they become."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
from datasets import Dataset, DatasetDict

from ..catalog import Catalog, ragged_arange


SPLITS = ("train", "validation", "test")


def temporal_split(interactions: pl.DataFrame, cuts: tuple[float, float] = (0.96, 0.98)) -> pl.DataFrame:
    """
    The paper's global temporal split: everybody's interactions are cut at the same two points in time, so nothing that
    is learned from is later than what is predicted. Its shares are 48 : 1 : 1.

    Args:
        interactions (`polars.DataFrame`):
            As [`order_interactions`] returns them, with `timestamp`.
        cuts (`tuple[float, float]`, *optional*, defaults to `(0.96, 0.98)`):
            Shares of the interactions, in order of time, after which validation and test begin.

    Returns:
        `polars.DataFrame`: the same rows with the column `split`. Interactions at the very time of a cut belong to the
        earlier split.

    Raises:
        ValueError: If there is no `timestamp`, or a split is left empty.
    """
    if "timestamp" not in interactions.columns:
        raise ValueError(f"A temporal split needs the column 'timestamp'; the columns are {interactions.columns}.")
    times = np.sort(interactions["timestamp"].to_numpy())
    first, second = (times[max(int(cut * len(times)) - 1, 0)] for cut in cuts)
    split = (
        pl.when(pl.col("timestamp") <= first)
        .then(pl.lit("train"))
        .when(pl.col("timestamp") <= second)
        .then(pl.lit("validation"))
        .otherwise(pl.lit("test"))
    )
    result = interactions.with_columns(split.alias("split"))
    missing = set(SPLITS) - set(result["split"].unique())
    if missing:
        raise ValueError(
            f"The temporal split leaves {sorted(missing)} empty: too many interactions share the time of a "
            f"cut ({first} or {second}). Choose other `cuts` than {cuts}."
        )
    return result


def make_examples(
    interactions: pl.DataFrame,
    catalog: Catalog,
    max_history: int = 100,
    min_history: int = 3,
    targets_per_row: int = 1,
) -> DatasetDict:
    """
    Turns interactions into example rows. Their targets are interactions, each after the same user's earlier ones,
    whichever split those belong to.

    Args:
        interactions (`polars.DataFrame`):
            As [`order_interactions`] returns them, with `split`.
        catalog ([`Catalog`]):
            Knows every item.
        max_history (`int`, *optional*, defaults to `100`):
            How many of the latest earlier items a row holds.
        min_history (`int`, *optional*, defaults to `3`):
            Interactions with fewer earlier ones are predicted by no row.
        targets_per_row (`int`, *optional*, defaults to `1`):
            How many consecutive interactions of a user a training row may predict. They share one window, which starts
            `max_history` items before the first of them. Rows of the other splits predict one each, always from the
            latest `max_history` items, so that what is measured does not depend on this.

    Returns:
        [`~datasets.DatasetDict`]: for each split, rows with
        - `user_id` (`int`),
        - `item_ids` (`list[int]`): oldest first, from up to `max_history` items before the first target to the last
          target,
        - `target_positions` (`list[int]`): which of `item_ids` are to be predicted, ascending.

    Raises:
        ValueError: If `split` is missing or holds another value, a split has no example, `max_history` is less than 1,
            or `targets_per_row` does not lie between 1 and `max_history`.
        KeyError: If the catalog lacks an item.
    """
    if "split" not in interactions.columns:
        raise ValueError("The interactions have no column 'split'. Make one with `temporal_split`.")
    if max_history < 1:
        raise ValueError(f"`max_history` must be at least 1, got {max_history}.")
    if not (type(targets_per_row) is int and 1 <= targets_per_row <= max_history):
        raise ValueError(
            f"`targets_per_row` must be a whole number between 1 and `max_history` ({max_history}), got "
            f"{targets_per_row!r}."
        )
    unknown = set(interactions["split"].cast(pl.String).unique()) - set(SPLITS)
    if unknown:
        raise ValueError(f"The column 'split' holds {unknown.pop()!r}; it must hold one of {SPLITS} in every row.")
    user_ids = interactions["user_id"].to_numpy()
    item_ids = interactions["item_id"].to_numpy()
    positions = interactions["position"].to_numpy()
    splits = interactions["split"].cast(pl.String).to_numpy()
    catalog.indices_of(item_ids)
    datasets = {}
    for split in SPLITS:
        targets = np.flatnonzero((splits == split) & (positions >= max(1, min_history)))
        if len(targets) == 0:
            raise ValueError(
                f"The split {split!r} has no interaction with at least {max(1, min_history)} earlier ones."
            )
        opens = _block_starts(user_ids[targets], positions[targets], targets_per_row if split == "train" else 1)
        first, last = targets[opens], targets[np.append(opens[1:], len(targets)) - 1]
        window_starts = first - np.minimum(positions[first], max_history)
        num_items, num_targets = last + 1 - window_starts, np.diff(np.append(opens, len(targets)))
        items = np.repeat(window_starts, num_items) + ragged_arange(num_items)
        table = pa.table(
            {
                "user_id": user_ids[first],
                "item_ids": _lists(item_ids[items], num_items),
                "target_positions": _lists(targets - np.repeat(window_starts, num_targets), num_targets),
            }
        )
        datasets[split] = Dataset(table)
    return DatasetDict(datasets)


def examples_to_interactions(examples: Dataset) -> pl.DataFrame:
    """
    The interactions that example rows were made of: every target, and what each user's first row holds before its
    first target.

    Args:
        examples ([`~datasets.Dataset`]):
            Example rows of one split, in any order if their `max_history` is above their `min_history`: the row with
            the fewest earlier items is then a user's first.

    Returns:
        `polars.DataFrame` with the columns `user_id` and `item_id`.
    """
    rows = examples.select_columns(["user_id", "item_ids", "target_positions"]).to_polars()
    targets = rows.select("user_id", item_id=pl.col("item_ids").list.gather(pl.col("target_positions")))
    num_earlier = pl.col("target_positions").list.min()
    earlier = (
        rows.sort(num_earlier, maintain_order=True)
        .unique("user_id", keep="first", maintain_order=True)
        .select("user_id", item_id=pl.col("item_ids").list.head(num_earlier))
    )
    return pl.concat([earlier, targets]).explode("item_id").drop_nulls("item_id")


def _block_starts(user_ids: np.ndarray, positions: np.ndarray, size: int) -> np.ndarray:
    """Where a new row begins, for targets in order: with each user, and `size` positions after the row's begin."""
    is_first = np.append(True, user_ids[1:] != user_ids[:-1])
    first_position = positions[is_first][np.cumsum(is_first) - 1]
    blocks = (positions - first_position) // size
    return np.flatnonzero(is_first | np.append(True, blocks[1:] != blocks[:-1]))


def _lists(values: np.ndarray, lengths: np.ndarray) -> pa.ListArray:
    # Arrow refuses what its 32-bit offsets cannot count, where NumPy's cast would wrap around.
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), type=pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(values))
