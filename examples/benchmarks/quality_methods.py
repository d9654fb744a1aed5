"""The methods that `quality.py` compares: each trains, and returns a function that ranks rows."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from patchrec_hf import (
    ALL_PATCH_PRESET,
    BOOK_PROMPT,
    BOOK_PROMPT_INSTRUCTION_FIRST,
    Catalog,
    EvaluationReport,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchPretrainConfig,
    PatchPretrainTrainer,
    PatchRecForCausalLM,
    PatchRecProcessor,
    build_tiny_backbone,
    evaluate_model,
    evaluate_scorer,
    fit_fusion,
    last_checkpoint,
    load_recommendation_data,
)
from patchrec_hf.baselines import CoVisitation, SASRec, Transitions


@dataclass(frozen=True)
class Variant:
    """
    A change of the all-patch recipe, for an ablation.

    Args:
        processor, training (`Mapping[str, Any]`):
            Settings that replace the preset's.
        max_history (`int`, *optional*):
            Items per history.
        has_titles (`bool`):
            Whether items have their titles. Without, all have the same one, so only residuals tell them apart.
    """

    processor: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    max_history: int | None = None
    has_titles: bool = True


VARIANTS = {
    "recipe": Variant(),
    "titles-only": Variant(processor={"item_residuals": False}),
    "residuals-only": Variant(training={"title_similarity": False, "residual_dropout": 0.0}, has_titles=False),
    "no-title-similarity": Variant(training={"title_similarity": False}),
    "no-residual-dropout": Variant(training={"residual_dropout": 0.0}),
    "no-dropout": Variant(training={"item_dropout": 0.0}),
    "product": Variant(training={"item_similarity": "product"}),
    "separators": Variant(processor={"separate_patches": True}),
    "time-gaps": Variant(processor={"time_gaps": 24}),
    "history-50": Variant(max_history=50),
    "history-200": Variant(max_history=200),
}
"""Variants of the recipe, by name."""
Ranker = Callable[[Dataset], EvaluationReport]
_TRIAL_STEPS = 12
_TARGETS_PER_ROW = 16
_MAX_TITLE_TOKENS = 500


class Study:
    """
    The data, the budget, and the models that several methods share.

    Args:
        data (`str`):
            A data set, as [`load_recommendation_data`] takes it.
        minutes (`float`):
            Budget of each LLM, in minutes of all threads.
        seed (`int`):
            Seed of everything.
        hidden_size (`int`):
            Width of the backbone.
        ties (`str`, *optional*):
            Order of simultaneous interactions in raw data.
        directory (`pathlib.Path`):
            Directory for checkpoints.
        variant ([`Variant`]):
            Changes of the all-patch recipe.
        model (`str`, *optional*):
            A backbone for the recipe. By default a tiny, new one.
        num_layers (`int`, *optional*):
            Number of the backbone's first layers to use. By default all.
        learning_rate (`float`, *optional*):
            Learning rate of the recipe. By default the preset's, which suits a new backbone.
    """

    def __init__(
        self,
        data: str,
        minutes: float,
        seed: int,
        hidden_size: int,
        ties: str | None,
        directory: Path,
        variant: Variant,
        model: str | None = None,
        num_layers: int | None = None,
        learning_rate: float | None = None,
    ) -> None:
        self.seconds = 60 * minutes * torch.get_num_threads()
        self.seed = seed
        self.hidden_size = hidden_size
        self.directory = directory
        self.notes: list[str] = []
        self._data = data
        self._options = {} if ties is None else {"ties": ties}
        self.variant = variant
        self.model = model
        self.num_layers = num_layers
        self.learning_rate = learning_rate
        self.max_history = variant.max_history or (20 if data == "sample" else 100)
        self.splits, self.catalog = self.load(1)
        self.evaluation: dict[str, Any] = {"train_dataset": self.splits["train"], "show_progress": False}

    def load(self, targets_per_row: int) -> tuple:
        return load_recommendation_data(self._data, self.max_history, targets_per_row=targets_per_row, **self._options)

    @cached_property
    def co_visitation(self) -> CoVisitation:
        return CoVisitation(self.catalog).fit(self.splits["train"], self.splits["validation"], show_progress=False)

    @cached_property
    def item_model(self) -> tuple[PatchRecForCausalLM, PatchRecProcessor]:
        """The all-patch recipe, trained within the budget, with the epoch that ranks validation targets best."""
        preset, variant = ALL_PATCH_PRESET, self.variant
        splits, catalog = self.load(min(preset.rows["targets_per_row"], self.max_history))
        if not variant.has_titles:
            catalog = Catalog(catalog.item_ids, ("item",) * len(catalog))
        train = splits["train"]
        backbone = str(self.directory / "backbone")
        for part in self.make_backbone(catalog):
            part.save_pretrained(backbone)
        processor = PatchRecProcessor.from_backbone(
            backbone,
            catalog,
            BOOK_PROMPT_INSTRUCTION_FIRST,
            max_history=self.max_history,
            **{**preset.processor, **variant.processor},
        )
        args = PatchFinetuneConfig(
            **{
                **preset.training,
                **variant.training,
                **({} if self.learning_rate is None else {"learning_rate": self.learning_rate}),
                "output_dir": str(self.directory / "item"),
                "seed": self.seed,
                "eval_strategy": "epoch",
                "save_strategy": "epoch",
                "save_total_limit": 1,
                "load_best_model_at_end": True,
                "metric_for_best_model": "ndcg@10",
                "greater_is_better": True,
                "per_device_eval_batch_size": 64,
                "eval_max_rows": None,
                "logging_strategy": "epoch",
                "disable_tqdm": True,
                "report_to": "none",
            }
        )
        steps = -(-len(train) // args.per_device_train_batch_size)

        def run(args: PatchFinetuneConfig) -> PatchFinetuneTrainer:
            trainer = PatchFinetuneTrainer(
                backbone, args, train_dataset=train, processing_class=processor, eval_dataset=splits["validation"]
            )
            trainer.train(resume_from_checkpoint=last_checkpoint(args.output_dir))
            return trainer

        trial = replace_args(
            args,
            output_dir=str(self.directory / "trial"),
            max_steps=_TRIAL_STEPS,
            eval_strategy="no",
            save_strategy="no",
        )
        measured = self.directory / "epochs.json"  # an interrupted run must go on with as many epochs
        if not measured.exists():
            per_epoch = self.seconds_of(lambda: run(trial)) / _TRIAL_STEPS * steps
            epochs = max(1, min(args.num_train_epochs, math.floor(0.9 * self.seconds / per_epoch)))
            measured.write_text(json.dumps(epochs), encoding="utf-8")
        epochs = json.loads(measured.read_text(encoding="utf-8"))
        trainer = run(replace_args(args, num_train_epochs=epochs))
        best = trainer.state.best_global_step or trainer.state.global_step
        self.notes.append(f"Item head: {epochs} epochs, of which the best on validation rows is {best / steps:.0f}.")
        return trainer.model.eval(), processor

    def make_backbone(self, catalog: Catalog) -> tuple:
        if self.model is None:
            return build_tiny_backbone(catalog, hidden_size=self.hidden_size, seed=self.seed)
        settings = {} if self.num_layers is None else {"num_hidden_layers": self.num_layers}
        model = AutoModelForCausalLM.from_pretrained(self.model, dtype="float32", **settings)
        return model, AutoTokenizer.from_pretrained(self.model)

    def seconds_of(self, work: Callable[[], object]) -> float:
        """Computing time of this process for some work, in seconds; all threads count."""
        start = time.process_time()
        work()
        return time.process_time() - start

    def cold_hr(self, report: EvaluationReport) -> float | None:
        """HR@20 on the targets that no training row holds; `None` if there are none."""
        cold = report.targets.filter("is_cold")
        return None if len(cold) == 0 else float((cold["item_rank"] <= 20).mean())


def replace_args(args: PatchFinetuneConfig, **changes: object) -> PatchFinetuneConfig:
    """Copies training arguments with some changes."""
    if changes.get("save_strategy") == "no":
        changes["load_best_model_at_end"] = False
    return replace(args, **changes)


def co_visitation(study: Study) -> Ranker:
    scorer = study.co_visitation
    return lambda rows: evaluate_scorer(scorer, study.catalog, rows, **study.evaluation)


def co_visitation_without_seen(study: Study) -> Ranker:
    """The same scores, for whoever knows that nobody chooses an item twice."""
    scorer = study.co_visitation
    return lambda rows: evaluate_scorer(scorer, study.catalog, rows, exclude_seen=True, **study.evaluation)


def transitions(study: Study) -> Ranker:
    model = Transitions(study.catalog).fit(study.splits["train"], study.splits["validation"], show_progress=False)
    return lambda rows: evaluate_scorer(model, study.catalog, rows, **study.evaluation)


def sasrec(study: Study) -> Ranker:
    splits, catalog = study.load(min(100, study.max_history))
    model = SASRec.from_catalog(catalog, max_length=study.max_history).fit(splits["train"], splits["validation"])
    return lambda rows: evaluate_scorer(model, catalog, rows, **study.evaluation)


def item_head(study: Study) -> Ranker:
    model, processor = study.item_model
    return lambda rows: evaluate_model(model, processor, rows, batch_size=64, **study.evaluation)


def item_head_fusion(study: Study) -> Ranker:
    model, processor = study.item_model
    train, validation = study.splits["train"], study.splits["validation"]
    processor = fit_fusion(model, processor, train, validation, co_visitation=study.co_visitation, show_progress=False)
    fit = processor.fusion.fit_result
    weights = ", ".join(f"{name} {weight:.3f}" for name, weight in processor.fusion.weights.items())
    alone = ", ".join(f"{name} {value:.3f}" for name, value in fit.of_parts.items())
    study.notes.append(f"Fusion: weights {weights}.")
    study.notes.append(f"Log-likelihood of a validation target: fusion {fit.log_likelihood:.3f}; alone: {alone}.")
    return lambda rows: evaluate_model(model, processor, rows, batch_size=64, **study.evaluation)


def titles(study: Study) -> Ranker:
    """The paper's PatchRec-I: both stages within the budget, ranked by titles."""
    splits, catalog = study.load(min(_TARGETS_PER_ROW, study.max_history))
    backbone, tokenizer = build_tiny_backbone(catalog, hidden_size=study.hidden_size, seed=study.seed)
    processor = PatchRecProcessor(tokenizer, catalog, BOOK_PROMPT, max_history=study.max_history)
    model = PatchRecForCausalLM.from_backbone(backbone, tokenizer)

    def train(stage: str, trainer_class: type, config_class: type, seconds: float) -> None:
        def run(max_steps: int) -> None:
            args = config_class(
                str(study.directory / stage),
                learning_rate=1e-2,
                per_device_train_batch_size=4,
                max_steps=max_steps,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=study.seed,
            )
            trainer_class(model, args, train_dataset=splits["train"], processing_class=processor).train()

        per_step = study.seconds_of(lambda: run(_TRIAL_STEPS)) / _TRIAL_STEPS
        run(max(_TRIAL_STEPS, int(seconds / per_step)))

    train("pretrain", PatchPretrainTrainer, PatchPretrainConfig, 0.45 * study.seconds)
    train("finetune", PatchFinetuneTrainer, PatchFinetuneConfig, 0.45 * study.seconds)
    return lambda rows: evaluate_model(
        model.eval(), processor, rows, max_title_tokens=_MAX_TITLE_TOKENS, batch_size=16, **study.evaluation
    )


METHODS = {
    "co-visitation": co_visitation,
    "co-visitation-unseen": co_visitation_without_seen,
    "transitions": transitions,
    "sasrec": sasrec,
    "item-head": item_head,
    "item-head-fusion": item_head_fusion,
    "titles": titles,
}
"""Each method, by its name in the table."""
