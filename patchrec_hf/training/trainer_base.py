"""Base of the trainer's parts: the attributes that they share."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from datasets import IterableDataset
from peft import PeftModel
from trl import SFTTrainer

from ..batches.collators import PatchDataCollator
from ..batches.statistics import StepStatistics
from ..runtime.modeling import PatchRecForCausalLM
from ..runtime.processing import PatchRecProcessor
from .arguments import PatchFinetuneConfig
from .checkpoint_callback import CheckpointCallback


class TrainerBase(SFTTrainer):
    """Base of [`RankingEvaluation`], [`TrainerFiles`] and [`PatchTrainer`], which sets these attributes."""

    stage: ClassVar[str]
    """Name of the stage in checkpoints and model cards."""
    card_tags: ClassVar[tuple[str, ...]] = ("patchrec", "recommender-system", "trl", "sft")

    args: PatchFinetuneConfig
    data_collator: PatchDataCollator
    processing_class: PatchRecProcessor
    model: torch.nn.Module

    _checkpoints: CheckpointCallback
    _stream: IterableDataset | None
    _train_statistics: StepStatistics
    _eval_statistics: StepStatistics

    def _write_card(self, directory: Path) -> None:
        raise NotImplementedError

    @property
    def _patchrec_model(self) -> PatchRecForCausalLM:
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if isinstance(model, PeftModel) else model
