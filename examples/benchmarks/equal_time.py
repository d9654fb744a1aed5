"""Shared parts of the benchmarks that train several models for the same computing time."""

import tempfile
import time
from collections.abc import Callable
from typing import Any

import polars as pl
from datasets import Dataset

from patchrec_hf import (
    ALL_PATCH_PRESET,
    BOOK_PROMPT_INSTRUCTION_FIRST,
    MOVIE_PROMPT_INSTRUCTION_FIRST,
    Catalog,
    EvaluationReport,
    Layout,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchRecForCausalLM,
    PatchRecProcessor,
    build_tiny_backbone,
)


PROMPTS = {"books": BOOK_PROMPT_INSTRUCTION_FIRST, "movies": MOVIE_PROMPT_INSTRUCTION_FIRST}


def seconds_of(work: Callable[[], object]) -> float:
    """Computing time of this process for some work, in seconds; all threads count."""
    start = time.process_time()
    work()
    return time.process_time() - start


def train_all_patch(
    dataset: Dataset,
    catalog: Catalog,
    prompt: str,
    layout: Layout,
    max_history: int,
    hidden_size: int,
    num_steps: int,
    seed: int,
    **training: Any,
) -> tuple[PatchRecForCausalLM, PatchRecProcessor]:
    """Trains a new, tiny model by the all-patch recipe with another layout and other training arguments."""
    backbone, tokenizer = build_tiny_backbone(catalog, hidden_size=hidden_size, seed=seed)
    settings = {**ALL_PATCH_PRESET.processor, "layout": layout}
    processor = PatchRecProcessor(tokenizer, catalog, PROMPTS[prompt], max_history=max_history, **settings)
    model = PatchRecForCausalLM.from_backbone(backbone, tokenizer)
    with tempfile.TemporaryDirectory() as directory:
        config = PatchFinetuneConfig(
            directory,
            **{
                **ALL_PATCH_PRESET.training,
                "max_steps": num_steps,
                "save_strategy": "no",
                "logging_steps": 100,
                "report_to": "none",
                "disable_tqdm": True,
                "seed": seed,
                **training,
            },
        )
        PatchFinetuneTrainer(model, config, train_dataset=dataset, processing_class=processor).train()
    return model.eval(), processor


def difference(report: EvaluationReport, reference: EvaluationReport) -> list[float]:
    """HR@20 of a report minus the reference's, and the bounds of its 95% interval by users."""
    row = report.compare(reference).row(by_predicate=pl.col("metric") == "hr@20", named=True)
    return [row["difference"], row["low"], row["high"]]
