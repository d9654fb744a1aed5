"""Ties: reproduces the order of simultaneous interactions in the paper's released files."""

from __future__ import annotations

import numpy as np


TIES = ("stable", "release")
"""Orders of a user's simultaneous interactions: as in the file, or as in the paper's released files."""

_INSERTION_SORT_SIZE = 16


def check_ties(ties: str) -> None:
    """
    Checks the name of an order.

    Raises:
        ValueError: If it is none of [`TIES`].
    """
    if ties not in TIES:
        authors = " The order in the authors' files is called 'release'." if ties == "authors" else ""
        raise ValueError(f"`ties` must be 'stable' or 'release', got {ties!r}.{authors}")


def release_order(timestamps: np.ndarray) -> np.ndarray:
    """
    Sorts one user's interactions into the order of the paper's released files, which come from NumPy's former
    quicksort. That sort is not stable: it takes the median of three as pivot and leaves partitions of up to 16 to an
    insertion sort. It is written out here because NumPy's current sort depends on the processor.

    Args:
        timestamps (`numpy.ndarray` of shape `(num_interactions,)`):
            Timestamps, in the order of the raw file.

    Returns:
        `numpy.ndarray` of shape `(num_interactions,)`, int64: indices into `timestamps`, in sorted order.
    """
    values = timestamps.tolist()
    order = list(range(len(values)))
    depth_limit = 2 * max(len(values).bit_length() - 1, 0)
    pending = [(0, len(values) - 1, depth_limit)]
    while pending:
        low, high, depth = pending.pop()
        if depth < 0:
            order[low : high + 1] = _heap_sorted(values, order[low : high + 1])
            continue
        while high - low >= _INSERTION_SORT_SIZE:
            pivot = _partition(values, order, low, high)
            depth -= 1
            # The larger part waits in `pending`. Its depth is checked when it is popped.
            if pivot - low < high - pivot:
                pending.append((pivot + 1, high, depth))
                high = pivot - 1
            else:
                pending.append((low, pivot - 1, depth))
                low = pivot + 1
        _insertion_sort(values, order, low, high)
    return np.array(order, dtype=np.int64)


def _partition(values: list[int], order: list[int], low: int, high: int) -> int:
    """Moves the pivot to its final index, with nothing larger before it and nothing smaller after it. Returns it."""
    middle = low + (high - low) // 2
    for left, right in ((low, middle), (middle, high), (low, middle)):
        if values[order[right]] < values[order[left]]:
            order[left], order[right] = order[right], order[left]
    pivot = values[order[middle]]
    up, down = low, high - 1
    order[middle], order[down] = order[down], order[middle]
    while True:
        up += 1
        while values[order[up]] < pivot:
            up += 1
        down -= 1
        while pivot < values[order[down]]:
            down -= 1
        if up >= down:
            break
        order[up], order[down] = order[down], order[up]
    order[up], order[high - 1] = order[high - 1], order[up]
    return up


def _insertion_sort(values: list[int], order: list[int], low: int, high: int) -> None:
    for index in range(low + 1, high + 1):
        current = order[index]
        hole = index
        while hole > low and values[current] < values[order[hole - 1]]:
            order[hole] = order[hole - 1]
            hole -= 1
        order[hole] = current


def _heap_sorted(values: list[int], part: list[int]) -> list[int]:
    """Heap sort, which the quicksort uses where its partitions are too uneven."""
    heap = [-1, *part]  # the children of node `n` are `2 n` and `2 n + 1`

    def sift_down(root: int, size: int) -> None:
        moved = heap[root]
        child = 2 * root
        while child <= size:
            if child < size and values[heap[child]] < values[heap[child + 1]]:
                child += 1
            if values[moved] >= values[heap[child]]:
                break
            heap[root] = heap[child]
            root, child = child, 2 * child
        heap[root] = moved

    size = len(part)
    for root in range(size // 2, 0, -1):
        sift_down(root, size)
    while size > 1:
        heap[1], heap[size] = heap[size], heap[1]
        size -= 1
        sift_down(1, size)
    return heap[1:]
