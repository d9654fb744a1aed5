"""Trains Vanilla and PatchRec in stages, ranks them, and measures the time of both."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from patchrec_hf import (
    EvaluationReport,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchPretrainConfig,
    PatchPretrainDataCollator,
    PatchPretrainTrainer,
    PatchRecommender,
    evaluate_model,
    last_checkpoint,
)
from patchrec_hf.data.rows import select_spaced
from patchrec_hf.runs import write_json
from patchrec_hf.training.checkpoints import RUN_NAME

from .costs import fitting_forward, this_device
from .stages import Stage, budget_of, forwards_per_step, rows_per_step, stages_of
from .study import RANKINGS, Study, summarize


_TRAINERS = {
    "pretrain": (PatchPretrainTrainer, PatchPretrainConfig),
    "dropout": (PatchPretrainTrainer, PatchPretrainConfig),
    "finetune": (PatchFinetuneTrainer, PatchFinetuneConfig),
}
_RELEASE_KS = (10, 20)
"""The released code decodes the test rows once for each cut-off."""


def run_llm(study: Study, name: str) -> dict[str, Any]:
    """Trains and ranks a method, and returns its results. After an interruption, finished stages are not repeated."""
    method, state = study.methods[name], PartialState()
    planned, stages, checkpoint = stages_of(study, name), [], study.backbone
    for stage in planned:
        stages.append(_train(study, stage, checkpoint))
        checkpoint = stage.checkpoint
    unset_hf_deepspeed_config()  # so that under ZeRO-3, each process loads whole models from here on
    recommender = load_llm(study, name)
    model, processor = recommender.model, recommender.processor
    splits, _ = study.load(processor.max_history, min_interactions=method.min_interactions)

    def rank(key: str, split: str, **settings: Any) -> EvaluationReport:
        report = evaluate_model(
            model,
            processor,
            splits[split],
            seed=study.seed,
            train_dataset=splits["train"],
            batch_size=16,
            resume_dir=parts_of(study, name) / key,
            **settings,
        )
        if state.is_main_process:
            report.with_settings(**study.settings(), method=name).save(study.directory(name) / key)
        return report

    results: dict[str, Any] = {}
    for key, (split, exclude_seen) in RANKINGS.items():
        report = rank(key, split, exclude_seen=exclude_seen)
        results[key] = summarize(report)
    if study.scale.release_metrics:
        decoded = [rank(f"release_{k}", "test", protocol="release", k=k) for k in _RELEASE_KS]
        results["release"] = {metric: triple for one in decoded for metric, triple in summarize(one).items()}
    state.wait_for_everyone()
    return {
        "method": name,
        "budget": budget_of(study, name),
        "examples_seen": sum(stage.num_examples for stage in planned),
        "train_seconds": sum(stage["seconds"] for stage in stages),
        "stages": stages,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "history_tokens": report.targets["history_tokens"].mean(),
        "compression_ratio": report.metrics()["compression_ratio"],
        "title_tokens_read": report.targets["tokens_read"].mean(),
        "settings": {"layout": str(processor.layout), "max_history": processor.max_history},
        **results,
    }


def parts_of(study: Study, name: str) -> Path:
    """Returns the directory of the finished parts of a method's rankings, which are kept until it has results."""
    return study.directory(name) / "parts"


def _train(study: Study, stage: Stage, checkpoint: str) -> dict[str, Any]:
    """Trains a stage, unless it is finished, and returns what it took. An interrupted stage is resumed."""
    stage_file, state, scale = stage.directory / "stage.json", PartialState(), study.scale
    if stage_file.exists():
        return json.loads(stage_file.read_text(encoding="utf-8"))
    trainer_class, config_class = _TRAINERS[stage.name]
    processor = study.processor(stage.layout, stage.max_history)
    per_device = rows_per_forward(study, stage, float(processor.title_tokens.lengths.mean()))
    splits, _ = study.load(stage.max_history, scale.targets_per_row)
    args = config_class(
        str(stage.directory),
        num_train_epochs=stage.num_examples / study.num_train_examples,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=forwards_per_step(study, per_device),
        learning_rate=stage.learning_rate,
        weight_decay=scale.weight_decay,
        max_grad_norm=scale.max_grad_norm,
        activation_checkpointing=scale.activation_checkpointing,
        logging_steps=50,
        save_steps=0.2,
        save_total_limit=1,
        report_to="none",
        seed=study.seed,
        use_cpu=not torch.accelerator.is_available(),  # else processes on a CPU would not know of each other
    )
    collator = None
    if stage.name == "dropout":
        collator = PatchPretrainDataCollator(processor, seed=study.seed, twin="dropped")
    stopwatch = Stopwatch(stage.directory / "seconds.json")
    trainer = trainer_class(
        checkpoint,
        args,
        train_dataset=splits["train"],
        processing_class=processor,
        data_collator=collator,
        callbacks=[stopwatch],
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(args.output_dir))
    trainer.save_model(stage.checkpoint)
    values = {
        "stage": stage.name,
        "examples": stage.num_examples,
        "steps": trainer.state.global_step,
        "rows_per_step": rows_per_step(study),
        "seconds": stopwatch.seconds,
        "machine": {
            "device": state.device.type,
            "processes": state.num_processes,
            "threads": torch.get_num_threads(),
        },
    }
    if state.is_main_process:
        write_json(stage_file, values)
    state.wait_for_everyone()
    return values


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
    Measures the seconds of training across interruptions. For each step with a checkpoint, the seconds so far are
    written to a file. On a CPU, the stopwatch counts the process's computing time, so that other programs on the
    machine do not change a budget.
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
        # Written before the checkpoint, so that every checkpoint has its seconds.
        if control.should_save and state.is_world_process_zero:
            write_json(self.path, {**self._kept(), str(state.global_step): self.seconds})

    def _kept(self) -> dict[str, float]:
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}


def load_llm(study: Study, name: str) -> PatchRecommender:
    """Loads a method's model, onto the device."""
    recommender = PatchRecommender.from_pretrained(stages_of(study, name)[-1].checkpoint)
    recommender.model.to(PartialState().device)
    return recommender


def latency(study: Study, names: list[str], path: Path, num_rows: int = 64, num_rounds: int = 3) -> dict[str, float]:
    """
    Measures how long each LLM takes to rank the same test rows exactly, relative to the first one. LLMs that were
    trained at equal time are not measured. All keep a prompt's keys and values once. They take turns, so that other
    programs on the machine slow all of them alike. The times are kept at `path`: the same methods are not measured
    again on the same machine. With several processes, nothing is measured.
    """
    names = [name for name in names if name in study.methods and not study.methods[name].at_equal_time]
    if not names:
        return {}
    state = PartialState()
    device = torch.cuda.get_device_name() if state.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"times": {}}
    if list(kept["times"]) == names and (state.num_processes > 1 or kept["device"] == device):
        return kept["times"]
    if state.num_processes > 1:
        return {}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(num_rounds):
        for name in names:
            recommender = load_llm(study, name)
            model, processor = recommender.model, recommender.processor
            splits, _ = study.load(processor.max_history, min_interactions=study.methods[name].min_interactions)
            rows = select_spaced(splits["test"], num_rows)
            evaluate_model(model, processor, rows.select(range(1)), show_progress=False)  # warms up
            begin = time.perf_counter()
            evaluate_model(model, processor, rows, batch_size=16, show_progress=False)
            seconds[name].append(time.perf_counter() - begin)
    times = {name: min(values) / min(seconds[names[0]]) for name, values in seconds.items()}
    write_json(path, {"device": device, "times": times})
    return times
