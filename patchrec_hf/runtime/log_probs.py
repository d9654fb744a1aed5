"""Log-probabilities: turns scores into log-probabilities over the catalog."""

from __future__ import annotations

import numpy as np

from .title_similarity import log_shares


def log_smoothed_shares(scores: np.ndarray) -> np.ndarray:
    """
    Turns counts into log-probabilities: log((q + ε) / (1 + n ε)) with ε = 10⁻⁴, where q is an item's share of the sum
    of its row, and n the number of items. Up to a constant for each row, these are [`log_shares`]. A row of zeros
    gives each item the same probability.

    Args:
        scores (`numpy.ndarray` of shape `(B, num_items)`):
            Scores of at least 0.

    Returns:
        `numpy.ndarray` of shape `(B, num_items)`, float64. `exp` of each row sums to 1.
    """
    return log_softmax(log_shares(scores))


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
