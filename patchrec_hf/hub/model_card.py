"""The model card: how to use a checkpoint, its metrics, its prompt, and its training."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from datasets import Dataset
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import SchedulerType, TrainerState, TrainingArguments

from ..evaluation.report import EvaluationReport
from ..runtime.processing import PatchRecProcessor
from ..runtime.prompts import END_TOKEN, START_TOKEN


_TEMPLATE = Path(__file__).parent / "model_card.md.jinja"
_METRICS = ("hr@", "ndcg@", "mrr@", "title_hr@", "title_ndcg@", "loss", "exact_share", "compression_")
_HISTORY_MARK = "…"
# The section of results: its heading, and everything up to the next heading.
_RESULTS = re.compile(r"^## Results\n(?:(?!## ).*\n)*", re.MULTILINE)


def make_model_card(
    processor: PatchRecProcessor,
    repo_id: str,
    results: EvaluationReport | Mapping[str, float] | None = None,
    dataset_name: str | None = None,
    base_model: str | None = None,
    data: Mapping[str, object] | None = None,
    training: Mapping[str, object] | None = None,
    tags: list[str] | None = None,
    include_code: bool = False,
) -> ModelCard:
    """
    Makes the README of a checkpoint. It shows how to use the checkpoint, the metrics (also in the README's metadata),
    how the model reads a history, and the data that it was trained on.

    Args:
        processor ([`PatchRecProcessor`]):
            The checkpoint's processor.
        repo_id (`str`):
            The repository or directory that the checkpoint can be loaded from.
        results ([`EvaluationReport`] or `Mapping[str, float]`, *optional*):
            The metrics. A report's metrics come with their 95% intervals by users.
        dataset_name (`str`, *optional*):
            Name of the data set that the model was evaluated on.
        base_model (`str`, *optional*):
            The backbone's name on the Hub.
        data (`Mapping[str, object]`, *optional*):
            Further rows of the data table, which always describes the catalog.
        training (`Mapping[str, object]`, *optional*):
            Rows of the training table.
        tags (`list[str]`, *optional*):
            Tags of the repository.
        include_code (`bool`, *optional*, defaults to `False`):
            Whether the repository holds the code that the model needs (see [`export_checkpoint`]).

    Returns:
        [`~huggingface_hub.ModelCard`]
    """
    values, section = _describe_results(results)
    catalog, lengths = processor.catalog, processor.title_tokens.lengths
    return ModelCard.from_template(
        ModelCardData(
            base_model=base_model,
            library_name="patchrec-hf",
            tags=tags,
            pipeline_tag="text-generation",
            model_name=repo_id.rpartition("/")[2],
            eval_results=_eval_results(values, dataset_name),
        ),
        template_path=str(_TEMPLATE),
        model_name=repo_id.rpartition("/")[2],
        repo_id=repo_id,
        include_code=include_code,
        results=section,
        max_history=processor.max_history,
        example_history=catalog.item_ids[:3].tolist(),
        reading={
            "layout": processor.layout,
            "longest history": processor.max_history,
            "separators after patches": processor.separate_patches,
        },
        history_mark=_HISTORY_MARK,
        prompt=_show_prompt(processor),
        data={
            **({"data set": dataset_name} if dataset_name else {}),
            "items": len(catalog),
            "items that share their title": catalog.num_shared_titles(),
            "tokens per title": f"{lengths.mean():.1f} ({lengths.min()} to {lengths.max()})",
            **(data or {}),
        },
        training=training,
    )


def write_results(
    directory: str | os.PathLike, results: EvaluationReport | Mapping[str, float], dataset_name: str | None = None
) -> None:
    """
    Replaces the results in the model card of a checkpoint, in the table and in the metadata.

    Args:
        directory (`str` or `os.PathLike`):
            The checkpoint, as a trainer or [`export_checkpoint`] saved it.
        results ([`EvaluationReport`] or `Mapping[str, float]`):
            The metrics (see [`make_model_card`]).
        dataset_name (`str`, *optional*):
            Name of the data set that the model was evaluated on.

    Raises:
        FileNotFoundError: If the directory has no card.
        ValueError: If this library did not write the card, so that it has no section of results.
    """
    path = Path(directory) / "README.md"
    if not path.is_file():
        raise FileNotFoundError(f"{directory} has no model card (README.md) to write results to.")
    values, section = _describe_results(results)
    card = ModelCard.load(path)
    content, count = _RESULTS.subn(lambda _: f"{section}\n", card.content)
    if count != 1:
        raise ValueError(f"{path} has {count} sections called Results, but a card of this library has one.")
    card.content = content
    card.data.model_name = card.data.model_name or Path(directory).name
    card.data.eval_results = _eval_results(values, dataset_name)
    card.save(path)


def _describe_results(results: EvaluationReport | Mapping[str, float] | None) -> tuple[dict[str, float], str]:
    """Returns the metrics, and the card's section that shows them."""
    values = results.metrics() if isinstance(results, EvaluationReport) else dict(results or {})
    values = {name: value for name, value in values.items() if name.startswith(_METRICS)}
    shown = {name: f"{value:.4f}" for name, value in values.items()}
    measured_by = "From the trainer's last evaluation."
    if isinstance(results, EvaluationReport):
        measured_by = f"On {len(results.targets)} targets, with 95% intervals by resampling users."
        for row in results.intervals().filter(slice="all").iter_rows(named=True):
            if row["metric"] in shown:
                shown[row["metric"]] += f" ({row['low']:.4f}–{row['high']:.4f})"
    rows = "".join(f"| {name} | {value} |\n" for name, value in shown.items())
    table = f"{measured_by}\n\n| metric | value |\n|---|---|\n{rows}" if rows else "Not evaluated yet.\n"
    return values, f"## Results\n\n{table}"


def _eval_results(values: Mapping[str, float], dataset_name: str | None) -> list[EvalResult] | None:
    return [
        EvalResult(
            task_type="sequential-recommendation",
            task_name="Sequential recommendation",
            dataset_type=dataset_name or "unnamed",
            dataset_name=dataset_name or "unnamed",
            metric_type=name,
            metric_value=round(value, 6),
        )
        for name, value in values.items()
    ] or None


def describe_rows(dataset: Dataset) -> dict[str, str]:
    """Makes rows of the data table, which describe the rows that the model was trained on."""
    rows = dataset.select_columns(["user_id", "target_positions"]).to_polars()
    targets = rows["target_positions"].explode()
    return {
        "training rows": f"{len(rows)} from {rows['user_id'].n_unique()} users",
        "training targets": f"{targets.count()}, each after {targets.mean():.1f} items on average",
    }


def describe_training(args: TrainingArguments, state: TrainerState) -> dict[str, object]:
    """Makes rows of the training table, for any trainer."""
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    return {
        "optimizer steps": f"{state.global_step} of {state.max_steps}",
        "rows per step": args.train_batch_size * args.world_size * args.gradient_accumulation_steps,
        "learning rate": f"{args.learning_rate}, {SchedulerType(args.lr_scheduler_type).value}",
        "precision": "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32",
        "processes": args.world_size,
        **({"last training loss": f"{losses[-1]:.4f}"} if losses else {}),
        "versions": ", ".join(f"{name} {version(name)}" for name in ("patchrec-hf", "transformers", "trl", "torch")),
    }


def _show_prompt(processor: PatchRecProcessor) -> str:
    prompt, decode = processor.prompt, processor.tokenizer.decode
    return "".join(
        [decode(prompt.prefix_ids), START_TOKEN, _HISTORY_MARK, END_TOKEN, decode(prompt.suffix_ids)]
    ).strip()
