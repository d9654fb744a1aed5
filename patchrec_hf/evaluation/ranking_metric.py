"""The metrics of this library for scripts that use the library `evaluate`."""

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
    predictions (`list[list[int]]` or `list[list[str]]`): ranked item ids of each target, best first; each id at most
        once.
    references (`list[int]` or `list[str]`): item id of each target.
    ks (`list[int]`, defaults to `[10, 20]`): cut-offs, none larger than the length of the shortest list.
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
            features=[
                Features({"predictions": SequenceFeature(Value(kind)), "references": Value(kind)})
                for kind in ("int64", "string")
            ],
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[int | str]],
        references: Sequence[int | str],
        ks: Sequence[int] = (10, 20),
    ) -> dict[str, Any]:
        ranks = []
        for row, (ranked, target) in enumerate(zip(predictions, references, strict=True)):
            if len(ranked) < max(ks):
                raise ValueError(
                    f"Row {row} ranks {len(ranked)} items, too few for a cut-off of {max(ks)}: the target may come "
                    "after the end of the list. Rank more items, or choose smaller cut-offs."
                )
            if len(set(ranked)) < len(ranked):
                raise ValueError(f"Row {row} ranks an item twice: {list(ranked)}.")
            indices = np.flatnonzero(np.asarray(ranked) == target)
            ranks.append(indices[0] + 1.0 if len(indices) else np.inf)
        return ranking_metrics(ranks, ks)
