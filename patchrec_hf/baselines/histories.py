"""Histories: checks the arguments of a baseline's `score`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


HISTORIES_PER_BATCH = 256
"""Number of histories that are scored together, which bounds the memory."""


def check_histories(histories: Sequence[Sequence[int]]) -> None:
    """
    Checks the histories that `score` gets. The items are not checked here: the catalog raises for unknown ones.

    Args:
        histories (`Sequence[Sequence[int]]`):
            Item ids, oldest first.

    Raises:
        TypeError: If `histories` is one history instead of several.
        ValueError: If a history is empty.
    """
    for index, history in enumerate(histories):
        if not isinstance(history, Sequence | np.ndarray):
            raise TypeError(f"A history is a list of item ids, got {history!r}. Score a single one by `score([ids])`.")
        if len(history) == 0:
            raise ValueError(f"History {index} is empty; it needs at least one item.")
