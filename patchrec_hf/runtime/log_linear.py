"""Log-linear mixing: weighted sums of log-probabilities over the catalog."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from .log_probs import log_softmax


def mix_log_probs(log_probs: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """
    Mixes log-probabilities: their weighted sum, minus the logarithm of the sum over the catalog.

    Args:
        log_probs (`Mapping[str, numpy.ndarray]`):
            Log-probabilities of each part, shape `(B, num_items)`.
        weights (`Mapping[str, float]`):
            The weight of each part.

    Returns:
        `numpy.ndarray` of shape `(B, num_items)`, float64.
    """
    first, *others = weights
    mixed = weights[first] * log_probs[first].astype(np.float64)
    for name in others:
        mixed += weights[name] * log_probs[name]
    return log_softmax(mixed)


def checked_weights(names: Sequence[str], weights: Mapping[str, float]) -> dict[str, float]:
    """
    Checks that each part has a finite weight.

    Args:
        names (`Sequence[str]`):
            Names of the parts.
        weights (`Mapping[str, float]`):
            The weight of each part.

    Returns:
        `dict[str, float]`: the weights, in the order of `names`.

    Raises:
        ValueError: If a part lacks its weight, a weight belongs to no part, or one is not a finite number.
    """
    if set(weights) != set(names):
        raise ValueError(
            f"A fusion needs one weight for each of its parts ({', '.join(names)}), got weights for "
            f"{', '.join(weights) or 'none of them'}."
        )
    for name, weight in weights.items():
        if not math.isfinite(weight):
            raise ValueError(f"The weight of the fusion's part {name!r} must be a finite number, got {weight}.")
    return {name: float(weights[name]) for name in names}
