"""The model card: how to use a checkpoint, its metrics, its prompt, and its training."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import SchedulerType, TrainerState, TrainingArguments

from ..data.rows import read_frame
from ..evaluation.report import EvaluationReport
from ..runtime.processing import PatchRecProcessor
from ..runtime.prompts import END_TOKEN, START_TOKEN


_TEMPLATE = Path(__file__).parent / "model_card.md.jinja"
_METRICS = ("hr@", "ndcg@", "mrr@", "title_hr@", "title_ndcg@", "loss", "exact_share", "compression_")
_HISTORY_MARK = "…"
_EXAMPLE_TIME, _DAY = 1_700_000_000, 86_400
# Metrics of one evaluation, or of several evaluation sets by their names.
Results = EvaluationReport | Mapping[str, float] | Mapping[str, Mapping[str, float]]

# The section of results: its heading, and everything up to the next heading.
_RESULTS = re.compile(r"^## Results\n(?:(?!## ).*\n)*", re.MULTILINE)


def make_model_card(
    processor: PatchRecProcessor,
    repo_id: str,
    results: Results | None = None,
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
        results ([`EvaluationReport`], `Mapping[str, float]` or `Mapping[str, Mapping[str, float]]`, *optional*):
            The metrics, or the metrics of each evaluation set. A report's metrics come with their 95% intervals by
            users.
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
    history = catalog.item_ids[:3].tolist()
    timestamps = [_EXAMPLE_TIME + _DAY * place for place in range(len(history))]
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
        example_call=f"{history}, timestamps={timestamps}" if processor.reads_timestamps() else str(history),
        reads_timestamps=processor.reads_timestamps(),
        reading={
            "layout": processor.layout,
            "longest history": processor.max_history,
            "separators after patches": processor.separate_patches,
            **({"buckets of time gaps": processor.num_time_gaps} if processor.num_time_gaps else {}),
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
        fusion=_describe_fusion(processor),
    )


def _describe_fusion(processor: PatchRecProcessor) -> list[tuple[str, str, str]]:
    """Returns the rows of the fusion's table: of each part, and of the whole; none without a fusion."""
    if processor.fusion is None:
        return []
    fit = processor.fusion.fit_result
    rows = []
    for name, weight in processor.fusion.weights.items():
        alone = "unknown" if fit is None else f"{fit.of_parts[name]:.3f} alone"
        rows.append((name, f"{weight:.3f}", alone))
    return [*rows, ("all", "", f"{fit.log_likelihood:.3f}")] if fit is not None else rows


def write_results(directory: str | os.PathLike, results: Results, dataset_name: str | None = None) -> None:
    """
    Replaces the results in the model card of a checkpoint, in the table and in the metadata.

    Args:
        directory (`str` or `os.PathLike`):
            The checkpoint, as a trainer or [`export_checkpoint`] saved it.
        results ([`EvaluationReport`], `Mapping[str, float]` or `Mapping[str, Mapping[str, float]]`):
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


def _describe_results(results: Results | None) -> tuple[dict[str, dict[str, float]], str]:
    """Returns the metrics of each evaluation set, and the card's section that shows them."""
    named: dict[str, Any] = {"": results.metrics()} if isinstance(results, EvaluationReport) else dict(results or {})
    if not all(isinstance(metrics, Mapping) for metrics in named.values()):
        named = {"": named}
    values = {
        name: {metric: value for metric, value in metrics.items() if metric.startswith(_METRICS)}
        for name, metrics in named.items()
    }
    shown = {name: {metric: f"{value:.4f}" for metric, value in of.items()} for name, of in values.items()}
    steps = {metrics["step"] for metrics in named.values() if "step" in metrics}
    measured_by = f"The trainer measured these metrics after step {max(steps)}." if steps else ""
    if isinstance(results, EvaluationReport):
        measured_by = f"On {len(results.targets)} targets, with 95% intervals by resampling users."
        for row in results.intervals().filter(slice="all").iter_rows(named=True):
            if row["metric"] in shown[""]:
                shown[""][row["metric"]] += f" ({row['low']:.4f}–{row['high']:.4f})"
    tables = [_show_table(name, metrics) for name, metrics in shown.items() if metrics]
    text = "\n\n".join([*([measured_by] if measured_by else []), *tables]) if tables else "Not evaluated yet."
    return values, f"## Results\n\n{text}\n"


def _show_table(name: str, metrics: Mapping[str, str]) -> str:
    heading = f"### {name}\n\n" if name else ""
    return f"{heading}| metric | value |\n|---|---|\n" + "\n".join(f"| {one} | {of} |" for one, of in metrics.items())


def _eval_results(values: Mapping[str, Mapping[str, float]], dataset_name: str | None) -> list[EvalResult] | None:
    results = []
    for name, metrics in values.items():
        dataset = " ".join(part for part in (dataset_name, f"({name})" if dataset_name and name else name) if part)
        for metric, value in metrics.items():
            results.append(
                EvalResult(
                    task_type="sequential-recommendation",
                    task_name="Sequential recommendation",
                    dataset_type=dataset or "unnamed",
                    dataset_name=dataset or "unnamed",
                    metric_type=metric,
                    metric_value=round(value, 6),
                )
            )
    return results or None


def measured_results(log_history: Iterable[Mapping[str, Any]], best_step: int | None) -> dict[str, dict[str, float]]:
    """
    Finds in a trainer's log what was measured of the weights that it holds.

    Args:
        log_history (`Iterable[Mapping[str, Any]]`):
            Log entries of a [`~transformers.TrainerState`].
        best_step (`int`, *optional*):
            The step whose weights were loaded after training (`load_best_model_at_end`). Evaluations of this step
            count, and evaluations after training. If not given, evaluations of the last evaluated step count.

    Returns:
        `dict[str, dict[str, float]]`: metrics by the name of the evaluation set, which is empty for the only set. Each
        has the entry `step`.
    """
    evaluations, is_trained = [], False
    for entry in log_history:
        is_trained = is_trained or "train_runtime" in entry
        losses = [name for name in entry if name.startswith("eval_") and name.endswith("loss")]
        if losses:
            step = best_step if is_trained and best_step is not None else entry["step"]
            evaluations.append((step, min(losses, key=len).removesuffix("loss"), entry))
    last_step = evaluations[-1][0] if evaluations and best_step is None else best_step
    return {
        prefix.removeprefix("eval_").removesuffix("_"): {
            **{name.removeprefix(prefix): value for name, value in entry.items() if name.startswith(prefix)},
            "step": step,
        }
        for step, prefix, entry in evaluations
        if step == last_step
    }


def describe_rows(dataset: Dataset) -> dict[str, str]:
    """Makes rows of the data table, which describe the rows that the model was trained on."""
    rows = read_frame(dataset, "user_id", "target_positions")
    targets = rows["target_positions"].explode()
    mean: Any = targets.mean()
    return {
        "training rows": f"{len(rows)} from {rows['user_id'].n_unique()} users",
        "training targets": f"{targets.count()}, each after {mean:.1f} items on average",
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
