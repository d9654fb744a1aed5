"""Trains LLMs in stages, ranks them, and measures the time of both."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from patchrec_hf import (
    EvaluationReport,
    PatchRecommender,
    evaluate_model,
)
from patchrec_hf.data.rows import select_spaced
from patchrec_hf.runs import write_json

from .fusions import fit_and_save_fusion, fused_checkpoint, fusion_settings
from .stages import Stage, budget_of, stages_of
from .study import RANKINGS, Study, summarize
from .trainings import train_stage


_RELEASE_KS = (10, 20)
"""The released code decodes the test rows once for each cut-off."""


def run_llm(study: Study, name: str) -> dict[str, Any]:
    """Trains and ranks a method, and returns its results. After an interruption, finished stages are not repeated."""
    method, state = study.methods[name], PartialState()
    planned, stages, checkpoint = stages_of(study, name), [], study.backbone
    for stage in planned:
        stages.append(train_stage(study, stage, checkpoint))
        checkpoint = stage.checkpoint
    unset_hf_deepspeed_config()  # so that under ZeRO-3, each process loads whole models from here on
    fit_seconds = fit_and_save_fusion(study, name) if method.has_fusion else 0.0
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
    if study.scale.release_metrics and not method.predicts_items:  # which writes no titles
        decoded = [rank(f"release_{k}", "test", protocol="release", k=k) for k in _RELEASE_KS]
        results["release"] = {metric: triple for one in decoded for metric, triple in summarize(one).items()}
    state.wait_for_everyone()
    return {
        "method": name,
        "budget": budget_of(study, name),
        "examples_seen": sum(stage.num_examples for stage in planned),
        "train_seconds": sum(stage["seconds"] for stage in stages) + fit_seconds,
        "stages": stages,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "history_tokens": report.targets["history_tokens"].mean(),
        "compression_ratio": report.metrics()["compression_ratio"],
        "title_tokens_read": report.targets["tokens_read"].mean(),
        "settings": {
            "layout": str(processor.layout),
            "max_history": processor.max_history,
            **_loss_settings(planned[-1], stages[-1]),
            **(
                {}
                if processor.fusion is None
                else fusion_settings(processor.fusion.weights, processor.fusion.fit_result)
            ),
        },
        **results,
    }


def _loss_settings(stage: Stage, values: dict[str, Any]) -> dict[str, Any]:
    """Returns what the last stage predicted, for the notes below a table."""
    if stage.name == "items":
        return {"objective": "item", "epochs": values["epochs"], "chosen epoch": values["best_epoch"]}
    settings: dict[str, Any] = {"title_normalizer": stage.title_normalizer}
    return settings | ({"title_temperature": stage.title_temperature} if stage.title_normalizer == "catalog" else {})


def parts_of(study: Study, name: str) -> Path:
    """Returns the directory of the finished parts of a method's rankings, which are kept until it has results."""
    return study.directory(name) / "parts"


def load_llm(study: Study, name: str) -> PatchRecommender:
    """Loads a method's model, onto the device."""
    has_fusion = study.methods[name].has_fusion
    checkpoint = fused_checkpoint(study, name) if has_fusion else stages_of(study, name)[-1].checkpoint
    recommender = PatchRecommender.from_pretrained(checkpoint)
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
