"""A trainer's inputs: its own copy of the arguments, and checks of the rows."""

from __future__ import annotations

import copy
from typing import Any

from datasets import Dataset, DatasetInfo, IterableDataset
from transformers.trainer_utils import HubStrategy

from ..data.row_facts import check_same_catalog, warn_of_other_max_history
from ..data.rows import TIMES_COLUMN, check_rows, plain_rows
from ..runtime.layouts import Layout
from ..runtime.processing import PatchRecProcessor
from .arguments import PatchFinetuneConfig


_SAMPLE_ROWS = 1000


def own_arguments(args: PatchFinetuneConfig, train_dataset: Dataset | IterableDataset) -> PatchFinetuneConfig:
    """
    Copies the training arguments for a trainer, which therefore never changes the user's own.

    Some settings differ in the copy. Trainer does not rotate or push checkpoints, because [`CheckpointCallback`] does.
    If rows are streamed, Trainer does not skip batches when a run resumes, because [`ScheduledStream`] starts at the
    right row and need not collate the rows before it. `model_init_kwargs` are unset, because the model is loaded, and
    SFTTrainer would warn that they are ignored.

    Args:
        args ([`PatchFinetuneConfig`]):
            The user's arguments.
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Rows.
    """
    args = copy.copy(args)
    args.save_total_limit = None
    args.hub_strategy = HubStrategy.END
    args.model_init_kwargs = None
    if isinstance(train_dataset, IterableDataset):
        args.ignore_data_skip = True
    return args


def first_train_rows(dataset: Any, args: PatchFinetuneConfig) -> Dataset:
    """
    Returns the training rows that can be checked before training: all rows of a data set, or the first rows of a
    stream.

    Raises:
        TypeError: If `dataset` is neither a [`~datasets.Dataset`] nor an [`~datasets.IterableDataset`].
        ValueError: If the arguments do not suit a stream.
    """
    if isinstance(dataset, IterableDataset):
        if args.max_steps < 1:
            raise ValueError(
                f"A stream of rows has no length, so `max_steps` must be set to at least 1, got {args.max_steps}."
            )
        if args.train_sampling_strategy != "random":
            raise ValueError(
                f"`train_sampling_strategy={args.train_sampling_strategy!r}` needs a `Dataset`, but the rows are "
                "streamed. Use 'random'."
            )
        first_rows: dict[str, Any] = next(iter(dataset.iter(batch_size=_SAMPLE_ROWS)), {})
        return Dataset.from_dict(first_rows, info=DatasetInfo(description=dataset.info.description))
    if not isinstance(dataset, Dataset):
        raise TypeError(f"`train_dataset` must be a `Dataset` or `IterableDataset`, got `{type(dataset).__name__}`.")
    return dataset


def check_precision(args: PatchFinetuneConfig) -> None:
    """
    Checks that the device can train in the requested precision.

    Args:
        args ([`PatchFinetuneConfig`]):
            Training arguments.

    Raises:
        ValueError: If `fp16` is set on a CPU, where Trainer would ignore it.
    """
    if args.fp16 and args.device.type == "cpu":
        raise ValueError(
            "`fp16=True` has no effect on a CPU, where Trainer trains in float32 without a warning. Set `bf16=True` "
            "and `use_cpu=True`, which a CPU can do too, or train on a GPU."
        )


def check_data_sets(
    first_rows: Dataset, eval_dataset: Any, processor: PatchRecProcessor, layout: Layout | None = None
) -> None:
    """
    Checks all rows of a trainer.

    Args:
        first_rows ([`~datasets.Dataset`]):
            Training rows (see [`first_train_rows`]).
        eval_dataset ([`~datasets.Dataset`] or `dict[str, Dataset]`, *optional*):
            Rows to evaluate.
        processor ([`PatchRecProcessor`]):
            The processor that encodes the rows.
        layout ([`Layout`], *optional*):
            The collator's layout, if it has one of its own.

    Raises:
        TypeError, ValueError: If rows fail [`check_data_set`], or `eval_dataset` is a dictionary without data sets.
    """
    for rows in [first_rows, *([] if eval_dataset is None else evaluation_sets(eval_dataset))]:
        check_data_set(rows, processor, layout)
    warn_of_other_max_history(first_rows, processor.max_history)


def check_data_set(rows: Dataset, processor: PatchRecProcessor, layout: Layout | None = None) -> None:
    """
    Checks the rows of a data set.

    Raises:
        TypeError, ValueError: If rows fail [`check_rows`] or [`check_same_catalog`].
        ValueError: If patches hold time gaps, or the processor's or the collator's layout asks for timestamps, and the
            rows have none.
    """
    check_rows(rows, processor.max_history)
    check_same_catalog(rows, processor.catalog)
    if TIMES_COLUMN in rows.column_names:
        return
    for used in (None, layout):  # evaluations rank with the processor's layout
        if processor.reads_timestamps(used):
            raise processor.missing_timestamps(
                f"a data set has no column `{TIMES_COLUMN}`; its columns are {rows.column_names}", used
            )


def evaluation_sets(eval_dataset: Any) -> list[Any]:
    """
    Lists the data sets of an evaluation, which may be given as a dictionary.

    Raises:
        ValueError: If the dictionary is empty.
    """
    if not isinstance(eval_dataset, dict):
        return [eval_dataset]
    if not eval_dataset:
        raise ValueError(
            "`eval_dataset` is a dictionary without data sets, so nothing would be evaluated. Pass rows, a dictionary "
            "of names and rows, or None."
        )
    return [*eval_dataset.values()]


def plain_sets(eval_dataset: Any) -> Any:
    """Undoes the formats of evaluation sets (see [`plain_rows`]), which may be given as a dictionary."""
    if isinstance(eval_dataset, dict):
        return {name: plain_rows(rows) for name, rows in eval_dataset.items()}
    return plain_rows(eval_dataset)
