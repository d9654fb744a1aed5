"""Log-probabilities: turns scores into log-probabilities over the catalog."""

from __future__ import annotations

import numpy as np

from .title_similarity import SMOOTHING


def log_smoothed_shares(scores: np.ndarray) -> np.ndarray:
    """
    Turns counts into log-probabilities: log((q + ε) / (1 + n ε)) with ε = 10⁻⁴, where q is an item's share of the sum
    of its row, and n the number of items. Up to a constant for each row, these are the features of
    a [`Fusion`]. A row of zeros gives each item the same probability.

    Args:
        scores (`numpy.ndarray` of shape `(B, num_items)`):
            Scores of at least 0.

    Returns:
        `numpy.ndarray` of shape `(B, num_items)`, float64. `exp` of each row sums to 1.
    """
    sums = scores.sum(axis=1, keepdims=True, dtype=np.float64)
    shares = np.divide(scores, sums, out=np.full(scores.shape, 1 / scores.shape[1]), where=sums > 0)
    return np.log(shares + SMOOTHING) - np.log1p(scores.shape[1] * SMOOTHING)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """
    Turns logits into log-probabilities.

    Args:
        scores (`numpy.ndarray` of shape `(B, num_items)`):
            Logits.

    Returns:
        `numpy.ndarray` of shape `(B, num_items)`, float64. `exp` of each row sums to 1.
    """
    shifted = scores.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
