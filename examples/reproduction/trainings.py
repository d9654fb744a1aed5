"""Trains one stage of an LLM: resumes it where it was interrupted, and measures its time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback

from patchrec_hf import (
    ALL_PATCH_PRESET,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchPretrainConfig,
    PatchPretrainDataCollator,
    PatchPretrainTrainer,
    last_checkpoint,
)
from patchrec_hf.data.rows import select_spaced
from patchrec_hf.runs import write_json
from patchrec_hf.training.checkpoints import RUN_NAME

from .costs import fitting_forward, this_device
from .stages import Stage, all_patch_training, forwards_per_step
from .study import Study


_TRAINERS = {
    "pretrain": (PatchPretrainTrainer, PatchPretrainConfig),
    "dropout": (PatchPretrainTrainer, PatchPretrainConfig),
    "finetune": (PatchFinetuneTrainer, PatchFinetuneConfig),
    "items": (PatchFinetuneTrainer, PatchFinetuneConfig),
}
_MAX_ROWS_TO_CHOOSE = 2000
"""Validation rows that choose the epoch of the all-patch recipe, evenly spaced."""


def train_stage(study: Study, stage: Stage, checkpoint: str) -> dict[str, Any]:
    """Trains a stage, unless it is finished, and returns what it took. An interrupted stage is resumed."""
    stage_file, state = stage.directory / "stage.json", PartialState()
    if stage_file.exists():
        return json.loads(stage_file.read_text(encoding="utf-8"))
    trainer_class, config_class = _TRAINERS[stage.name]
    processor = study.processor(stage.layout, stage.max_history, predicts_items=stage.name == "items")
    settings, targets_per_row = _settings(study, stage, float(processor.title_tokens.lengths.mean()))
    splits, _ = study.load(stage.max_history, targets_per_row)
    collator = None
    if stage.name == "dropout":
        collator = PatchPretrainDataCollator(processor, seed=study.seed, twin="dropped")
    stopwatch = Stopwatch(stage.directory / "seconds.json")
    trainer = trainer_class(
        checkpoint,
        config_class(
            str(stage.directory),
            num_train_epochs=stage.num_examples / study.num_train_examples,
            learning_rate=stage.learning_rate,
            activation_checkpointing=study.scale.activation_checkpointing,
            save_total_limit=1,
            report_to="none",
            seed=study.seed,
            use_cpu=not torch.accelerator.is_available(),  # else processes on a CPU would not know of each other
            **settings,
        ),
        train_dataset=splits["train"],
        eval_dataset=select_spaced(splits["validation"], _MAX_ROWS_TO_CHOOSE) if stage.name == "items" else None,
        processing_class=processor,
        data_collator=collator,
        callbacks=[stopwatch],
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(stage.directory))
    trainer.save_model(stage.checkpoint)
    args, steps = trainer.args, trainer.state.global_step
    values = {
        "stage": stage.name,
        "examples": stage.num_examples,
        "steps": steps,
        "rows_per_step": args.per_device_train_batch_size * args.gradient_accumulation_steps * state.num_processes,
        "seconds": stopwatch.seconds,
        "machine": {
            "device": state.device.type,
            "processes": state.num_processes,
            "threads": torch.get_num_threads(),
        },
    }
    if stage.name == "items":
        best = trainer.state.best_global_step or steps
        values |= {"epochs": args.num_train_epochs, "best_epoch": round(best / steps * args.num_train_epochs, 2)}
    if state.is_main_process:
        write_json(stage_file, values)
    state.wait_for_everyone()
    return values


def _settings(study: Study, stage: Stage, title_tokens: float) -> tuple[dict[str, Any], int]:
    """Returns the training arguments that the kind of a stage decides, and the number of targets per training row."""
    scale = study.scale
    if stage.name == "items":
        preset = all_patch_training(study)
        own = {
            **{name: value for name, value in preset.items() if name not in ("learning_rate", "num_train_epochs")},
            "per_device_train_batch_size": max(
                preset["per_device_train_batch_size"] // PartialState().num_processes, 1
            ),
            # Validation chooses the epoch.
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
            "load_best_model_at_end": True,
            "metric_for_best_model": "hr@20",
            "greater_is_better": True,
            "eval_max_rows": None,
            "per_device_eval_batch_size": 64,
            "logging_strategy": "epoch",
        }
        return own, ALL_PATCH_PRESET.rows["targets_per_row"]
    per_device = rows_per_forward(study, stage, title_tokens)
    return {
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": forwards_per_step(study, per_device),
        "weight_decay": scale.weight_decay,
        "max_grad_norm": scale.max_grad_norm,
        "title_normalizer": stage.title_normalizer,
        "title_temperature": stage.title_temperature,
        "logging_steps": 50,
        "save_steps": 0.2,
    }, scale.targets_per_row


def rows_per_forward(study: Study, stage: Stage, title_tokens: float) -> int:
    """
    Returns the rows of a forward of each process. A resumed stage keeps its number, because a checkpoint needs equal
    forwards, and the free memory may have changed.
    """
    checkpoint = last_checkpoint(stage.directory)
    if checkpoint is None or study.per_device_batch_size is not None:
        number, memory = fitting_forward(study, stage, title_tokens, this_device())
        if not memory.fits:
            PartialState().print(f"{stage.name} may run out of memory. {memory}")
        return number
    facts = json.loads((Path(checkpoint) / RUN_NAME).read_text(encoding="utf-8"))
    return max(facts["rows per forward of all processes"] // PartialState().num_processes, 1)


class Stopwatch(TrainerCallback):
    """
    Measures the seconds of training across interruptions, without evaluations. For each step with a checkpoint, the
    seconds so far are written to a file. On a CPU, the stopwatch counts the process's computing time, so that other
    programs on the machine do not change a budget.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds = 0.0
        self._now = time.process_time if PartialState().device.type == "cpu" else time.perf_counter

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step:
            self.seconds = self._kept()[str(state.global_step)]
        self._begin = self._now() - self.seconds

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds = self._now() - self._begin
        self._keep(state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._keep(state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._begin = self._now() - self.seconds

    def _keep(self, state: Any, control: Any) -> None:
        # Written before the checkpoint, so that every checkpoint has its seconds.
        if control.should_save and state.is_world_process_zero:
            write_json(self.path, {**self._kept(), str(state.global_step): self.seconds})

    def _kept(self) -> dict[str, float]:
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
