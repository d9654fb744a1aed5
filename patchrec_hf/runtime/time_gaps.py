"""Time gaps: how long after the item before it an item was chosen, in buckets with a learned vector each."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


NO_GAP = -1
"""Bucket of an item whose gap is not known: the first one of a history."""
_SECONDS = 60


def check_ascending(timestamps: np.ndarray, row: int | None = None) -> None:
    """
    Checks the times of a history.

    Args:
        timestamps (`numpy.ndarray` of shape `(n,)`, int64):
            When each item was chosen, in seconds, oldest first.
        row (`int`, *optional*):
            Number of the history, for the error message.

    Raises:
        ValueError: If a time is earlier than the one before it.
    """
    descents = np.flatnonzero(timestamps[1:] < timestamps[:-1])
    if len(descents) > 0:
        place = int(descents[0])
        where = "" if row is None else f" in row {row}"
        raise ValueError(
            f"The timestamps of a history must ascend, got {timestamps[place]} before {timestamps[place + 1]}{where}. "
            "Sort each history by time, oldest first."
        )


def gap_buckets(timestamps: np.ndarray, num_buckets: int) -> np.ndarray:
    """
    Sorts the times between neighboring items into buckets. Bucket 0 holds times of less than a minute. Each further
    bucket reaches twice as far: bucket b holds times of 2ᵇ - 1 minutes up to less than 2ᵇ⁺¹ - 1 minutes, and the last
    one all longer times. With 24 buckets, the last one begins at 16 years.

    Args:
        timestamps (`numpy.ndarray` of shape `(n,)`, int64):
            When each item of a history was chosen, in seconds, oldest first.
        num_buckets (`int`):
            Number of buckets.

    Returns:
        `numpy.ndarray` of shape `(n,)`, int64: for each item, the bucket of the time since the item before it;
        [`NO_GAP`] for the first item.

    Raises:
        ValueError: If a time is earlier than the one before it.
    """
    check_ascending(timestamps)
    gaps = np.diff(timestamps)
    # Whole minutes plus 1 have the exact power of two below them.
    exponents = np.frexp((gaps // _SECONDS + 1).astype(np.float64))[1] - 1
    return np.concatenate([np.full(min(len(timestamps), 1), NO_GAP), np.minimum(exponents, num_buckets - 1)])


class TimeGaps(nn.Module):
    """
    Learned vectors of time gaps, which are added to the patches of items. All are zero before training.

    Args:
        num_buckets (`int`):
            Number of buckets (see [`gap_buckets`]).
        hidden_size (`int`):
            Size of a patch.
    """

    def __init__(self, num_buckets: int, hidden_size: int) -> None:
        super().__init__()
        # A parameter of this module, not of an `nn.Embedding`: transformers would fill that with random numbers.
        self.weight = nn.Parameter(torch.zeros(num_buckets, hidden_size))

    def forward(self, buckets: torch.Tensor) -> torch.Tensor:
        """Returns the vectors of `buckets` (int64, shape `(n,)`), shape `(n, H)`."""
        return F.embedding(buckets, self.weight)
