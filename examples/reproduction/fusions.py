"""Joins a trained LLM with counts, and says what a fusion's weights are."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState

from patchrec_hf import PatchRecommender, fit_fusion
from patchrec_hf.baselines import Popularity
from patchrec_hf.runs import write_json
from patchrec_hf.runtime.fusion import FusionFit

from .stages import stages_of
from .study import Study


_WINDOW = 7
"""Days that `RecentPopularity` counts."""


def fit_and_save_fusion(study: Study, name: str) -> float:
    """
    Fits the fusion of a trained model with all parts that it and the data allow, saves both in the method's directory,
    and returns the seconds of the fit. A finished fusion is not fitted again.
    """
    directory, state = fused_checkpoint(study, name), PartialState()
    kept = study.directory(name) / "fit.json"
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))["seconds"]
    recommender = PatchRecommender.from_pretrained(stages_of(study, name)[-1].checkpoint)
    model, processor = recommender.model.to(state.device), recommender.processor
    splits, _ = study.load(processor.max_history)
    now = time.process_time if state.device.type == "cpu" else time.perf_counter
    begin = now()
    popularity = recent_popularity(study) if study.has_times() else None
    fused = fit_fusion(model, processor, splits["train"], splits["validation"], popularity=popularity)
    seconds = now() - begin
    if state.is_main_process:
        model.save_pretrained(directory)
        fused.save_pretrained(directory)
        write_json(kept, {"seconds": seconds})
    state.wait_for_everyone()
    return seconds


def fused_checkpoint(study: Study, name: str) -> Path:
    """Returns the directory of a model with its fusion."""
    return study.directory(name) / "final"


def recent_popularity(study: Study) -> Popularity:
    """
    Counts the interactions of each day, of all rows: a recommender in use knows them up to the moment of asking, and
    later ones are never read.
    """
    splits, catalog = study.all_rows(study.scale.max_history)
    return Popularity(catalog, window=_WINDOW).fit(splits)


def fusion_settings(weights: Mapping[str, float], fit: FusionFit | None) -> dict[str, Any]:
    """Returns the JSON-ready weights of a fusion, with the mean log-likelihoods of validation targets."""
    settings: dict[str, Any] = {"weights": dict(weights)}
    if fit is not None:
        settings["log-likelihood"] = fit.log_likelihood
        settings["log-likelihood of the parts"] = dict(fit.of_parts)
    return settings
