"""The baselines, and their fusion with PatchRec: fitting, choosing on validation, ranking."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, set_seed

from patchrec_hf import Catalog, EvaluationReport, PatchRecommender, score_targets
from patchrec_hf.baselines import (
    Caser,
    CoVisitation,
    Fusion,
    GRU4Rec,
    LinRec,
    Mamba4Rec,
    MoRec,
    Popularity,
    SASRec,
    SequentialRecommender,
    training_arguments,
)
from patchrec_hf.evaluation import Scorer

from .plans import BASELINES, REFERENCE
from .study import Study, summarise


_NEURAL = {"GRU4Rec": GRU4Rec, "Caser": Caser, "SASRec": SASRec, "LinRec": LinRec, "Mamba4Rec": Mamba4Rec}
_TARGETS_PER_ROW = 32  # of a neural baseline's row; it reads a row once for all of them


def run_baseline(study: Study, name: str) -> dict[str, Any]:
    """Fits a baseline, once for each of the settings that validation chooses from, and returns its results."""
    examples, catalog = study.load()
    begin = time.perf_counter()
    settings: dict[str, Any] = {}
    tried: list[dict[str, Any]] = []
    model: Scorer
    if name == "Popularity":
        model = Popularity(catalog).fit(examples["train"])
    elif name == "CoVisitation":
        model = CoVisitation(catalog).fit(examples["train"], examples["validation"])
        settings = vars(model.weighting)
    else:
        model, settings, tried = _best_of_grid(study, name, catalog, examples["validation"])
    seconds = time.perf_counter() - begin
    return {
        "method": name,
        "budget": None,
        "train_seconds": seconds,
        "num_parameters": model.num_parameters() if isinstance(model, SequentialRecommender) else None,
        "settings": settings,
        "tried": tried,
        **_ranked(study, name, model),
    }


def _best_of_grid(
    study: Study, name: str, catalog: Catalog, validation: Dataset
) -> tuple[SequentialRecommender, dict[str, Any], list[dict[str, Any]]]:
    """The model that ranks validation best, saved; its settings; and what each of the settings came to."""
    rows, _ = study.load(targets_per_row=_TARGETS_PER_ROW)
    tried: list[dict[str, Any]] = []
    for place, grid_point in enumerate(study.scale.baseline_grid):
        settings = {**grid_point, **(study.scale.mamba_settings if name == "Mamba4Rec" else {})}
        set_seed(study.seed)
        model = _new_model(study, name, catalog, settings)
        args = training_arguments(
            study.directory(name) / f"training-{place}",
            num_train_epochs=study.scale.baseline_epochs,
            seed=study.seed,
        )
        model.fit(rows["train"], validation, args)
        report = score_targets(model, catalog, validation, show_progress=False)
        model.save_pretrained(study.directory(name) / f"model-{place}")
        tried.append({"settings": settings, "validation": summarise(report)})
    best = max(range(len(tried)), key=lambda place: tried[place]["validation"]["hr@20"][0])
    model = type(model).from_pretrained(study.directory(name) / f"model-{best}")
    model.save_pretrained(study.directory(name) / "model")
    return model, tried[best]["settings"], tried


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
    """Fuses the reference with the baseline that ranks validation best."""
    results = {baseline: study.result(baseline) for baseline in (*BASELINES, REFERENCE)}
    reference = results.pop(REFERENCE)
    finished = {baseline: result["validation"]["hr@20"][0] for baseline, result in results.items() if result}
    if not finished or reference is None:
        raise SystemExit(f"{name!r} needs {REFERENCE!r} and at least one baseline to be run first.")
    best = max(finished, key=lambda baseline: finished[baseline])
    begin = time.perf_counter()
    recommender = PatchRecommender.from_pretrained(study.directory(REFERENCE) / "finetune" / "final")
    examples, _ = study.load()
    fusion = Fusion(recommender, load_baseline(study, best), batch_size=16).fit(examples["validation"])
    return {
        "method": name,
        "budget": None,
        "train_seconds": time.perf_counter() - begin,
        "settings": {"parts": [REFERENCE, best], "weight of the baseline": fusion.weight},
        **_ranked(study, name, fusion),
    }


def load_baseline(study: Study, name: str) -> Scorer:
    """A baseline that [`run_baseline`] has fitted."""
    examples, catalog = study.load()
    if name == "Popularity":
        return Popularity(catalog).fit(examples["train"])
    if name == "CoVisitation":
        return CoVisitation(catalog).fit(examples["train"], examples["validation"], show_progress=False)
    return {**_NEURAL, "MoRec": MoRec}[name].from_pretrained(study.directory(name) / "model")


def _ranked(study: Study, name: str, model: Scorer) -> dict[str, Any]:
    """The metrics of validation and test; the reports are kept in the method's directory."""
    examples, catalog = study.load()
    results = {}
    for key, split, exclude_seen in (
        ("validation", "validation", False), ("test", "test", False), ("test, seen excluded", "test", True)
    ):  # fmt: skip
        report: EvaluationReport = score_targets(
            model, catalog, examples[split], exclude_seen, train_dataset=examples["train"], batch_size=256
        )
        report.with_settings(**study.settings(), method=name).save(
            Path(study.directory(name), key.replace(", ", "_").replace(" ", "_"))
        )
        results[key] = summarise(report)
    return results
