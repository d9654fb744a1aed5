"""Fusion: combines the scores of an LLM recommender and a baseline for the best items of both."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from datasets import Dataset

from ..evaluation.metrics import ranking_metrics, ranks_from_scores
from ..evaluation.scorers import Scorer, reads_times, score_at
from ..runtime.catalog import Catalog
from ..runtime.hub_files import FORMAT_VERSION, check_format_version
from ..runtime.progress import progress_bar
from ..runtime.ranking import CatalogRanker, RankingConfig, best_items
from ..runtime.recommender import PatchRecommender
from .histories import HISTORIES_PER_BATCH, check_histories
from .neighbor_recommender import NeighborRecommender
from .popularity import Popularity
from .recommending import CatalogRecommender
from .saved import FUSION_NAME, load_baseline
from .selection import cut_off, single_targets, single_times
from .sequential import SequentialRecommender


WEIGHTS = tuple(np.linspace(0, 1, 21).round(2).tolist())
"""Default weights among which [`Fusion.fit`] chooses."""

_RECOMMENDER_DIRECTORY, _BASELINE_DIRECTORY = "recommender", "baseline"


class Baseline(Scorer, Protocol):
    """A scorer that knows its catalog: for every history, it scores all items of `catalog`."""

    catalog: Catalog


class Fusion(CatalogRecommender):
    """
    Ranks the union of the best items of an LLM and of a baseline by a weighted sum of their scores. The scores are the
    exact log-probabilities of the LLM and the scores of the baseline. Both are standardized over the union (mean 0,
    standard deviation 1).

    Args:
        recommender ([`PatchRecommender`]):
            The LLM.
        baseline ([`~patchrec_hf.baselines.fusion.Baseline`]):
            The baseline, fitted on the data set on which the recommender was trained. Any object with `score` and
            `catalog` can be a baseline.
        weight (`float`, *optional*, defaults to `0.5`):
            Weight of the baseline, between 0 and 1. The LLM has the weight `1 - weight`. [`Fusion.fit`] chooses it.
        num_candidates (`int`, *optional*, defaults to `200`):
            Number of best items that each of the two contributes to the union. For `recommend`, they are chosen among
            the items that may be recommended, and there are more of them if a list of k items needs more.
        batch_size (`int`, *optional*, defaults to `8`):
            Histories per forward of the LLM.

    Raises:
        ValueError: If a number is out of range, or the recommender and the baseline have different catalogs.

    Example:
    ```python
    >>> fusion = Fusion(PatchRecommender.from_pretrained("outputs/final"), baseline).fit(splits["validation"])
    >>> evaluate_scorer(fusion, catalog, splits["test"]).metrics()
    >>> fusion.recommend([3, 14], k=5)
    >>> fusion.save_pretrained("outputs/fusion")  # with both parts
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
                "do not hold the same ids in the same order. Make both from one data set."
            )
        catalog.check_same_titles(baseline.catalog)
        self.catalog = catalog
        self.recommender = recommender
        self.baseline = baseline
        self.weight = weight
        self.num_candidates = num_candidates
        self.batch_size = batch_size

    def fit(
        self, dataset: Dataset, metric: str = "hr@20", weights: Sequence[float] = WEIGHTS, show_progress: bool = True
    ) -> Fusion:
        """
        Chooses the weight. If `weights` holds 0 and 1, as by default, the fusion ranks these targets at least as well
        as the better of its two parts, because the best items of each part are among the candidates.

        Args:
            dataset ([`~datasets.Dataset`]):
                Rows for choosing the weight. Neither part should have been trained on them, so pass validation rows.
            metric (`str`, *optional*, defaults to `"hr@20"`):
                Metric that decides which weight is best: `hr@k`, `ndcg@k` or `mrr@k`, with k up to `num_candidates`.
                If several weights are best, the one nearest to their mean is chosen.
            weights (`Sequence[float]`, *optional*, defaults to `WEIGHTS`):
                Weights to choose from.
            show_progress (`bool`, *optional*, defaults to `True`):
                Whether to show a progress bar.

        Raises:
            ValueError: If `metric` is unknown, its k is above `num_candidates`, or the baseline reads times and the
                rows have no timestamps.
            KeyError: If the catalog lacks an item.
        """
        histories, targets = single_targets(dataset, self.recommender.processor.catalog)
        times = single_times(dataset)
        k = cut_off(metric)
        if k > self.num_candidates:
            raise ValueError(
                f"`metric` counts {k} ranks, but only {self.num_candidates} candidates of each part are ranked. Raise "
                "`num_candidates`."
            )
        ranks: list[list[np.ndarray]] = []
        with progress_bar(show_progress, total=len(histories), desc="Choosing the weight", unit="history") as progress:
            for start in range(0, len(histories), HISTORIES_PER_BATCH):
                part = slice(start, start + HISTORIES_PER_BATCH)
                parts = self._standardized_scores(histories[part], None if times is None else times[part])
                ranks.append([ranks_from_scores(_mix(*parts, weight), targets[part]) for weight in weights])
                progress.update(len(histories[part]))
        values = np.array(
            [ranking_metrics(np.concatenate(column), [k])[metric] for column in zip(*ranks, strict=True)]
        )
        best = np.array(weights)[values == values.max()]
        self.weight = float(best[np.abs(best - best.mean()).argmin()])
        return self

    @property
    def reads_times(self) -> bool:
        """Whether scores depend on the moment of asking, as the baseline's scores may."""
        return reads_times(self.baseline)

    @property
    def next_moment(self) -> int | None:
        """The baseline's [`CatalogRecommender.next_moment`]; `None` for a scorer of your own."""
        return self.baseline.next_moment if isinstance(self.baseline, CatalogRecommender) else None

    def score(self, histories: Sequence[Sequence[int]], times: np.ndarray | None = None) -> np.ndarray:
        """
        Scores every item for every history.

        Args:
            histories (`Sequence[Sequence[int]]`):
                Item ids, oldest first.
            times (`numpy.ndarray` of shape `(B,)`, int64, *optional*):
                The moments of asking, in whole seconds since 1970 UTC. They are needed if the baseline reads them.

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, float64, in catalog order. Items outside the union have
            -infinity.

        Raises:
            ValueError, TypeError: As [`check_histories`], [`score_at`] and [`CatalogRanker.rank`] do.
            FloatingPointError: If the model's scores are not numbers.
            KeyError: If the catalog lacks an item.
        """
        check_histories(histories)
        return _mix(*self._standardized_scores(histories, times), self.weight)

    def score_candidates(
        self, histories: Sequence[Sequence[int]], allowed: np.ndarray, k: int, times: np.ndarray | None = None
    ) -> np.ndarray:
        """Scores the union of each part's best allowed items; see [`CatalogRecommender.score_candidates`]."""
        check_histories(histories)
        return _mix(*self._standardized_scores(histories, times, allowed, k), self.weight)

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """
        Saves the settings as `fusion.json`, and the parts in the subdirectories `recommender` and `baseline`.

        Args:
            save_directory (`str` or `os.PathLike`):
                The directory. It is made if there is none.

        Raises:
            TypeError: If the baseline is a scorer of your own, which only your code can save.
            RuntimeError: If the baseline has not been fitted.
        """
        baseline, directory = self.baseline, Path(save_directory)
        if not isinstance(baseline, (NeighborRecommender, Popularity, SequentialRecommender)):
            raise TypeError(
                f"The fusion's baseline is a `{type(baseline).__name__}`, which the library cannot load again. Save "
                "your parts yourself, and keep the fusion's `weight`."
            )
        baseline.save_pretrained(directory / _BASELINE_DIRECTORY)
        for part in (self.recommender.model, self.recommender.processor):
            part.save_pretrained(directory / _RECOMMENDER_DIRECTORY)
        settings = {"weight": self.weight, "num_candidates": self.num_candidates, "batch_size": self.batch_size}
        text = json.dumps({"format_version": FORMAT_VERSION, **settings}, indent=2)
        (directory / FUSION_NAME).write_text(text, encoding="utf-8")

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike, **kwargs: Any) -> Self:
        """
        Loads a fusion with both parts.

        Args:
            directory (`str` or `os.PathLike`):
                A directory that [`Fusion.save_pretrained`] wrote.
            **kwargs:
                Passed to [`PatchRecommender.from_pretrained`], such as `device_map` and `dtype`.

        Raises:
            FileNotFoundError: If the directory holds no fusion.
            ValueError: If a newer version of the library wrote it.
        """
        path = Path(directory, FUSION_NAME)
        if not path.is_file():
            raise FileNotFoundError(
                f"{directory} holds no fusion: it lacks {FUSION_NAME}. Give the directory that "
                "`Fusion.save_pretrained` wrote."
            )
        settings = json.loads(path.read_text(encoding="utf-8"))
        check_format_version(settings.pop("format_version"), FUSION_NAME)
        recommender = PatchRecommender.from_pretrained(Path(directory, _RECOMMENDER_DIRECTORY), **kwargs)
        return cls(recommender, load_baseline(Path(directory, _BASELINE_DIRECTORY)), **settings)

    def _standardized_scores(
        self,
        histories: Sequence[Sequence[int]],
        times: np.ndarray | None,
        allowed: np.ndarray | None = None,
        num_needed: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Returns both parts' scores, `(B, num_items)` each, standardized over the union and -infinity outside it. The
        union is made of the allowed items; of all if `allowed` is not given. Each part contributes at least
        `num_needed` of them.
        """
        processor = self.recommender.processor
        prompts = [processor.encode(processor.catalog.indices_of(list(history))) for history in histories]
        k = min(max(self.num_candidates, num_needed), len(processor.catalog))
        ranker = CatalogRanker(self.recommender.model, processor, RankingConfig(k=k, batch_size=self.batch_size))
        baseline = np.asarray(score_at(self.baseline, histories, times), dtype=np.float64)
        best, _ = best_items(baseline if allowed is None else np.where(allowed, baseline, -np.inf), k)
        llm = np.full(baseline.shape, -np.inf)
        candidates = None if allowed is None else [np.flatnonzero(row) for row in allowed]
        for ranked in (candidates, [items[items >= 0] for items in best]):
            ranking = ranker.rank(prompts, ranked)
            rows, ranks = np.nonzero(ranking.items >= 0)
            llm[rows, ranking.items[rows, ranks]] = ranking.scores[rows, ranks]
        is_candidate = np.isfinite(llm)
        return _standardize(llm, is_candidate), _standardize(baseline, is_candidate)


def _standardize(scores: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Shifts and scales each row's chosen scores to mean 0 and standard deviation 1. Other scores become -infinity."""
    scores = np.where(chosen, scores, 0.0)
    deviations = np.where(chosen, scores - scores.mean(axis=1, where=chosen, keepdims=True), 0.0)
    spread = np.sqrt((deviations**2).mean(axis=1, where=chosen, keepdims=True))
    return np.where(chosen, deviations / np.maximum(spread, 1e-12), -np.inf)


def _mix(llm: np.ndarray, baseline: np.ndarray, weight: float) -> np.ndarray:
    chosen = np.isfinite(llm)
    mixed = np.full(llm.shape, -np.inf)
    mixed[chosen] = (1 - weight) * llm[chosen] + weight * baseline[chosen]
    return mixed
