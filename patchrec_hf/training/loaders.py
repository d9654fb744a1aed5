"""Loaders of training and evaluation batches, from rows, a collator and training arguments."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader
from transformers import TrainerState
from transformers.trainer_utils import seed_worker

from ..batches.collators import PatchDataCollator
from ..batches.filled import FilledDataset
from ..batches.sampling import ScheduledDataset, ScheduledStream, StepSampler
from .arguments import PatchFinetuneConfig


def data_seed(args: PatchFinetuneConfig) -> int:
    """Returns the seed of the order of rows."""
    return args.seed if args.data_seed is None else args.data_seed


def make_stream(
    dataset: Dataset | IterableDataset, args: PatchFinetuneConfig, rows_per_forward: int
) -> ScheduledStream | None:
    """
    Gives each row of a stream its optimizer step.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Rows.
        args ([`PatchFinetuneConfig`]):
            Training arguments.
        rows_per_forward (`int`):
            Rows that all processes together read for one forward.

    Returns:
        [`ScheduledStream`], or `None` if the rows are not streamed.
    """
    if not isinstance(dataset, IterableDataset):
        return None
    return ScheduledStream(
        dataset,
        rows_per_micro_batch=rows_per_forward,
        accumulation_steps=args.gradient_accumulation_steps,
        seed=data_seed(args),
        max_steps=args.max_steps,
    )


def make_train_loader(
    rows: Dataset | ScheduledStream,
    collator: PatchDataCollator,
    args: PatchFinetuneConfig,
    rows_per_forward: int,
    get_state: Callable[[], TrainerState],
    lengths: np.ndarray | None,
) -> DataLoader:
    """
    Makes the loader of training batches. Each row comes with its optimizer step.

    Args:
        rows ([`~datasets.Dataset`] or [`ScheduledStream`]):
            Rows.
        collator ([`PatchDataCollator`]):
            Makes batches.
        args ([`PatchFinetuneConfig`]):
            Training arguments.
        rows_per_forward (`int`):
            Rows that all processes together read for one forward.
        get_state, lengths:
            See [`StepSampler`].

    Returns:
        [`~torch.utils.data.DataLoader`]: not yet prepared for several processes.
    """
    batch_size = rows_per_forward // args.world_size
    if isinstance(rows, ScheduledStream):
        return _make_loader(rows, collator, args, batch_size, persistent_workers=args.dataloader_persistent_workers)
    sampler = StepSampler(
        num_rows=len(rows),
        rows_per_micro_batch=rows_per_forward,
        accumulation_steps=args.gradient_accumulation_steps,
        num_processes=args.world_size,
        drop_last=args.dataloader_drop_last,
        seed=data_seed(args),
        get_state=get_state,
        lengths=lengths,
    )
    return _make_loader(
        ScheduledDataset(rows),
        collator,
        args,
        batch_size,
        sampler=sampler,
        drop_last=args.dataloader_drop_last,
        persistent_workers=args.dataloader_persistent_workers,
        worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
    )


def make_eval_loader(dataset: Dataset, collator: PatchDataCollator, args: PatchFinetuneConfig) -> DataLoader:
    """
    Makes a loader of evaluation batches, in the order of the rows. Its workers stop after each evaluation.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows. On several processes, rows without labels fill the last batches.
        collator ([`PatchDataCollator`]):
            Makes batches.
        args ([`PatchFinetuneConfig`]):
            Training arguments.

    Returns:
        [`~torch.utils.data.DataLoader`]: not yet prepared for several processes.
    """
    is_filled = args.world_size > 1 or args.dataloader_drop_last
    filled = FilledDataset(dataset, args.eval_batch_size * args.world_size if is_filled else 1)
    return _make_loader(filled, collator, args, args.eval_batch_size, drop_last=args.dataloader_drop_last)


def _make_loader(
    dataset: Any, collator: PatchDataCollator, args: PatchFinetuneConfig, batch_size: int, **settings: Any
) -> DataLoader:
    return DataLoader(
        dataset,
        batch_size,
        collate_fn=collator,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        multiprocessing_context=args.dataloader_multiprocessing_context,
        prefetch_factor=args.dataloader_prefetch_factor,
        in_order=args.dataloader_in_order,
        **settings,
    )
