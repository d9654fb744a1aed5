"""Row lengths: counts the positions of rows from the lengths of titles, without encoding the rows"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from datasets import Dataset

from ..data.rows import TIMES_COLUMN, read_columns
from ..runtime.layouts import DropLayout, Layout, RandomPatchLayout, TextLayout, asks_for
from ..runtime.processing import PatchRecProcessor


_ITEMS_PER_PART = 1 << 20
_MAX_SUSPECTS = 10_000
"""Number of rows that are counted or encoded one by one at most: the longest ones."""


class _Windows(NamedTuple):
    """For each row: the first item that its last target's history may hold, their number, and all title lengths."""

    starts: np.ndarray
    lengths: np.ndarray
    title_lengths: np.ndarray
    target_lengths: np.ndarray
    times: np.ndarray | None


def row_lengths(dataset: Dataset, processor: PatchRecProcessor, layout: Layout | None) -> np.ndarray:
    """
    Counts, for each row, the positions that the history of its last target takes.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows.
        processor ([`PatchRecProcessor`]):
            The processor that encodes them.
        layout ([`Layout`], *optional*):
            Replaces the processor's layout.

    Returns:
        `numpy.ndarray` of shape `(num_rows,)`, int64.

    Raises:
        ValueError: If the layout asks for timestamps and the rows have none, or an item id is missing.
        KeyError: If the catalog lacks an item.
    """
    columns = ["item_ids", "target_positions"]
    if "timestamps" in asks_for(processor.layout if layout is None else layout):
        if TIMES_COLUMN not in dataset.column_names:
            raise processor.missing_timestamps(f"a data set has no column `{TIMES_COLUMN}`", layout)
        columns.append(TIMES_COLUMN)
    parts = [_lengths_of(part, processor, layout) for part in read_columns(dataset, *columns)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def longest_first(
    dataset: Dataset,
    processor: PatchRecProcessor,
    layout: Layout | None,
    max_length: int,
    title_length: int | None = None,
    reads_text: bool = False,
) -> np.ndarray:
    """
    Finds the rows that may be longer than a model reads. Most rows are ruled out by the lengths of their titles alone,
    because no layout takes more positions than text.

    Args:
        dataset, processor, layout:
            See [`row_lengths`].
        max_length (`int`):
            The longest sequence that the model reads, in tokens.
        title_length (`int`, *optional*):
            Tokens that follow a prompt. If not given, as many as the longest target of each row has, with the end of
            its turn.
        reads_text (`bool`, *optional*, defaults to `False`):
            Whether rows are also read with every item as text, as in pre-training.

    Returns:
        `numpy.ndarray` of shape `(n,)`, int64: numbers of the rows, the longest first; 10,000 at most.

    Raises:
        ValueError, KeyError: As [`row_lengths`] does.
    """
    frame, parts = frame_length(processor), []
    for part in read_columns(dataset, "item_ids", "target_positions"):
        windows = _windows(part, processor)
        sums = np.concatenate([[0], np.cumsum(windows.title_lengths)])
        text = sums[windows.starts + windows.lengths] - sums[windows.starts] + np.maximum(windows.lengths - 1, 0)
        parts.append(np.stack([text, windows.target_lengths + 1 if title_length is None else 0 * text + title_length]))
    text, responses = np.concatenate(parts, axis=1)
    suspects = np.flatnonzero(frame + text + responses > max_length)
    suspects = suspects[np.argsort(-(text + responses)[suspects], kind="stable")]
    used = processor.layout if layout is None else layout
    if reads_text or isinstance(used, TextLayout | RandomPatchLayout | DropLayout) or len(suspects) == 0:
        return suspects[:_MAX_SUSPECTS]
    if asks_for(used):  # such a layout lays out histories one by one
        suspects = suspects[:_MAX_SUSPECTS]
    lengths = frame + row_lengths(dataset.select(suspects), processor, layout) + responses[suspects]
    order = np.argsort(-lengths, kind="stable")
    return suspects[order[lengths[order] > max_length]][:_MAX_SUSPECTS]


def frame_length(processor: PatchRecProcessor) -> int:
    """Returns the tokens of a prompt around its history."""
    return len(processor.prompt.prefix_ids) + len(processor.prompt.suffix_ids) + 2


def _windows(rows: pl.DataFrame, processor: PatchRecProcessor) -> _Windows:
    num_items = rows["item_ids"].list.len().to_numpy().astype(np.int64)
    first, last = (
        rows["target_positions"].list.get(index, null_on_oob=True).fill_null(0).to_numpy() for index in (0, -1)
    )
    # Clipped, so that a bad row never reads the items of another one. The collator reports what is wrong with it.
    last = np.clip(last, 0, num_items)
    skipped = np.clip(first - processor.max_history, 0, last)
    firsts = np.cumsum(num_items) - num_items
    item_ids = rows["item_ids"].filter(num_items > 0).explode()
    if item_ids.null_count() > 0:
        raise ValueError("Item ids must be whole numbers or texts, but a row's `item_ids` hold None.")
    title_lengths = processor.title_tokens.lengths[processor.catalog.indices_of(item_ids.to_numpy())]
    # The longest target lies between the first and the last one, which bounds it without a list for each row.
    target_lengths = np.zeros(len(rows), dtype=np.int64)
    spans = np.minimum(last + 1, num_items) - np.clip(first, 0, num_items)
    is_known = spans > 0
    if is_known.any():
        bounds = np.stack([firsts + np.clip(first, 0, num_items), firsts + np.minimum(last + 1, num_items)], axis=1)
        padded = np.append(title_lengths, 0)  # a bound may be the end
        target_lengths[is_known] = np.maximum.reduceat(padded, bounds[is_known].ravel())[::2]
    times = rows[TIMES_COLUMN].filter(num_items > 0).explode().to_numpy() if TIMES_COLUMN in rows.columns else None
    return _Windows(firsts + skipped, last - skipped, title_lengths, target_lengths, times)


def _lengths_of(rows: pl.DataFrame, processor: PatchRecProcessor, layout: Layout | None) -> np.ndarray:
    windows = _windows(rows, processor)
    result = np.zeros(len(rows), dtype=np.int64)
    for length in np.unique(windows.lengths):
        alike = np.flatnonzero(windows.lengths == length)
        # In parts, so that the memory does not grow with the number of long histories.
        for row_numbers in np.array_split(alike, -(-len(alike) * (length + 1) // _ITEMS_PER_PART)):
            places = windows.starts[row_numbers][:, None] + np.arange(length)
            result[row_numbers] = processor.count_history_tokens(
                windows.title_lengths[places], layout, None if windows.times is None else windows.times[places]
            )
    return result
