"""Hops: sparse matrices of transitions from item to item, their sums over hops, and their strongest entries."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from ..runtime.neighbors import is_among_largest


HOP_NEIGHBORS = 50
"""Number of strongest transitions of each item that a hop follows, which bounds time and memory."""
_PRODUCTS_PER_BLOCK = 2**23


def normalized_rows(matrix: sparse.csr_array) -> tuple[sparse.csr_array, np.ndarray]:
    """
    Divides each row by its sum. A row of zeros stays as it is.

    Args:
        matrix (`scipy.sparse.csr_array`):
            Weights of at least 0.

    Returns:
        `tuple` of the normalized matrix and the sum of each row (float64).
    """
    sums = np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()
    values = matrix.data / np.repeat(np.maximum(sums, 1e-30), np.diff(matrix.indptr))
    return _with_values(matrix, values.astype(np.float32)), sums


def strongest(matrix: sparse.csr_array, number: int) -> sparse.csr_array:
    """Returns a matrix with the `number` largest entries of each row. Among equal ones, the first columns stay."""
    if matrix.nnz == 0 or np.diff(matrix.indptr).max() <= number:
        return matrix
    matrix = matrix.sorted_indices()
    return _only(matrix, is_among_largest(_rows_of(matrix), matrix.data, number))


def sum_of_hops(transitions: sparse.csr_array, hops: int, hop_weight: float, number: int) -> sparse.csr_array:
    """
    Computes P + αP² + α²P³ + … of transition probabilities P. From the second hop on, each item follows its
    [`HOP_NEIGHBORS`] strongest transitions, and ways that lead back to their first item do not count.

    Args:
        transitions (`scipy.sparse.csr_array`):
            P.
        hops (`int`):
            Number of terms.
        hop_weight (`float`):
            α.
        number (`int`):
            Number of largest entries of each row that each term keeps.
    """
    near = strongest(transitions, HOP_NEIGHBORS)
    term = strongest(transitions, number)
    total = term
    for hop in range(1, hops):
        term = _next_hop(strongest(term, HOP_NEIGHBORS), near, number)
        total = total + hop_weight**hop * term
    return total


def reranked(scores: sparse.csr_array, titles: sparse.csr_array, title_weight: float) -> sparse.csr_array:
    """Multiplies each score by 1 + `title_weight` times the similarity of the titles of both items."""
    if title_weight == 0:
        return scores
    return (scores + title_weight * scores.multiply(titles)).tocsr()


def scaled_rows(matrix: sparse.csr_array, factors: np.ndarray) -> sparse.csr_array:
    """Multiplies each row by its factor."""
    values = matrix.data * np.repeat(factors, np.diff(matrix.indptr))
    return _with_values(matrix, values.astype(np.float32))


def _next_hop(steps: sparse.csr_array, near: sparse.csr_array, number: int) -> sparse.csr_array:
    size = max(_PRODUCTS_PER_BLOCK // HOP_NEIGHBORS**2, 1)
    blocks = []
    for start in range(0, steps.shape[0], size):  # bounds the memory
        block = (steps[start : start + size] @ near).tocsr()
        blocks.append(strongest(_only(block, _rows_of(block) + start != block.indices), number))
    return sparse.vstack(blocks, format="csr")


def _rows_of(matrix: sparse.csr_array) -> np.ndarray:
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


def _only(matrix: sparse.csr_array, is_kept: np.ndarray) -> sparse.csr_array:
    offsets = np.concatenate([[0], np.cumsum(is_kept)])[matrix.indptr]
    return sparse.csr_array((matrix.data[is_kept], matrix.indices[is_kept], offsets), shape=matrix.shape)


def _with_values(matrix: sparse.csr_array, values: np.ndarray) -> sparse.csr_array:
    return sparse.csr_array((values, matrix.indices, matrix.indptr), shape=matrix.shape)
