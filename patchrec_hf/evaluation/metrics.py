"""Metrics: HR, NDCG and MRR from the ranks of targets, their intervals, and compression ratios. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..runtime.score_ties import tie_width


def _as_ranks(ranks: np.ndarray | Sequence[float]) -> np.ndarray:
    values = np.asarray(ranks, dtype=np.float64)
    if values.size == 0:
        raise ValueError("No ranks to average; the evaluated split is empty.")
    if not (values >= 1).all():
        raise ValueError(f"Ranks start at 1 (infinity: not ranked), got {values[~(values >= 1)][0]}.")
    return values


def per_target_metrics(ranks: np.ndarray | Sequence[float], ks: Sequence[int]) -> dict[str, np.ndarray]:
    """
    Computes HR@k, NDCG@k and MRR@k of each target. A ranking has one target, so its ideal DCG is 1.

    Args:
        ranks (`numpy.ndarray` of shape `(num_targets,)`):
            Rank of each target: 1 is first, infinity is not ranked.
        ks (`Sequence[int]`):
            Cut-offs.

    Returns:
        `dict[str, numpy.ndarray]`: `hr@k`, `ndcg@k` and `mrr@k` for each cut-off, float64, one value per target.

    Raises:
        ValueError: If there are no ranks, or a rank or cut-off is less than 1.

    Example:
    ```python
    >>> per_target_metrics([1, 3], ks=[2])
    {'hr@2': array([1., 0.]), 'ndcg@2': array([1., 0.]), 'mrr@2': array([1., 0.])}
    ```
    """
    values = _as_ranks(ranks)
    if len(ks) == 0:
        raise ValueError("`ks` must hold at least one cut-off.")
    gains = 1.0 / np.log2(values + 1.0)
    metrics = {}
    for k in ks:
        if k < 1:
            raise ValueError(f"A cut-off must be at least 1, got {k}.")
        hits = values <= k
        metrics[f"hr@{k}"] = hits.astype(np.float64)
        metrics[f"ndcg@{k}"] = np.where(hits, gains, 0.0)
        metrics[f"mrr@{k}"] = np.where(hits, 1.0 / values, 0.0)
    return metrics


def ranking_metrics(ranks: np.ndarray | Sequence[float], ks: Sequence[int]) -> dict[str, float]:
    """
    Computes the means of [`per_target_metrics`].

    Args:
        ranks (`numpy.ndarray` of shape `(num_targets,)`):
            Rank of each target: 1 is first, infinity is not ranked.
        ks (`Sequence[int]`):
            Cut-offs.

    Returns:
        `dict[str, float]`: `hr@k`, `ndcg@k` and `mrr@k` for each cut-off.

    Example:
    ```python
    >>> ranking_metrics([1, 3], ks=[2])
    {'hr@2': 0.5, 'ndcg@2': 0.5, 'mrr@2': 0.5}
    ```
    """
    return {name: float(values.mean()) for name, values in per_target_metrics(ranks, ks).items()}


def ranks_from_scores(
    scores: np.ndarray,
    targets: np.ndarray,
    allowed: np.ndarray | None = None,
    widths: np.ndarray | None = None,
) -> np.ndarray:
    """
    Ranks the targets among all scored items. Items with equal scores share the mean of their ranks, so a scorer gains
    nothing from the order of the catalog. Scores are equal if rounding alone can make their difference (see
    [`tie_width`]).

    Args:
        scores (`numpy.ndarray` of shape `(B, num_items)`):
            Scores; higher is better.
        targets (`numpy.ndarray` of shape `(B,)`, int64):
            Catalog index of each target.
        allowed (`numpy.ndarray` of shape `(B, num_items)`, bool, *optional*):
            Which items compete. They must include the target. All items if not given.
        widths (`numpy.ndarray` of shape `(B,)`, *optional*):
            By how much an equal score may differ from each target's. If not given, [`tie_width`] for the dtype of
            `scores`.

    Returns:
        `numpy.ndarray` of shape `(B,)`, float64; 1 is first.

    Raises:
        ValueError: If a score is NaN.

    Example:
    ```python
    >>> ranks_from_scores(np.array([[3.0, 1.0, 1.0]]), np.array([1]))
    array([2.5])
    ```
    """
    if np.isnan(scores).any():
        raise ValueError("A score is NaN, so nothing can be ranked.")
    above, equal = compare_scores(scores, targets, widths)
    if allowed is not None:
        above, equal = above & allowed, equal & allowed
    return mean_rank(above.sum(axis=1), equal.sum(axis=1))


def compare_scores(
    scores: np.ndarray, targets: np.ndarray, widths: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """
    Compares all scores with the scores of the targets.

    Args:
        scores, targets, widths:
            See [`ranks_from_scores`].

    Returns:
        `tuple[numpy.ndarray, numpy.ndarray]`: which items have a higher score than the target, and which have an equal
        one, among them the target; bool, shape `(B, num_items)`.
    """
    target_scores = np.take_along_axis(scores, targets[:, None], axis=1)
    widths = tie_width(target_scores) if widths is None else widths[:, None]
    # Infinite scores are compared by themselves, because their difference is no number.
    return scores > target_scores + widths, (scores >= target_scores - widths) & (scores <= target_scores + widths)


def mean_rank(num_above: Any, num_equal: Any) -> Any:
    """
    Computes the rank that items with equal scores share: the mean of their ranks.

    Args:
        num_above (`int` or array):
            Items with a higher score.
        num_equal (`int` or array of the same shape):
            Items with the same score, including the ranked item.
    """
    return 1.0 + num_above + (num_equal - 1) / 2


def bootstrap_interval(
    values: np.ndarray,
    user_ids: np.ndarray,
    confidence: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Computes the confidence interval of a mean by resampling users, because the targets of one user are not
    independent.

    To compare two runs on the same targets, pass the differences per target (a paired bootstrap):
    `bootstrap_interval(values_of_one - values_of_other, user_ids)`.

    Args:
        values (`numpy.ndarray` of shape `(num_targets,)` or `(num_targets, num_metrics)`):
            One or several values per target, such as an entry of [`per_target_metrics`].
        user_ids (`numpy.ndarray` of shape `(num_targets,)`):
            User of each target.
        confidence (`float`, *optional*, defaults to `0.95`):
            Share of the resampled means that the interval covers.
        num_resamples (`int`, *optional*, defaults to `1000`):
            Number of times that users are drawn.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the draws.

    Returns:
        `tuple[numpy.ndarray, numpy.ndarray]`: lower and upper bound, each of shape `()` or `(num_metrics,)`. Both are
        NaN if there is only one user, because nothing can be resampled then.

    Raises:
        ValueError: If there are no values.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0:
        raise ValueError("No values to average; the evaluated split is empty.")
    _, user_of_target, sizes = np.unique(user_ids, return_inverse=True, return_counts=True)
    num_users = len(sizes)
    if num_users == 1:
        unknown = np.full(values.shape[1:], np.nan)
        return unknown, unknown
    sums = np.zeros((num_users, *values.shape[1:]))
    np.add.at(sums, user_of_target, values)
    generator, chances = np.random.default_rng(seed), np.full(num_users, 1 / num_users)
    means = np.empty((num_resamples, *values.shape[1:]))
    for resample in range(num_resamples):
        draws = generator.multinomial(num_users, chances)
        means[resample] = (draws @ sums) / (draws @ sizes)
    lower, upper = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return lower, upper


def compression_ratios(fed: np.ndarray, as_text: np.ndarray) -> dict[str, float]:
    """
    Computes the compression ratio (section 4.1.3): tokens before compression / tokens after it, counted in three ways.
    Tokens are summed over all targets before they are divided.

    Args:
        fed (`numpy.ndarray` of shape `(num_targets, 3)`, int64):
            For each target, the [`TokenCounts`] of its prompt: title tokens and patches, history, prompt.
        as_text (`numpy.ndarray` of shape `(num_targets, 3)`, int64):
            The same counts with every item as text.

    Returns:
        `dict[str, float]`:
            - `compression_ratio`: of title tokens and patches, without separators, as the paper counts.
            - `compression_ratio_history`: of the history with its separators.
            - `compression_ratio_prompt`: of the whole prompt.

            1 means no compression; 4 means that the model reads a quarter of the tokens.
    """
    before, after = (np.asarray(counts).sum(axis=0).tolist() for counts in (as_text, fed))
    names = ("compression_ratio", "compression_ratio_history", "compression_ratio_prompt")
    # Histories without items have no title token, before and after.
    return {
        name: tokens / shorter if shorter else 1.0 for name, tokens, shorter in zip(names, before, after, strict=True)
    }
