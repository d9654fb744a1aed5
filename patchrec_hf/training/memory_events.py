"""Memory events: tells the user before the first step what training needs, and what to lower if it does not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.training_args import OptimizerNames
from transformers.utils import logging

from ..batches.collators import PatchDataCollator
from ..batches.sampling import ScheduledRow
from ..data.rows import select_spaced
from ..runtime.long_layouts import BudgetLayout
from ..runtime.sharding import is_plain_linear
from .arguments import PatchFinetuneConfig
from .free_memory import free_memory
from .memory import GIB, MemoryEstimate, estimate_memory
from .memory_sizes import BatchShape, ModelSize, WeightMemory


logger = logging.get_logger(__name__)

_SAMPLE_ROWS = 256
_PROGRESS = (0.0, 0.1, 0.25, 0.5)
"""Padded batches of pre-training are longest at first, and packed ones a little later."""


class MemoryEvents(TrainerCallback):
    """
    Prints an estimate of the memory before the first step, and warns if it is more than the device has.

    Args:
        estimate (`Callable[[int], MemoryEstimate]`):
            Estimates the memory of training with a number of rows in a forward.
        has_adapter (`bool`):
            Whether an adapter is trained, so that the warning does not recommend one.
    """

    def __init__(self, estimate: Callable[[int], MemoryEstimate], has_adapter: bool) -> None:
        self.estimate = estimate
        self.has_adapter = has_adapter

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        rows = args.per_device_train_batch_size
        estimate = self.estimate(rows)
        print(estimate)
        if not estimate.fits:
            logger.warning(self._advice(args, estimate, rows))

    def _advice(self, args: TrainingArguments, estimate: MemoryEstimate, rows: int) -> str:
        """Says what to lower. The first advice changes neither what is learned nor how fast."""
        rows_of_step = args.gradient_accumulation_steps * rows
        fewer, smaller = rows, estimate
        while not smaller.fits and fewer > 1:
            # Only a divisor keeps the rows of a step.
            fewer = max(number for number in range(1, fewer) if rows_of_step % number == 0)
            smaller = self.estimate(fewer)
        steps = rows_of_step // fewer
        needs = f"about {smaller.total / GIB:.1f} GiB"
        if smaller.fits:
            first = (
                f"Set `per_device_train_batch_size={fewer}` and `gradient_accumulation_steps={steps}`: that needs "
                f"{needs}, and a step learns from as many rows as now."
            )
        else:
            first = f"A smaller batch is not enough: with `per_device_train_batch_size=1`, training needs {needs}."
        others = [
            advice
            for advice, applies in (
                ("`activation_checkpointing=True` computes layers again instead of keeping what they need", True),
                (
                    "`bf16=True` (on a CPU with `use_cpu=True`) halves most of the activations",
                    not (args.bf16 or args.fp16),
                ),
                (
                    "LoRA (`peft_config`) needs no gradients and optimizer's state of the backbone",
                    not self.has_adapter,
                ),
            )
            if applies and not (args.activation_checkpointing and "activation_checkpointing" in advice)
        ]
        return (
            f"Training needs about {estimate.total / GIB:.1f} GiB, but {estimate.device} has "
            f"{(estimate.available or 0) / GIB:.1f} GiB. It may be stopped by the system. {first} These lower it "
            f"too: a smaller `max_history` or fewer `targets_per_row`; {'; '.join(others)}."
        )


def estimate_training(
    model: torch.nn.Module,
    args: PatchFinetuneConfig,
    collator: PatchDataCollator,
    rows: Dataset,
    rows_per_forward: int,
    sharding: int = 0,
) -> MemoryEstimate:
    """
    Estimates the memory of training on one process, from its largest batch (see [`largest_batch`]).

    Args:
        model ([`PatchRecForCausalLM`] or [`~peft.PeftModel`]):
            The model.
        args ([`PatchFinetuneConfig`]):
            Training arguments.
        collator ([`PatchDataCollator`]):
            Makes batches.
        rows ([`~datasets.Dataset`]):
            Training rows.
        rows_per_forward (`int`):
            Rows that this process reads for one forward.
        sharding (`int`, *optional*, defaults to `0`):
            See [`WeightMemory.of`].

    Returns:
        [`MemoryEstimate`]
    """
    patchrec_model: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    config = patchrec_model.config.decoder_config
    is_half = patchrec_model.dtype != torch.float32
    uses_autocast = not is_half and (args.bf16 or args.fp16)
    weights = WeightMemory.of(
        model.parameters(), OptimizerNames(args.optim).value, uses_autocast, args.world_size, sharding
    )
    batch = largest_batch(collator, rows, rows_per_forward)
    if sharding == 3 or not is_plain_linear(patchrec_model.lm_head):  # such a head computes all logits
        batch = replace(batch, choice_tokens=0)
    return estimate_memory(
        ModelSize.from_config(config),
        weights,
        batch,
        attention=config._attn_implementation,
        element_size=2 if is_half or uses_autocast else 4,
        uses_autocast=uses_autocast,
        checkpoints_layers=bool(args.activation_checkpointing),
        available=free_memory(args.device, weights.weights),
        device=args.device.type,
    )


def largest_batch(collator: PatchDataCollator, rows: Dataset, rows_per_forward: int) -> BatchShape:
    """
    Collates the longest rows of a sample, at some moments of training. The sample has 256 evenly spaced rows, or as
    many as a batch needs. Rows that draw their budgets (see [`BudgetLayout`]) get the largest one.

    Args:
        collator ([`PatchDataCollator`]):
            Makes batches.
        rows ([`~datasets.Dataset`]):
            Training rows.
        rows_per_forward (`int`):
            Rows of a batch.

    Returns:
        [`BatchShape`]: of the batch with the most positions.
    """
    layout = collator.layout or collator.processor.layout
    if isinstance(layout, BudgetLayout):
        collator = replace(collator, layout=layout.with_budget(layout.max_tokens))
    sample = select_spaced(rows, max(_SAMPLE_ROWS, rows_per_forward))
    longest = collator.row_lengths(sample).argsort()[::-1][:rows_per_forward]
    chosen = sample.select(longest.tolist()).to_list()
    shapes = [
        BatchShape.from_batch(collator([ScheduledRow(row, 0, progress) for row in chosen])) for progress in _PROGRESS
    ]
    return max(shapes, key=lambda shape: shape.positions)
