"""A data set filled up to whole batches of all processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset


class FilledDataset(TorchDataset[dict[str, Any]]):
    """
    A data set filled up to whole batches of all processes, as sharded weights need equal numbers of forwards. What
    fills it up is its last row, marked `is_filler`, of which a collator makes no labels: so it counts nowhere.

    Args:
        dataset ([`~datasets.Dataset`]):
            Example rows.
        rows_at_once (`int`):
            Rows that all processes together read for one forward.
    """

    def __init__(self, dataset: Dataset, rows_at_once: int) -> None:
        self.dataset = dataset
        self.rows_at_once = rows_at_once

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.rows_at_once) * self.rows_at_once

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        last = len(self.dataset) - 1
        rows = self.dataset.__getitems__([min(index, last) for index in indices])
        return [{**row, "is_filler": index > last} for row, index in zip(rows, indices, strict=True)]
