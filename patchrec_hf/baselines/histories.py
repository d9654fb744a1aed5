"""Histories: what a baseline's `score` is given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


HISTORIES_PER_BATCH = 256
"""How many are scored together, which bounds the memory."""


def check_histories(histories: Sequence[Sequence[int]]) -> None:
    """
    Checks what `score` is given, but for the items, which the catalog looks up.

    Args:
        histories (`Sequence[Sequence[int]]`):
            Item ids, oldest first.

    Raises:
        TypeError: If it is one history instead of several.
        ValueError: If one is empty.
    """
    for place, history in enumerate(histories):
        if not isinstance(history, Sequence | np.ndarray):
            raise TypeError(f"A history is a list of item ids, got {history!r}. Score a single one by `score([ids])`.")
        if len(history) == 0:
            raise ValueError(f"History {place} is empty; a score needs at least one earlier item.")
