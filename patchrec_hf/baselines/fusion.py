"""Fusion: an LLM recommender and a baseline, each on the best items of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from ..evaluation.metrics import ranking_metrics, ranks_from_scores
from ..evaluation.scorers import Scorer
from ..runtime.catalog import Catalog
from ..runtime.ranking import CatalogRanker, RankingConfig
from ..runtime.recommender import PatchRecommender
from .histories import HISTORIES_PER_BATCH
from .selection import cut_off, single_targets


WEIGHTS = tuple(np.linspace(0, 1, 21).round(2).tolist())
"""Weights that [`Fusion.fit`] chooses from."""


class Baseline(Scorer, Protocol):
    """What scores all items of a catalog, for every history."""

    catalog: Catalog


class Fusion:
    """
    Ranks the union of what two recommenders hold for best, by a weighted sum of their scores: the exact
    log-probabilities of the LLM and the scores of a baseline, each standardized over the union (its mean becomes 0,
    its standard deviation 1).

    Args:
        recommender ([`PatchRecommender`]):
            The LLM.
        baseline ([`~patchrec_hf.baselines.fusion.Baseline`]):
            The baseline, fitted on the data set that the recommender learned from; or any object with its `score` and
            its `catalog`.
        weight (`float`, *optional*, defaults to `0.5`):
            The baseline's, between 0 and 1; the LLM has the rest. [`Fusion.fit`] chooses it.
        num_candidates (`int`, *optional*, defaults to `200`):
            How many best items of each are looked at.
        batch_size (`int`, *optional*, defaults to `8`):
            Histories per forward of the LLM.

    Raises:
        ValueError: If a number is out of range, or the two have different catalogs.

    Example:
    ```python
    >>> fusion = Fusion(PatchRecommender.from_pretrained("outputs/final"), baseline).fit(examples["validation"])
    >>> evaluate_scorer(fusion, catalog, examples["test"]).metrics()
    ```
    """

    def __init__(
        self,
        recommender: PatchRecommender,
        baseline: Baseline,
        weight: float = 0.5,
        num_candidates: int = 200,
        batch_size: int = 8,
    ) -> None:
        if not 0 <= weight <= 1:
            raise ValueError(f"`weight` must lie between 0 and 1, got {weight}.")
        if num_candidates < 1:
            raise ValueError(f"`num_candidates` must be at least 1, got {num_candidates}.")
        catalog = recommender.processor.catalog
        if not np.array_equal(catalog.item_ids, baseline.catalog.item_ids):
            raise ValueError(
                f"The recommender's catalog of {len(catalog)} items and the baseline's of {len(baseline.catalog)} "
                "do not hold the same ids in the same order. Make both of one data set."
            )
        catalog.check_same_titles(baseline.catalog)
        self.recommender = recommender
        self.baseline = baseline
        self.weight = weight
        self.num_candidates = num_candidates
        self.batch_size = batch_size

    def fit(
        self, dataset: Dataset, metric: str = "hr@20", weights: Sequence[float] = WEIGHTS, show_progress: bool = True
    ) -> Fusion:
        """
        Chooses the weight. With 0 and 1 among the choices, as by default, the fusion ranks these targets at least as
        well as the better of its parts, because the best items of each part are among the candidates.

        Args:
            dataset ([`~datasets.Dataset`]):
                Example rows to choose on, which neither part should have learned from: validation.
            metric (`str`, *optional*, defaults to `"hr@20"`):
                What is best: `hr@k`, `ndcg@k` or `mrr@k`, with k up to `num_candidates`. Of several best weights, the
                one nearest to their mean is taken.
            weights (`Sequence[float]`, *optional*, defaults to `WEIGHTS`):
                The choices.
            show_progress (`bool`, *optional*, defaults to `True`):
                Whether to show a progress bar.

        Raises:
            ValueError: If `metric` is not one of these, or its k is above `num_candidates`.
            KeyError: If the catalog lacks an item.
        """
        histories, targets = single_targets(dataset, self.recommender.processor.catalog)
        k = cut_off(metric)
        if k > self.num_candidates:
            raise ValueError(f"`metric` looks at {k} places, but only {self.num_candidates} candidates are ranked.")
        ranks: list[list[np.ndarray]] = []
        with tqdm(total=len(histories), desc="Choosing the weight", disable=not show_progress) as progress:
            for start in range(0, len(histories), HISTORIES_PER_BATCH):
                part = slice(start, start + HISTORIES_PER_BATCH)
                parts = self._standardised(histories[part])
                ranks.append([ranks_from_scores(_mix(*parts, weight), targets[part]) for weight in weights])
                progress.update(len(histories[part]))
        values = np.array(
            [ranking_metrics(np.concatenate(column), [k])[metric] for column in zip(*ranks, strict=True)]
        )
        best = np.array(weights)[values == values.max()]
        self.weight = float(best[np.abs(best - best.mean()).argmin()])
        return self

    def score(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """
        Scores every item for every history.

        Args:
            histories (`Sequence[Sequence[int]]`):
                Item ids, oldest first.

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, float64, in catalog order; -infinity outside of the union.

        Raises:
            ValueError, TypeError, FloatingPointError: As [`CatalogRanker.rank`] does.
            KeyError: If the catalog lacks an item.
        """
        return _mix(*self._standardised(histories), self.weight)

    def _standardised(self, histories: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Both parts' scores, standardized over the union, -infinity outside of it; shape `(B, num_items)` each."""
        processor = self.recommender.processor
        prompts = [processor.encode(processor.catalog.indices_of(list(history))) for history in histories]
        k = min(self.num_candidates, len(processor.catalog))
        ranker = CatalogRanker(self.recommender.model, processor, RankingConfig(k=k, batch_size=self.batch_size))
        baseline = np.asarray(self.baseline.score(histories), dtype=np.float64)
        chosen = np.argpartition(-baseline, k - 1, axis=1)[:, :k]
        llm = np.full(baseline.shape, -np.inf)
        for candidates in (None, list(chosen)):
            ranking = ranker.rank(prompts, candidates)
            rows, ranks = np.nonzero(ranking.items >= 0)
            llm[rows, ranking.items[rows, ranks]] = ranking.scores[rows, ranks]
        is_candidate = np.isfinite(llm)
        return _standardise(llm, is_candidate), _standardise(baseline, is_candidate)


def _standardise(scores: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Each row's chosen scores with mean 0 and standard deviation 1; -infinity for the others."""
    scores = np.where(chosen, scores, 0.0)
    deviations = np.where(chosen, scores - scores.mean(axis=1, where=chosen, keepdims=True), 0.0)
    spread = np.sqrt((deviations**2).mean(axis=1, where=chosen, keepdims=True))
    return np.where(chosen, deviations / np.maximum(spread, 1e-12), -np.inf)


def _mix(llm: np.ndarray, baseline: np.ndarray, weight: float) -> np.ndarray:
    chosen = np.isfinite(llm)
    mixed = np.full(llm.shape, -np.inf)
    mixed[chosen] = (1 - weight) * llm[chosen] + weight * baseline[chosen]
    return mixed
