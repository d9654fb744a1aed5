"""The metrics of this library as a metric of `evaluate`, for scripts that use that library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Features, Value
from datasets import Sequence as SequenceFeature

from .metrics import ranking_metrics


try:
    import evaluate
except ImportError as error:
    raise ImportError(
        '`patchrec_hf.evaluation.ranking_metric` needs `evaluate`: pip install "patchrec-hf[evaluate]".'
    ) from error


_DESCRIPTION = "HR@k, NDCG@k and MRR@k of ranked lists with one target each."

_INPUTS = """
Args:
    predictions (`list[list[int]]`): item ids, best first; each at most once.
    references (`list[int]`): the target's item id.
    ks (`list[int]`, defaults to `[10, 20]`): cut-offs, at most as many as the shortest list is long.
Returns:
    `dict[str, float]`: `hr@k`, `ndcg@k` and `mrr@k` for each cut-off.
"""


class RankingMetric(evaluate.Metric):
    """
    HR@k, NDCG@k and MRR@k for [`evaluate`](https://huggingface.co/docs/evaluate): see [`per_target_metrics`].

    Example:
    ```python
    >>> from patchrec_hf.evaluation.ranking_metric import RankingMetric
    >>> RankingMetric().compute(predictions=[[3, 1, 2], [5, 6, 7]], references=[1, 9], ks=[2])
    {'hr@2': 0.5, 'ndcg@2': 0.31546487678572877, 'mrr@2': 0.25}
    ```
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=Features({"predictions": SequenceFeature(Value("int64")), "references": Value("int64")}),
        )

    def _compute(
        self, predictions: Sequence[Sequence[int]], references: Sequence[int], ks: Sequence[int] = (10, 20)
    ) -> dict[str, Any]:
        ranks = []
        for row, (ranked, target) in enumerate(zip(predictions, references, strict=True)):
            if len(ranked) < max(ks):
                raise ValueError(
                    f"Row {row} ranks {len(ranked)} items, too few for a cut-off of {max(ks)}: a target that was not "
                    "ranked cannot be told from one further down."
                )
            if len(set(ranked)) < len(ranked):
                raise ValueError(f"Row {row} ranks an item twice: {list(ranked)}.")
            places = np.flatnonzero(np.asarray(ranked) == target)
            ranks.append(places[0] + 1.0 if len(places) else np.inf)
        return ranking_metrics(ranks, ks)
