"""Fits the prior: counts co-visits, and weighs them, titles and the item head on validation targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from datasets import Dataset
from peft import PeftModel

from ..baselines.co_visitation import CoVisitation
from ..evaluation.targets import find_targets
from ..runtime.item_scorer import ItemScorer
from ..runtime.modeling import PatchRecForCausalLM
from ..runtime.prior import Prior, PriorWeights
from ..runtime.processing import PatchRecProcessor
from ..runtime.progress import progress_bar
from ..runtime.sharding import gathered_root


_MAX_CELLS = 2**25
"""Scores of one kind that are held at once: 128 MiB in float32."""
_MIN_ROWS = 200
_CELLS_PER_BLOCK = 2**21
_MAX_STEPS = 50
_RIDGE = 1e-6


def fit_prior(
    model: PatchRecForCausalLM | PeftModel,
    processor: PatchRecProcessor,
    train_dataset: Dataset,
    validation: Dataset,
    co_visitation: CoVisitation | None = None,
    max_neighbors: int | None = None,
    batch_size: int = 64,
    show_progress: bool = True,
) -> PatchRecProcessor:
    """
    Counts a prior on training rows, and fits its weights on validation rows, which neither the model nor the counts
    have seen. The weights maximize the likelihood of the validation targets in the log-linear model of
    [`PriorWeights`], by Newton's method; the problem is convex.

    The counts join after training, not within the softmax while training: they are then as complete for validation
    targets as they will be for later ones, while counts of the training rows hold the targets' own time.

    Args:
        model ([`PatchRecForCausalLM`] or [`~peft.PeftModel`]):
            A model whose item head has been trained.
        processor ([`PatchRecProcessor`]):
            The model's processor.
        train_dataset ([`~datasets.Dataset`]):
            The rows that the model learned from.
        validation ([`~datasets.Dataset`]):
            Validation rows. For a large catalog, evenly spaced rows are read, so that an array of scores holds at most
            2²⁵ numbers, or 200 rows if that is more.
        co_visitation ([`~patchrec_hf.baselines.CoVisitation`], *optional*):
            Fitted counts. If not given, they are counted here, and their weighting is chosen on `validation`.
        max_neighbors (`int`, *optional*):
            Number of co-visited items that are kept for each item. It bounds the size for large catalogs. All if not
            given.
        batch_size (`int`, *optional*, defaults to `64`):
            Histories per forward.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars.

    Returns:
        [`PatchRecProcessor`]: a copy with the prior. Save it with the model; a checkpoint with it recommends from
        nothing else.

    Raises:
        ValueError: If the model has no item head, or `co_visitation` was counted for another catalog.

    Example:
    ```python
    >>> processor = fit_prior(trainer.model, processor, splits["train"], splits["validation"])
    >>> processor.save_pretrained("outputs/final")
    ```
    """
    model = cast(PatchRecForCausalLM, model.get_base_model() if isinstance(model, PeftModel) else model)
    scorer = ItemScorer(model, processor.with_prior(None))
    if co_visitation is None:
        co_visitation = CoVisitation(processor.catalog)
        co_visitation.fit(train_dataset, validation, max_neighbors=max_neighbors, show_progress=show_progress)
    num_items = len(processor.catalog)
    targets = find_targets(validation, processor.catalog, max_rows=max(_MAX_CELLS // num_items, _MIN_ROWS))
    histories = [history[-processor.max_history :] for history in targets.history_items(np.arange(len(targets)))]
    prior = Prior(co_visitation.table, PriorWeights(1.0, 0.0, 0.0, 0.0))
    products = np.empty((len(histories), num_items), dtype=np.float32)
    was_training = model.training
    model.eval()
    with (
        gathered_root(model),
        progress_bar(show_progress, total=len(histories), desc="Fitting the prior", unit="history") as progress,
    ):
        for rows, part in scorer.products([processor.encode(history) for history in histories], batch_size):
            products[rows] = part
            progress.update(len(rows))
    model.train(was_training)
    features = [
        products,
        *(array.astype(np.float32) for array in prior.features(histories, num_items, processor.title_neighbors)),
    ]
    weights = fit_weights(features, targets.items, start=[1.0, 0.0, 0.0, 0.0])
    return processor.with_prior(Prior(prior.co_visits, PriorWeights(*map(float, weights))))


def fit_weights(features: Sequence[np.ndarray], targets: np.ndarray, start: Sequence[float]) -> np.ndarray:
    """
    Maximizes the likelihood of targets in a log-linear model: p(item) is proportional to exp(Σ weight · feature).

    Args:
        features (`Sequence[numpy.ndarray]`):
            K arrays of shape `(n, num_items)`.
        targets (`numpy.ndarray` of shape `(n,)`, int64):
            The item that was chosen in each row.
        start (`Sequence[float]`):
            K weights to begin with.

    Returns:
        `numpy.ndarray` of shape `(K,)`, float64.
    """
    weights = np.array(start, dtype=np.float64)
    loss, gradient, hessian = _derivatives(features, targets, weights)
    for _ in range(_MAX_STEPS):
        step = np.linalg.solve(hessian + _RIDGE * np.eye(len(weights)), gradient)
        size = 1.0
        while True:  # a full step of Newton's method can be too long
            tried = weights - size * step
            new_loss, new_gradient, new_hessian = _derivatives(features, targets, tried)
            if new_loss <= loss or size < 1e-3:
                break
            size /= 2
        if new_loss > loss - 1e-7:
            break
        weights, loss, gradient, hessian = tried, new_loss, new_gradient, new_hessian
    return weights


def _derivatives(
    features: Sequence[np.ndarray], targets: np.ndarray, weights: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Returns the mean negative log-likelihood, with a small ridge, its gradient and its Hessian."""
    num_rows = len(targets)
    size = max(_CELLS_PER_BLOCK // features[0].shape[1], 1)
    loss, gradient, hessian = 0.0, np.zeros(len(weights)), np.zeros((len(weights), len(weights)))
    for start in range(0, num_rows, size):
        part = np.stack([feature[start : start + size] for feature in features], axis=-1).astype(np.float64)
        rows, chosen = np.arange(len(part)), targets[start : start + size]
        scores = part @ weights
        scores -= scores.max(axis=1, keepdims=True)
        probabilities = np.exp(scores)
        sums = probabilities.sum(axis=1, keepdims=True)
        probabilities /= sums
        loss += float((np.log(sums[:, 0]) - scores[rows, chosen]).sum())
        means = np.einsum("ni,nik->nk", probabilities, part)
        gradient += (means - part[rows, chosen]).sum(axis=0)
        weighted = part * np.sqrt(probabilities)[..., None]
        flat = weighted.reshape(-1, len(weights))
        hessian += flat.T @ flat - means.T @ means
    ridge = _RIDGE * weights
    return loss / num_rows + float(ridge @ weights) / 2, gradient / num_rows + ridge, hessian / num_rows
