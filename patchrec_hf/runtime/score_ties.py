"""Score ties: which scores are equal, within what their dtype can tell."""

from __future__ import annotations

from typing import Any

import numpy as np


_ROUNDINGS = 4
"""Number of roundings by which equal scores may differ: a score is computed in several steps, each of which rounds."""


def tie_width(scores: Any, dtype: Any = None, magnitude: float = 0.0) -> np.ndarray:
    """
    Computes by how much another score may differ from a score and still be equal to it, because rounding alone makes
    such a difference.

    Args:
        scores (array of any shape):
            Scores. Infinite ones are equal to themselves alone.
        dtype (`numpy.dtype`, *optional*):
            The dtype in which the scores were computed, if it is not their own. Whole numbers are never rounded.
        magnitude (`float`, *optional*, defaults to `0.0`):
            The size of the numbers that a score is a sum or a difference of, if they are larger than the score.

    Returns:
        `numpy.ndarray` of the shape of `scores`, float64.

    Example:
    ```python
    >>> bool(tie_width(np.float32(-8.0)) < 1e-5)
    True
    ```
    """
    scores = np.asarray(scores)
    dtype = scores.dtype if dtype is None else np.dtype(dtype)
    if dtype.kind != "f":
        return np.zeros(scores.shape)
    sizes = np.abs(scores.astype(np.float64))
    sizes = np.maximum(np.where(np.isfinite(sizes), sizes, 0), magnitude)
    return _ROUNDINGS * float(np.finfo(dtype).eps) * sizes


def model_tie_width(scores: Any) -> np.ndarray:
    """
    Computes [`tie_width`] for the scores of a model, which are differences and sums of float32 numbers about 1 or
    larger, whatever the dtype of its weights. Coarser weights make more scores exactly equal.

    Args:
        scores (array of any shape):
            Scores, of any dtype.

    Returns:
        `numpy.ndarray` of the shape of `scores`, float64; 0 for infinite scores.
    """
    scores = np.asarray(scores, dtype=np.float64)
    return np.where(np.isfinite(scores), tie_width(scores, np.float32, magnitude=1.0), 0.0)
