"""A data set that is filled up to whole batches on all processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset

from ..data.rows import Row


class FillerRow(NamedTuple):
    """
    A row that only fills up a batch. A collator gives it no labels.

    Args:
        row ([`Row`]):
            Any row.
    """

    row: Row


class FilledDataset(TorchDataset[Row | FillerRow]):
    """
    A data set that is filled up to whole batches on all processes. Sharded weights need this, because every process
    must run equally many forwards. The last row is repeated as a [`FillerRow`]. The collator gives it no labels, so it
    does not change the loss.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows.
        rows_per_forward (`int`):
            Rows that all processes together read for one forward.
    """

    def __init__(self, dataset: Dataset, rows_per_forward: int) -> None:
        self.dataset = dataset
        self.rows_per_forward = rows_per_forward

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.rows_per_forward) * self.rows_per_forward

    def __getitem__(self, index: int) -> Row | FillerRow:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Row | FillerRow]:
        last = len(self.dataset) - 1
        rows = self.dataset.__getitems__([min(index, last) for index in indices])
        return [FillerRow(row) if index > last else row for row, index in zip(rows, indices, strict=True)]
