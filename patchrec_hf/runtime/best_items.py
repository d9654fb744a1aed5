"""Best items: selects the k best items of each row by their scores."""

from __future__ import annotations

import numpy as np

from .prefixes import ranks_in_groups


_NUMBERS_AT_ONCE = 2**23
"""Scores of whole rows that are in memory at once: 64 MiB in float64."""


def rows_at_once(num_items: int) -> int:
    """Returns how many rows of scores of all items are in memory at once: many for a small catalog, and at least 1."""
    return max(1, _NUMBERS_AT_ONCE // num_items)


def best_items(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Selects the k best items of each row.

    Args:
        scores (`numpy.ndarray` of shape `(B, num_items)`):
            Scores; an item with -infinity is never selected.
        k (`int`):
            Number of items, at most `num_items`.

    Returns:
        `tuple[numpy.ndarray, numpy.ndarray]`: the items (int64, best first, equal scores in catalog order) and their
        scores, both of shape `(B, k)`; -1 and -infinity where there are fewer.
    """
    num_rows, num_items = scores.shape
    kth_best = np.partition(scores, num_items - k, axis=1)[:, num_items - k]
    rows, items = np.nonzero((scores >= kth_best[:, None]) & (scores > -np.inf))
    return best_of_rows(rows, items, scores[rows, items], num_rows, k)


def best_of_rows(
    rows: np.ndarray, items: np.ndarray, scores: np.ndarray, num_rows: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """As [`best_items`], for items that are listed with their rows."""
    order = np.lexsort((items, -scores, rows))
    ranks = ranks_in_groups(rows[order])
    order, ranks = order[ranks < k], ranks[ranks < k]
    found, found_scores = np.full((num_rows, k), -1), np.full((num_rows, k), -np.inf)
    found[rows[order], ranks] = items[order]
    found_scores[rows[order], ranks] = scores[order]
    return found, found_scores
