"""Vanilla and PatchRec: training in stages, ranking, and what it took."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from patchrec_hf import (
    ItemPatchLayout,
    PatchDataCollator,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchPretrainConfig,
    PatchPretrainTrainer,
    PatchRecommender,
    PatchRecProcessor,
    SessionPatchLayout,
    rank_targets,
)
from patchrec_hf.checkpoints import last_checkpoint
from patchrec_hf.runs import write_json

from .plans import REFERENCE, LLMMethod
from .study import Study, summarise


_STAGES = {
    "pretrain": (PatchPretrainTrainer, PatchPretrainConfig),
    "finetune": (PatchFinetuneTrainer, PatchFinetuneConfig),
}


def run_llm(study: Study, name: str) -> dict[str, Any]:
    """Trains and ranks a method, and returns its results. What was finished before an interruption is not repeated."""
    method, state = study.methods[name], PartialState()
    num_examples, stages = _num_examples(study, name, method), []
    max_history = method.max_history or study.scale.max_history
    num_pretraining = round(num_examples * study.scale.pretraining_share) if method.is_pretrained else 0
    checkpoint = study.backbone
    if num_pretraining:
        # The same for all layouts; as in the paper, they share it.
        processor = study.processor(ItemPatchLayout(), max_history)
        where = study.output_dir / "stages" / f"pretrain_{max_history}_{num_pretraining}"
        stages.append(_train(study, "pretrain", where, checkpoint, processor, num_pretraining))
        checkpoint = str(where / "final")
    processor = study.processor(method.layout, max_history)
    where = study.directory(name) / "finetune"
    stages.append(_train(study, "finetune", where, checkpoint, processor, num_examples - num_pretraining))

    unset_hf_deepspeed_config()  # under ZeRO-3, what is loaded from here on is whole in each process
    recommender = PatchRecommender.from_pretrained(where / "final")
    model, collator = recommender.model.to(state.device), PatchDataCollator(recommender.processor, seed=study.seed)
    examples, _ = study.load(max_history)
    results: dict[str, Any] = {}
    for key, split, exclude_seen in (
        ("validation", "validation", False), ("test", "test", False), ("test, seen excluded", "test", True)
    ):  # fmt: skip
        report = rank_targets(
            model, collator, examples[split], exclude_seen=exclude_seen, batch_size=16,
            train_dataset=examples["train"], resume_dir=study.directory(name) / "parts" / key,
        )  # fmt: skip
        results[key] = summarise(report)
        if state.is_main_process:
            report.with_settings(**study.settings(), method=name).save(
                study.directory(name) / key.replace(", ", "_").replace(" ", "_")
            )
    tokens = report.examples["history_tokens"].mean()
    return {
        "method": name,
        "budget": "time" if method.at_equal_time else "examples",
        "examples_seen": num_examples,
        "train_seconds": sum(stage["seconds"] for stage in stages),
        "stages": stages,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "history_tokens": tokens,
        "settings": {"layout": str(method.layout), "max_history": max_history},
        **results,
    }


def _num_examples(study: Study, name: str, method: LLMMethod) -> int:
    """How many examples the method sees: as many as all others, or as many as the reference's time allows."""
    num_examples = study.scale.num_examples or 2 * study.num_train_examples
    if not method.at_equal_time:
        return num_examples
    same = name.removesuffix(" (equal time)")
    reference, at_equal_examples = study.result(REFERENCE), study.result(same)
    if reference is None or at_equal_examples is None:
        raise SystemExit(f"{name!r} needs {REFERENCE!r} and {same!r} to be run first.")
    return round(num_examples * reference["train_seconds"] / at_equal_examples["train_seconds"])


def _train(
    study: Study, stage: str, where: Path, checkpoint: str, processor: PatchRecProcessor, num_examples: int
) -> dict[str, Any]:
    """Trains a stage unless that is done, goes on with one that was interrupted, and says what it took."""
    done, state, scale = where / "stage.json", PartialState(), study.scale
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    trainer_class, config_class = _STAGES[stage]
    is_session = isinstance(processor.layout, SessionPatchLayout)
    rate = study.preset.session_learning_rate if is_session else study.preset.learning_rate
    rows = scale.rows_per_step or study.preset.batch_size
    per_device = study.per_device_batch_size or -(-rows // state.num_processes)
    examples, _ = study.load(processor.max_history, scale.targets_per_row)
    args = config_class(
        str(where),
        num_train_epochs=num_examples / study.num_train_examples,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=max(1, rows // (per_device * state.num_processes)),
        learning_rate=scale.learning_rate or rate,
        weight_decay=scale.weight_decay,
        max_grad_norm=scale.max_grad_norm,
        logging_steps=50,
        save_steps=0.2,
        save_total_limit=1,
        report_to="none",
        seed=study.seed,
    )
    trainer = trainer_class(checkpoint, args, examples["train"], processor)
    resumed = last_checkpoint(args.output_dir)
    start = int(resumed.rpartition("-")[2]) if resumed else 0
    output = trainer.train(resume_from_checkpoint=resumed)
    steps = output.global_step
    trainer.save_model(str(where / "final"))
    # Of a run that was interrupted, only the last part's time is known: it stands for the others.
    values = {
        "stage": stage,
        "examples": num_examples,
        "steps": steps,
        "seconds": output.metrics["train_runtime"] * steps / max(steps - start, 1),
        "interrupted": bool(resumed),
        "flos": output.metrics.get("total_flos"),
        "processes": state.num_processes,
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
    if state.is_main_process:
        write_json(done, values)
    state.wait_for_everyone()
    return values


def latency(study: Study, names: list[str], num_rows: int = 64, num_rounds: int = 3) -> dict[str, float]:
    """
    How long each method takes to rank the same test rows exactly, relative to the first. All keep a prompt's keys and
    values once; they take turns, so that whatever else the machine does falls on all.
    """

    recommenders = {
        name: PatchRecommender.from_pretrained(study.directory(name) / "finetune" / "final") for name in names
    }
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(num_rounds + 1):
        for name, recommender in recommenders.items():
            examples, _ = study.load(recommender.processor.max_history)
            rows = examples["test"].select(range(min(num_rows, len(examples["test"]))))
            begin = time.perf_counter()
            rank_targets(
                recommender.model, PatchDataCollator(recommender.processor), rows, batch_size=16, show_progress=False
            )
            if round_number > 0:  # the first one warms up
                seconds[name].append(time.perf_counter() - begin)
    first = min(seconds[names[0]])
    return {name: min(values) / first for name, values in seconds.items()}
