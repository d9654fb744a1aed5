"""Weights of a fusion: the log-linear mix of parts that makes the targets of validation rows most likely."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.optimize import minimize

from ..runtime.fusion import FusionFit
from ..runtime.fusion_scorer import check_finite


MAX_STEPS = 100
_MAX_CELLS = 2**25
"""Log-probabilities of one part that are held at once: 128 MiB in float32."""
_MIN_ROWS = 200
_CELLS_PER_BLOCK = 2**21
_TOLERANCE = 1e-6
"""Length of the gradient at which the search ends, in nats of the mean log-likelihood per weight."""
_MAX_LENGTH = 1e-5
"""Largest length of the gradient where the search ends that counts as converged."""
_RIDGE = 1e-6
"""Penalty on the squared distance from the best part alone. It keeps weights finite where a part is never wrong."""


def max_rows_to_fit(num_items: int, max_rows: int | None = None) -> int:
    """Returns on how many rows weights are fitted at most, so that the log-probabilities of a part fit into memory."""
    limit = max(_MAX_CELLS // num_items, _MIN_ROWS)
    return limit if max_rows is None else min(limit, max_rows)


def fit_weights(
    log_probs: Mapping[str, np.ndarray], targets: np.ndarray, max_steps: int = MAX_STEPS
) -> tuple[dict[str, float], FusionFit]:
    """
    Maximizes the likelihood of targets in a log-linear mix, where p(item) is proportional to
    exp(Σ weight · log p_part(item)). The problem is convex. The search starts at the best part alone, and so never
    ends below it.

    Args:
        log_probs (`Mapping[str, numpy.ndarray]`):
            The log-probabilities of each of K parts, shape `(n, num_items)`.
        targets (`numpy.ndarray` of shape `(n,)`, int64):
            The item that was chosen in each row.
        max_steps (`int`, *optional*, defaults to `100`):
            Number of steps of the search, at most.

    Returns:
        `tuple[dict[str, float], FusionFit]`: the weight of each part, and the likelihoods.

    Raises:
        ValueError: If there is no part or no target, `max_steps` is below 1, or the weights do not converge.
        FloatingPointError: If a log-probability is not a finite number.
    """
    if not log_probs or len(targets) == 0:
        raise ValueError(f"Weights need at least one part and one target, got {len(log_probs)} and {len(targets)}.")
    if max_steps < 1:
        raise ValueError(f"`max_steps` must be at least 1, got {max_steps}.")
    for name, array in log_probs.items():
        check_finite(name, array)
    names, arrays = list(log_probs), list(log_probs.values())
    alone = [-_derivatives(arrays, targets, weights)[0] for weights in np.eye(len(names))]
    best = np.eye(len(names))[int(np.argmax(alone))]
    objective = _Objective(arrays, targets, best)
    # A region of trust bounds each step: where the likelihood is flat, a plain step of Newton's method is too long.
    result = minimize(
        objective.loss,
        best,
        method="trust-exact",
        jac=objective.gradient,
        hess=objective.hessian,
        options={"maxiter": max_steps, "gtol": _TOLERANCE},
    )
    length = float(np.linalg.norm(objective.gradient(result.x)))
    if not np.isfinite(result.x).all() or not length <= _MAX_LENGTH:
        shown = ", ".join(f"{name} {weight:.4g}" for name, weight in zip(names, result.x, strict=True))
        raise ValueError(
            f"The weights of the fusion did not converge: after {result.nit} steps they are {shown}, and the "
            f"gradient's length is {length:.2g}, where at most {_MAX_LENGTH} was expected. Give more validation rows, "
            "leave out a part that says nearly the same as another one, or raise `max_steps`."
        )
    likelihood = -_derivatives(arrays, targets, result.x)[0]
    weights = dict(zip(names, result.x.tolist(), strict=True))
    return weights, FusionFit(len(targets), likelihood, dict(zip(names, alone, strict=True)))


class _Objective:
    """Penalized mean negative log-likelihood, with its derivatives, which are computed once for each point."""

    def __init__(self, arrays: list[np.ndarray], targets: np.ndarray, center: np.ndarray) -> None:
        self._arrays = arrays
        self._targets = targets
        self._center = center
        self._point: np.ndarray | None = None
        self._values: tuple[float, np.ndarray, np.ndarray] = (0.0, center, center)

    def loss(self, weights: np.ndarray) -> float:
        return self._at(weights)[0]

    def gradient(self, weights: np.ndarray) -> np.ndarray:
        return self._at(weights)[1]

    def hessian(self, weights: np.ndarray) -> np.ndarray:
        return self._at(weights)[2]

    def _at(self, weights: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        if self._point is None or not np.array_equal(self._point, weights):
            loss, gradient, hessian = _derivatives(self._arrays, self._targets, weights)
            distance = weights - self._center
            self._values = (
                loss + _RIDGE * float(distance @ distance) / 2,
                gradient + _RIDGE * distance,
                hessian + _RIDGE * np.eye(len(weights)),
            )
            self._point = weights.copy()
        return self._values


def _derivatives(
    arrays: list[np.ndarray], targets: np.ndarray, weights: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Returns the mean negative log-likelihood, its gradient and its Hessian."""
    num_rows = len(targets)
    size = max(_CELLS_PER_BLOCK // arrays[0].shape[1], 1)
    loss, gradient, hessian = 0.0, np.zeros(len(weights)), np.zeros((len(weights), len(weights)))
    for start in range(0, num_rows, size):
        part = np.stack([array[start : start + size] for array in arrays], axis=-1).astype(np.float64)
        rows, chosen = np.arange(len(part)), targets[start : start + size]
        scores = part @ weights
        scores -= scores.max(axis=1, keepdims=True)
        probabilities = np.exp(scores)
        sums = probabilities.sum(axis=1, keepdims=True)
        probabilities /= sums
        loss += float((np.log(sums[:, 0]) - scores[rows, chosen]).sum())
        means = np.einsum("ni,nik->nk", probabilities, part)
        gradient += (means - part[rows, chosen]).sum(axis=0)
        # Around the means, so that the large common part of log-probabilities cancels before it is squared.
        centered = (part - means[:, None]) * np.sqrt(probabilities)[..., None]
        flat = centered.reshape(-1, len(weights))
        hessian += flat.T @ flat
    return loss / num_rows, gradient / num_rows, hessian / num_rows
