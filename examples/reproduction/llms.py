"""Trains Vanilla and PatchRec in stages, ranks them, and measures the time of both."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from patchrec_hf import (
    ItemPatchLayout,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchPretrainConfig,
    PatchPretrainTrainer,
    PatchRecommender,
    PatchRecProcessor,
    SessionPatchLayout,
    evaluate_model,
    last_checkpoint,
)
from patchrec_hf.data.rows import select_spaced
from patchrec_hf.runs import write_json

from .plans import REFERENCE, LLMMethod
from .study import RANKINGS, Study, summarize


_STAGES = {
    "pretrain": (PatchPretrainTrainer, PatchPretrainConfig),
    "finetune": (PatchFinetuneTrainer, PatchFinetuneConfig),
}


def run_llm(study: Study, name: str) -> dict[str, Any]:
    """Trains and ranks a method, and returns its results. After an interruption, finished stages are not repeated."""
    method, state = study.methods[name], PartialState()
    num_examples, stages = _num_examples(study, name, method), []
    max_history = method.max_history or study.scale.max_history
    num_pretraining = round(num_examples * study.scale.pretraining_share) if method.is_pretrained else 0
    checkpoint = study.backbone
    if num_pretraining:
        # Pre-training does not depend on the layout. As in the paper, all layouts share it.
        processor = study.processor(ItemPatchLayout(), max_history)
        directory = study.output_dir / "stages" / f"pretrain_{max_history}_{num_pretraining}"
        stages.append(_train(study, "pretrain", directory, checkpoint, processor, num_pretraining))
        checkpoint = str(directory / "final")
    processor = study.processor(method.layout, max_history)
    directory = study.directory(name) / "finetune"
    stages.append(_train(study, "finetune", directory, checkpoint, processor, num_examples - num_pretraining))

    unset_hf_deepspeed_config()  # so that under ZeRO-3, each process loads whole models from here on
    recommender = load_llm(study, name)
    model = recommender.model
    splits, _ = study.load(max_history)
    results: dict[str, Any] = {}
    parts = study.directory(name) / "parts"
    for key, (split, exclude_seen) in RANKINGS.items():
        report = evaluate_model(
            model,
            recommender.processor,
            splits[split],
            seed=study.seed,
            exclude_seen=exclude_seen,
            train_dataset=splits["train"],
            batch_size=16,
            resume_dir=parts / key,
        )
        results[key] = summarize(report)
        if state.is_main_process:
            report.with_settings(**study.settings(), method=name).save(study.directory(name) / key)
    if state.is_main_process:
        shutil.rmtree(parts)
    state.wait_for_everyone()
    tokens = report.targets["history_tokens"].mean()
    return {
        "method": name,
        "budget": "time" if method.at_equal_time else "examples",
        "examples_seen": num_examples,
        "train_seconds": sum(stage["seconds"] for stage in stages),
        "stages": stages,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "history_tokens": tokens,
        "title_tokens_read": report.targets["tokens_read"].mean(),
        "settings": {"layout": str(method.layout), "max_history": max_history},
        **results,
    }


def _num_examples(study: Study, name: str, method: LLMMethod) -> int:
    """
    Returns how many examples the method sees: the number for all methods, or at equal time the number that fits in the
    reference's training time.
    """
    num_examples = study.scale.num_examples or 2 * study.num_train_examples
    if not method.at_equal_time:
        return num_examples
    same = name.removesuffix(" (equal time)")
    reference, at_equal_examples = study.result(REFERENCE), study.result(same)
    if reference is None or at_equal_examples is None:
        raise SystemExit(f"{name!r} needs {REFERENCE!r} and {same!r}. Run these methods first.")
    machines = {json.dumps(stage["machine"]) for row in (reference, at_equal_examples) for stage in row["stages"]}
    if len(machines) > 1:
        raise SystemExit(
            f"Times of different machines cannot be compared: {' and '.join(sorted(machines))}. Run {REFERENCE!r} and "
            f"{same!r} on one machine."
        )
    return round(num_examples * reference["train_seconds"] / at_equal_examples["train_seconds"])


def _train(
    study: Study, stage: str, directory: Path, checkpoint: str, processor: PatchRecProcessor, num_examples: int
) -> dict[str, Any]:
    """Trains a stage, unless it is finished, and returns what it took. An interrupted stage is resumed."""
    stage_file, state, scale = directory / "stage.json", PartialState(), study.scale
    if stage_file.exists():
        return json.loads(stage_file.read_text(encoding="utf-8"))
    trainer_class, config_class = _STAGES[stage]
    is_session = isinstance(processor.layout, SessionPatchLayout)
    rate = study.preset.session_learning_rate if is_session else study.preset.learning_rate
    rows = scale.rows_per_step or study.preset.batch_size
    per_device = study.per_device_batch_size or rows // state.num_processes
    accumulation, rest = divmod(rows, max(per_device * state.num_processes, 1))
    if rest or not accumulation:
        raise SystemExit(
            f"A step has {rows} rows, which cannot be divided into forwards of {per_device} rows on each of "
            f"{state.num_processes} processes. Choose another --per_device_batch_size or number of processes."
        )
    splits, _ = study.load(processor.max_history, scale.targets_per_row)
    args = config_class(
        str(directory),
        num_train_epochs=num_examples / study.num_train_examples,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulation,
        learning_rate=scale.learning_rate or rate,
        weight_decay=scale.weight_decay,
        max_grad_norm=scale.max_grad_norm,
        logging_steps=50,
        save_steps=0.2,
        save_total_limit=1,
        report_to="none",
        seed=study.seed,
        use_cpu=not torch.accelerator.is_available(),  # else processes on a CPU would not know of each other
    )
    stopwatch = Stopwatch(directory / "seconds.json")
    trainer = trainer_class(
        checkpoint, args, train_dataset=splits["train"], processing_class=processor, callbacks=[stopwatch]
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(args.output_dir))
    trainer.save_model(str(directory / "final"))
    values = {
        "stage": stage,
        "examples": num_examples,
        "steps": trainer.state.global_step,
        "rows_per_step": rows,
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
    recommender = PatchRecommender.from_pretrained(study.directory(name) / "finetune" / "final")
    recommender.model.to(PartialState().device)
    return recommender


def latency(study: Study, names: list[str], num_rows: int = 64, num_rounds: int = 3) -> dict[str, float]:
    """
    Measures how long each LLM takes to rank the same test rows exactly, relative to the first one. Only LLMs that were
    trained at equal examples are measured. All keep a prompt's keys and values once. They take turns, so that other
    programs on the machine slow all of them alike. The times are measured in one process, and kept: the same methods
    are not measured again.
    """
    names = [name for name in names if name in study.methods and not study.methods[name].at_equal_time]
    path = study.output_dir / "latency.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if list(kept) == names:
        return kept
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(num_rounds):
        for name in names:
            recommender = load_llm(study, name)
            rows = study.load(recommender.processor.max_history)[0]["test"]
            rows, processor = select_spaced(rows, num_rows), recommender.processor
            evaluate_model(recommender.model, processor, rows.select(range(1)), show_progress=False)  # warms up
            begin = time.perf_counter()
            evaluate_model(recommender.model, processor, rows, batch_size=16, show_progress=False)
            seconds[name].append(time.perf_counter() - begin)
    latencies = {name: min(values) / min(seconds[names[0]]) for name, values in seconds.items()}
    write_json(path, latencies)
    return latencies
