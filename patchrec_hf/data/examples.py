"""Rows, made from split interactions: each holds a history and the targets to predict from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from datasets import Dataset, DatasetDict

from ..runtime.catalog import Catalog
from ..runtime.title_tokens import ragged_arange
from .id_columns import IdColumn, enumerate_ids
from .interactions import has_ascending_times
from .row_facts import keep_facts
from .rows import CHUNK_ROWS, TIMES_COLUMN, read_columns
from .splits import SPLITS


_NUM_EARLIER = pl.col("target_positions").list.min()
_FIRST_TIME = pl.col(TIMES_COLUMN).list.get(_NUM_EARLIER)


def make_rows(
    interactions: pl.DataFrame,
    catalog: Catalog,
    max_history: int = 100,
    min_history: int = 3,
    targets_per_row: int = 1,
    directory: Path | None = None,
    splits: Sequence[str] = SPLITS,
) -> DatasetDict:
    """
    Turns interactions into rows. Each target of a row is an interaction of the row's split. The target's history is
    the same user's earlier interactions, from whichever splits.

    Args:
        interactions (`polars.DataFrame`):
            As [`order_interactions`] returns them, with `split`.
        catalog ([`Catalog`]):
            Must hold every item of the interactions.
        max_history (`int`, *optional*, defaults to `100`):
            Number of latest earlier items that a row holds at most.
        min_history (`int`, *optional*, defaults to `3`):
            An interaction with fewer earlier ones is no target.
        targets_per_row (`int`, *optional*, defaults to `1`):
            Number of consecutive interactions of a user that a training row predicts at most. These targets share one
            window, which starts `max_history` items before the first target. Validation and test rows predict one
            target each, always from the latest `max_history` items, so this setting does not change the metrics.
        directory (`pathlib.Path`, *optional*):
            Directory to write the rows to, one file per split. If not given, the rows are kept in memory.
        splits (`Sequence[str]`, *optional*, defaults to all three):
            Splits to make rows for.

    Returns:
        [`~datasets.DatasetDict`]: for each split, rows with
        - `user_id` (`int` or `str`),
        - `item_ids` (`list[int]` or `list[str]`): oldest first; up to `max_history` items before the first target,
          then all items up to the last target,
        - `target_positions` (`list[int]`): indices into `item_ids` of the items to predict, ascending,
        - `timestamps` (`list[int]`): the time of each item, in whole seconds since 1970 UTC. Rows have this column if
          the interactions have `timestamp`, and if the times of each user ascend.

    Raises:
        ValueError: If `split` is missing or holds another value, a split has no row, `max_history` is less than 1,
            `min_history` less than 0, or `targets_per_row` does not lie between 1 and `max_history`.
        KeyError: If the catalog lacks an item.
    """
    check_row_settings(interactions, catalog, max_history, min_history, targets_per_row)
    users, items = (IdColumn.of(enumerate_ids(interactions[name])) for name in ("user_id", "item_id"))
    positions = interactions["position"].to_numpy()
    times = interactions["timestamp"].cast(pl.Int64).to_numpy() if has_ascending_times(interactions) else None
    datasets = {}
    for split in splits:
        size = targets_per_row if split == "train" else 1
        is_in_split = (interactions["split"] == split).to_numpy()
        batches = iterate_rows(users, items, positions, is_in_split, max_history, min_history, size, times)
        first = next(batches, None)
        if first is None:
            raise ValueError(
                f"The split {split!r} has no interaction with at least {max(1, min_history)} earlier ones. Lower "
                "`min_history`, or choose another `split`."
            )
        if directory is None:
            datasets[split] = Dataset(pa.Table.from_batches([first, *batches]))
        else:
            path = directory / f"{split}.arrow"
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, first.schema) as writer:
                writer.write_batch(first)
                for batch in batches:
                    writer.write_batch(batch)
            datasets[split] = Dataset.from_file(str(path))
        keep_facts(datasets[split], catalog, max_history)
    return DatasetDict(datasets)


def check_row_settings(
    interactions: pl.DataFrame, catalog: Catalog, max_history: int, min_history: int, targets_per_row: int
) -> None:
    """
    Checks the arguments of [`make_rows`].

    Raises:
        ValueError, KeyError: As [`make_rows`] does.
    """
    if "split" not in interactions.columns:
        raise ValueError("The interactions have no column 'split'. Add it with `temporal_split`.")
    if not isinstance(max_history, (int, np.integer)) or max_history < 1:
        raise ValueError(f"`max_history` must be a whole number of at least 1, got {max_history!r}.")
    if min_history < 0:
        raise ValueError(f"`min_history` must be at least 0, got {min_history}.")
    if not (type(targets_per_row) is int and 1 <= targets_per_row <= max_history):
        raise ValueError(
            f"`targets_per_row` must be a whole number between 1 and `max_history` ({max_history}), got "
            f"{targets_per_row!r}."
        )
    unknown = set(interactions["split"].unique().cast(pl.String)) - set(SPLITS)
    if unknown:
        raise ValueError(f"The column 'split' holds {unknown.pop()!r}; it must hold one of {SPLITS} in every row.")
    catalog.indices_of(interactions["item_id"].unique().to_list())


def iterate_rows(
    user_ids: IdColumn,
    item_ids: IdColumn,
    positions: np.ndarray,
    is_in_split: np.ndarray,
    max_history: int,
    min_history: int,
    targets_per_row: int,
    times: np.ndarray | None = None,
) -> Iterator[pa.RecordBatch]:
    """
    Yields the rows of one split in batches of up to `CHUNK_ROWS` rows, in order of users and then of time. This
    function must not use polars: a data loader's worker is forked from a process that has used polars, and would wait
    forever for polars' threads, which a fork lacks.

    Args:
        user_ids, item_ids ([`IdColumn`]):
            The ids of interactions as [`order_interactions`] returns them.
        positions (`numpy.ndarray` of shape `(num_interactions,)`, int64):
            Their positions.
        is_in_split (`numpy.ndarray` of shape `(num_interactions,)`, bool):
            Whether each interaction belongs to the split.
        max_history, min_history, targets_per_row:
            As for [`make_rows`]; [`check_row_settings`] has checked them.
        times (`numpy.ndarray` of shape `(num_interactions,)`, int64, *optional*):
            Their times, in whole seconds since 1970 UTC. If not given, rows have no timestamps.

    Yields:
        `pyarrow.RecordBatch`: rows as [`make_rows`] describes them.
    """
    targets = np.flatnonzero(is_in_split & (positions >= max(1, min_history)))
    row_starts = _row_starts(user_ids.codes[targets], positions[targets], targets_per_row)
    for start in range(0, len(row_starts), CHUNK_ROWS):
        stop = start + CHUNK_ROWS
        begins = row_starts[start:stop]
        next_begin = row_starts[stop] if stop < len(row_starts) else len(targets)
        ends = np.append(row_starts[start + 1 : stop], next_begin)
        first, last = targets[begins], targets[ends - 1]
        window_starts = first - np.minimum(positions[first], max_history)
        num_items, num_targets = last + 1 - window_starts, ends - begins
        items = np.repeat(window_starts, num_items) + ragged_arange(num_items)
        chunk_targets = targets[begins[0] : ends[-1]]
        columns = {
            "user_id": user_ids.take(first),
            "item_ids": _lists(item_ids.take(items), num_items),
            "target_positions": _lists(pa.array(chunk_targets - np.repeat(window_starts, num_targets)), num_targets),
        }
        if times is not None:
            columns[TIMES_COLUMN] = _lists(pa.array(times[items]), num_items)
        yield pa.record_batch(columns)


def rows_to_interactions(dataset: Dataset) -> pl.DataFrame:
    """
    Recovers the interactions that rows were made from: every target, and the items before the first target of each
    user's first row.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows of one split, or of several that were joined. If their `max_history` is above their `min_history`,
            they may come in any order: a user's first row is then the one with the fewest earlier items.

    Returns:
        `polars.DataFrame` with the columns `user_id` and `item_id`. If the rows have timestamps, also with the columns
        `timestamp` and `known_at` (whole seconds since 1970 UTC). Rows hold an interaction from the time `known_at`
        on: a target from its own time on, and the items before a user's first target from the time of that target on.
        With timestamps, an interaction that is a target of several rows is returned once.
    """
    has_times = TIMES_COLUMN in dataset.column_names
    columns = {"item_id": "item_ids", **({"timestamp": TIMES_COLUMN} if has_times else {})}
    targets, first_rows = [], []
    # Rows repeat their histories: read at once, they would take much more memory than the result.
    for rows in read_columns(dataset, "user_id", "target_positions", *columns.values()):
        of_targets = {name: pl.col(lists).list.gather(pl.col("target_positions")) for name, lists in columns.items()}
        targets.append(rows.select("user_id", **of_targets).explode(*columns))
        first_rows.append(_first_rows(rows))
    before = {name: pl.col(lists).list.head(_NUM_EARLIER) for name, lists in columns.items()}
    first = _first_rows(pl.concat(first_rows))
    if not has_times:
        return pl.concat([first.select("user_id", **before).explode("item_id"), *targets]).drop_nulls("item_id")
    earlier = first.select("user_id", **before, known_at=_FIRST_TIME).explode(*columns)
    known = [part.with_columns(known_at=pl.col("timestamp")) for part in targets]
    return _count_once(pl.concat([earlier, *known]).drop_nulls("item_id"), dataset)


def _count_once(interactions: pl.DataFrame, dataset: Dataset) -> pl.DataFrame:
    """
    Keeps each interaction as often as one row holds it. Overlapping rows may name one interaction several times, but a
    user may also choose an item twice within a second.
    """
    key = ["user_id", "item_id", "timestamp"]
    hashes = interactions.select(pl.struct(key).hash()).to_series()
    # Only rows with equal hashes are compared, which takes a fraction of the memory.
    ordered = np.sort(hashes.to_numpy())
    equal = pl.Series(ordered[1:][ordered[1:] == ordered[:-1]]).unique()
    del ordered
    if equal.is_empty():
        return interactions
    suspects = interactions.with_row_index("row").filter(hashes.is_in(equal.implode()))
    rows_of_repeated = suspects.filter(pl.struct(key).is_duplicated())["row"].to_numpy()
    is_repeated = np.zeros(len(interactions), dtype=bool)
    is_repeated[rows_of_repeated] = True
    repeated = interactions.filter(pl.Series(is_repeated))
    in_one_row = []
    for rows in read_columns(dataset, "user_id", "item_ids", TIMES_COLUMN):
        items = rows.rename({"item_ids": "item_id", TIMES_COLUMN: "timestamp"}).with_row_index("row")
        items = items.explode("item_id", "timestamp").join(repeated, on=key, how="semi")
        in_one_row.append(items.group_by("row", *key).len().group_by(key).agg(pl.col("len").max()))
    num_true = pl.concat(in_one_row).group_by(key).agg(num_true=pl.col("len").max())
    numbered = repeated.sort("known_at", maintain_order=True).with_columns(number=pl.int_range(pl.len()).over(key))
    kept = numbered.join(num_true, on=key).filter(pl.col("number") < pl.col("num_true"))
    return pl.concat([interactions.filter(pl.Series(~is_repeated)), kept.select(interactions.columns)])


def _first_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Returns each user's row with the fewest earlier items; of several, the one with the earliest target."""
    order = [_NUM_EARLIER, *([_FIRST_TIME] if TIMES_COLUMN in rows.columns else [])]
    return rows.sort(order, maintain_order=True).unique("user_id", keep="first", maintain_order=True)


def _row_starts(user_ids: np.ndarray, positions: np.ndarray, size: int) -> np.ndarray:
    """
    Returns the indices of the targets that start a new row, for targets in order. A row holds the targets of one user
    whose positions lie in one block of `size` positions. Blocks are counted from the user's first target.
    """
    if len(user_ids) == 0:
        return np.empty(0, dtype=np.int64)
    is_first = np.append(True, user_ids[1:] != user_ids[:-1])
    first_position = positions[is_first][np.cumsum(is_first) - 1]
    blocks = (positions - first_position) // size
    return np.flatnonzero(is_first | np.append(True, blocks[1:] != blocks[:-1]))


def _lists(values: pa.Array, lengths: np.ndarray) -> pa.ListArray:
    # Arrow raises if an offset exceeds 32 bits, where NumPy's cast would wrap around.
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), type=pa.int32())
    return pa.ListArray.from_arrays(offsets, values)
