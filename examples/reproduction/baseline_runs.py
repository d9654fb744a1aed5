"""Fits and ranks the baselines and their fusion with PatchRec, with choices made on validation."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, set_seed

from patchrec_hf import Catalog, Scorer, evaluate_scorer
from patchrec_hf.baselines import (
    Caser,
    CoVisitation,
    CoVisitationWeighting,
    Fusion,
    GRU4Rec,
    LinRec,
    Mamba4Rec,
    MoRec,
    Popularity,
    SASRec,
    SequentialRecommender,
    Transitions,
    TransitionWeighting,
    training_arguments,
)
from patchrec_hf.runs import write_json

from .fusions import fusion_settings, recent_popularity
from .llms import load_llm
from .plans import BASELINES, FUSION, RECENT_POPULARITY
from .study import RANKINGS, Study, summarize


_NEURAL = {
    "GRU4Rec": GRU4Rec,
    "Caser": Caser,
    "SASRec": SASRec,
    "LinRec": LinRec,
    "Mamba4Rec": Mamba4Rec,
    "MoRec": MoRec,
}
FUSED = "PatchRec-I"
"""The LLM that the fusion joins with all finished baselines."""
_TARGETS_PER_ROW = 32  # a neural baseline reads a row once for all of its targets


def run_baseline(study: Study, name: str) -> dict[str, Any]:
    """Fits a baseline, a neural one once for each point of the grid, and returns its results."""
    splits, catalog = study.load()
    begin = time.perf_counter()
    settings: dict[str, Any] = {}
    tried: list[dict[str, Any]] = []
    model: Scorer
    if name == "Popularity":
        model = Popularity(catalog).fit(splits["train"])
    elif name == RECENT_POPULARITY:
        model = recent_popularity(study)
        settings = {"window in days": model.window}
    elif name == "CoVisitation":
        model = CoVisitation(catalog).fit(splits["train"], splits["validation"])
        settings = vars(model.weighting)
    elif name == "Transitions":
        model = Transitions(catalog).fit(splits["train"], splits["validation"])
        settings = vars(model.weighting)
    else:
        best, tried = _best_of_grid(study, name, catalog, splits["validation"])
        settings = {**tried[best]["settings"], "setting": best}
        model = _NEURAL[name].from_pretrained(study.directory(name) / f"setting-{best}" / "model")
        model.to(PartialState().device)
    seconds = sum(point["seconds"] for point in tried) if tried else time.perf_counter() - begin
    return {
        "method": name,
        "budget": None,
        "train_seconds": seconds,
        "num_parameters": model.num_parameters() if isinstance(model, SequentialRecommender) else None,
        "settings": settings,
        "tried": tried,
        **_ranked(study, name, model),
    }


def _best_of_grid(study: Study, name: str, catalog: Catalog, validation: Dataset) -> tuple[int, list[dict[str, Any]]]:
    """
    Fits a baseline with each setting of the grid. Returns the index of the setting that ranks validation best, and the
    results of all. Settings that have results are not fitted again.
    """
    splits, _ = study.load(targets_per_row=_TARGETS_PER_ROW)
    tried: list[dict[str, Any]] = []
    for index, grid_point in enumerate(study.scale.baseline_grid):
        directory = study.directory(name) / f"setting-{index}"
        if not (directory / "validation.json").exists():
            settings = {**grid_point, **(study.scale.mamba_settings if name == "Mamba4Rec" else {})}
            set_seed(study.seed)
            model = _new_model(study, name, catalog, settings).to(PartialState().device)
            changes = study.scale.text_encoder_training if name == "MoRec" else {}
            args = training_arguments(
                directory / "training", num_train_epochs=study.scale.baseline_epochs, seed=study.seed, **changes
            )
            begin = time.perf_counter()
            model.fit(splits["train"], validation, args)
            seconds = time.perf_counter() - begin
            model.save_pretrained(directory / "model")
            shutil.rmtree(directory / "training", ignore_errors=True)
            metrics = summarize(evaluate_scorer(model, catalog, validation, show_progress=False))
            results = {"settings": settings, "seconds": seconds, "validation": metrics}
            write_json(directory / "validation.json", results)
        tried.append(json.loads((directory / "validation.json").read_text(encoding="utf-8")))
    best = max(range(len(tried)), key=lambda index: tried[index]["validation"]["hr@20"][0])
    return best, tried


def _new_model(study: Study, name: str, catalog: Catalog, settings: dict[str, Any]) -> SequentialRecommender:
    if name != "MoRec":
        return _NEURAL[name].from_catalog(catalog, **settings)
    if isinstance(study.scale.text_encoder, str):
        tokenizer = AutoTokenizer.from_pretrained(study.scale.text_encoder)
        return MoRec.from_encoder(AutoModel.from_pretrained(study.scale.text_encoder), tokenizer, catalog, **settings)
    tokenizer = AutoTokenizer.from_pretrained(study.backbone)
    config = BertConfig(vocab_size=len(tokenizer), num_attention_heads=2, **study.scale.text_encoder)
    return MoRec.from_encoder(BertModel(config, add_pooling_layer=False), tokenizer, catalog, **settings)


def run_fusion(study: Study, name: str) -> dict[str, Any]:
    """Fuses PatchRec-I with all finished baselines."""
    finished = _finished(study)
    if not finished or study.result(FUSED) is None:
        raise SystemExit(f"{name!r} needs {FUSED!r} and at least one baseline. Run these methods first.")
    begin = time.perf_counter()
    splits, _ = study.load()
    parts = {FUSED: load_llm(study, FUSED), **{baseline: load_baseline(study, baseline) for baseline in finished}}
    fusion = Fusion(parts, batch_size=16).fit(splits["validation"])
    return {
        "method": name,
        "budget": None,
        "train_seconds": time.perf_counter() - begin,
        "settings": fusion_settings(fusion.weights, fusion.fit_result),
        **_ranked(study, name, FusionScorer(fusion)),
    }


def is_current(study: Study) -> bool:
    """Returns whether the fusion has joined all finished baselines."""
    fusion = study.result(FUSION)
    return fusion is not None and list(fusion["settings"]["weights"]) == [FUSED, *_finished(study)]


def _finished(study: Study) -> list[str]:
    return [baseline for baseline in BASELINES if study.result(baseline) is not None]


class FusionScorer:
    """
    A fusion that keeps its latest log-probabilities. An evaluation asks for the scores and then for the
    log-probabilities of the same histories. For a fusion they are the same, and its LLM takes long to compute them.
    """

    def __init__(self, fusion: Fusion) -> None:
        self.catalog = fusion.catalog
        self.reads_times = fusion.reads_times
        self._fusion = fusion
        self._asked: object = None
        self._last: np.ndarray = np.empty(0)

    def score(self, histories: Sequence[Sequence[Any]], times: np.ndarray | None = None) -> np.ndarray:
        return self.log_probs(histories, times)

    def log_probs(self, histories: Sequence[Sequence[Any]], times: np.ndarray | None = None) -> np.ndarray:
        if self._asked is not histories:
            self._last, self._asked = self._fusion.log_probs(histories, times), histories
        return self._last


def load_baseline(study: Study, name: str) -> Scorer:
    """Loads a baseline that [`run_baseline`] has fitted."""
    splits, catalog = study.load()
    settings = (study.result(name) or {})["settings"]
    if name == "Popularity":
        return Popularity(catalog).fit(splits["train"])
    if name == RECENT_POPULARITY:
        return recent_popularity(study)
    if name == "CoVisitation":
        return CoVisitation(catalog, CoVisitationWeighting(**settings)).fit(splits["train"])
    if name == "Transitions":
        return Transitions(catalog, TransitionWeighting(**settings)).fit(splits["train"])
    model = _NEURAL[name].from_pretrained(study.directory(name) / f"setting-{settings['setting']}" / "model")
    return model.to(PartialState().device)


def _ranked(study: Study, name: str, model: Scorer) -> dict[str, Any]:
    """Returns the metrics on validation and test, and saves the reports in the method's directory."""
    splits, catalog = study.load()
    results = {}
    for key, (split, exclude_seen) in RANKINGS.items():
        report = evaluate_scorer(model, catalog, splits[split], exclude_seen, train_dataset=splits["train"])
        report.with_settings(**study.settings(), method=name).save(study.directory(name) / key)
        results[key] = summarize(report)
    return results
