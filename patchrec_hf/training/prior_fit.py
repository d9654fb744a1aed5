"""The former way to fit a prior: it warns, and fits a fusion of the four parts that a prior had."""

from __future__ import annotations

import warnings

from datasets import Dataset
from peft import PeftModel

from ..baselines.co_visitation import CoVisitation
from ..runtime.modeling import PatchRecForCausalLM
from ..runtime.processing import PatchRecProcessor
from .fusion_fit import fit_fusion


_PARTS_OF_PRIOR = ("item", "co_visits", "similar_titles", "seen")


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
    """Former name of [`fit_fusion`]. It fits a fusion of the four parts that a prior had."""
    warnings.warn(
        "`fit_prior` is deprecated; use `fit_fusion(model, processor, train_dataset, validation)`.",
        FutureWarning,
        stacklevel=2,
    )
    return fit_fusion(
        model,
        processor,
        train_dataset,
        validation,
        _PARTS_OF_PRIOR,
        co_visitation=co_visitation,
        max_neighbors=max_neighbors,
        batch_size=batch_size,
        show_progress=show_progress,
    )
