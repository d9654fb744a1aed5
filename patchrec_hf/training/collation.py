"""Collation: completes the collator of a trainer by its objective, its negatives, and whether it packs batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import polars as pl
from datasets import Dataset, IterableDataset
from transformers.utils import logging

from ..batches.candidates import NegativeSampling
from ..batches.collators import Objective, PatchDataCollator, PatchPretrainDataCollator
from ..data.rows import read_columns, read_frame
from ..runtime.catalog import Catalog
from ..runtime.configuration import Normalizer
from ..runtime.layouts import is_append_only, lay_out_alike
from ..runtime.modeling import PatchRecForCausalLM
from ..runtime.processing import PatchRecProcessor
from .arguments import PatchFinetuneConfig, PatchPretrainConfig


logger = logging.get_logger(__name__)

_MAX_FULL_SOFTMAX = 50_000
_NUM_NEGATIVES = 8192


def check_collator(
    collator: PatchDataCollator, expected: type[PatchDataCollator], processor: PatchRecProcessor
) -> None:
    """
    Checks that a collator encodes rows as the saved checkpoint will encode histories.

    Raises:
        TypeError: If the collator is no `expected`.
        ValueError: If its processor is not `processor`, or its layout is not the processor's.
    """
    if not isinstance(collator, expected):
        raise TypeError(f"`data_collator` must be a `{expected.__name__}`, got `{type(collator).__name__}`.")
    if collator.processor is not processor:
        raise ValueError("The collator must hold the processor that is passed as `processing_class`.")
    if collator.layout not in (None, processor.layout):
        raise ValueError(
            "The collator's layout must be the processor's layout, which is saved with the checkpoint. Pass "
            "`processing_class=processor.with_layout(layout)`, and make the collator without a layout."
        )


def set_objective(
    collator: PatchDataCollator,
    args: PatchFinetuneConfig,
    train_dataset: Dataset | IterableDataset,
    model: PatchRecForCausalLM,
) -> PatchDataCollator:
    """
    Sets a collator's objective, among which tokens it has titles predicted, and how it draws the items that compete
    with item targets.

    Args:
        collator ([`PatchDataCollator`]):
            The user's collator or the default one.
        args ([`PatchFinetuneConfig`]):
            Training arguments.
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Training rows. An item that is never a target competes with none, so that it keeps the scores that its
            title gives it. The items of a stream compete all alike.
        model ([`PatchRecForCausalLM`]):
            The model, with an item head if the objective trains one.

    Raises:
        ValueError: If the collator has another objective or title normalizer, more items are to be drawn than there
            are, the layout leaves out the newest item, so that no position predicts the next one, or the catalog
            leaves no token open.
    """
    for name, default in (("objective", "title"), ("title_normalizer", "vocabulary")):
        own, expected = getattr(collator, name), getattr(args, name)
        if own not in (default, expected):
            raise ValueError(
                f"`data_collator` has the {name} {own!r}, but the arguments have {expected!r}. Change one of the two."
            )
    if args.title_normalizer == "catalog":
        _check_choices(collator.processor)
    negatives, catalog = collator.negatives, collator.processor.catalog
    if args.objective != "title" and negatives is None:
        negatives = choose_negatives(args, catalog, train_dataset)
    head = model.config.item_head_config
    collator = replace(
        collator,
        objective=cast(Objective, args.objective),
        negatives=negatives,
        compares_titles=head is not None and head.title_similarity,
        title_normalizer=cast(Normalizer, args.title_normalizer),
    )
    if isinstance(collator, PatchPretrainDataCollator) and isinstance(args, PatchPretrainConfig):
        collator = replace(collator, distills=args.distillation_weight > 0)
    if args.objective != "title":
        processor = collator.processor
        if collator.compares_titles:
            _ = processor.title_neighbors  # computed before workers are made, which would each compute it
        *_, newest = lay_out_alike(
            collator.layout or processor.layout, processor.max_history, processor.separate_patches
        )
        if newest.stop < processor.max_history:
            raise ValueError(
                f"`objective={args.objective!r}` predicts an item where the item before it ends, but the layout "
                f"{collator.layout or processor.layout} leaves out the newest item. Choose another layout."
            )
    return collator


def _check_choices(processor: PatchRecProcessor) -> None:
    """Checks that titles differ, and computes what a collator needs before workers are made."""
    trie = processor.trie
    if not trie.is_choice.any():
        raise ValueError(
            "`title_normalizer='catalog'` predicts a title among the catalog's titles, but all items have the "
            f"title {processor.catalog.titles[0]!r}. Check the titles, or use `title_normalizer='vocabulary'`."
        )
    _ = trie.choices_above, trie.leaf_of_item


def choose_negatives(
    args: PatchFinetuneConfig, catalog: Catalog, *parts: Dataset | IterableDataset
) -> NegativeSampling:
    """
    Chooses the items that compete with item targets: those that are targets themselves, all of them or a sample.

    Args:
        args ([`PatchFinetuneConfig`]):
            Training arguments; `num_negatives` is read.
        catalog ([`Catalog`]):
            The items.
        *parts ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Rows whose targets compete. With a stream, all items compete alike.
    """
    num_negatives = args.num_negatives
    if num_negatives is None and len(catalog) > _MAX_FULL_SOFTMAX:
        num_negatives = _NUM_NEGATIVES
    counts = np.zeros(len(catalog))
    for rows in parts:
        if isinstance(rows, IterableDataset):
            return NegativeSampling(num_negatives)
        counts += _count_targets(rows, catalog)
    return NegativeSampling(num_negatives, np.sqrt(counts))


def _count_targets(rows: Dataset, catalog: Catalog) -> np.ndarray:
    """Returns each item's number of targets."""
    targets = [
        part.select(pl.col("item_ids").list.gather(pl.col("target_positions")).explode()).to_series().drop_nulls()
        for part in read_columns(rows, "item_ids", "target_positions")
    ]
    return sum(
        (np.bincount(catalog.indices_of(part.to_numpy()), minlength=len(catalog)) for part in targets),
        np.zeros(len(catalog)),
    )


def complete_collator(
    collator: PatchDataCollator,
    model: PatchRecForCausalLM,
    args: PatchFinetuneConfig,
    first_rows: Dataset,
    uses_prompt_learning: bool,
) -> PatchDataCollator:
    """
    Sets a collator's `max_length` to the model's context, and decides whether it packs batches.

    Args:
        collator ([`PatchDataCollator`]):
            The user's collator or the default one. If it has a `max_length`, that is kept.
        model ([`PatchRecForCausalLM`]):
            The model.
        args ([`PatchFinetuneConfig`]):
            Training arguments; `tree_packing` is read.
        first_rows ([`~datasets.Dataset`]):
            Training rows (see [`first_train_rows`]). By default, batches are packed if a row has several targets.
        uses_prompt_learning (`bool`):
            Whether an adapter puts tokens before a sequence.

    Raises:
        ValueError: If the collator packs and `tree_packing` is `False`, or if the collator or `tree_packing` requests
            packing and the model cannot read packed batches.
    """
    if collator.tree_packing and args.tree_packing is False:
        raise ValueError(
            "`data_collator` packs batches, but `tree_packing=False` forbids it. Change one of the two settings."
        )
    is_requested = collator.tree_packing or args.tree_packing
    packs = bool(is_requested or (is_requested is None and _max_targets(first_rows) > 1))
    if packs:
        try:
            if uses_prompt_learning:
                raise ValueError("Prompt learning puts tokens before a sequence, where a packed batch has its root.")
            model.check_tree_packing()
        except ValueError as error:
            if is_requested:
                raise
            if args.process_index == 0:
                logger.warning(f"{error} Training continues without tree packing.")
            packs = False
    layout = collator.layout or collator.processor.layout
    reads_again = args.objective == "item" and not packs and not is_append_only(layout)
    if reads_again and args.process_index == 0 and _max_targets(first_rows) > 1:
        logger.warning(
            f"The rows have up to {_max_targets(first_rows)} targets, and each is predicted from a history of its "
            f"own, because the layout {layout} is not append-only. Without tree packing, the model reads all of "
            "them whole. Set `tree_packing=True`, so that it reads once what they share."
        )
    max_length = model.max_length if collator.max_length is None else collator.max_length
    return replace(collator, max_length=max_length, tree_packing=packs)


def _max_targets(rows: Dataset) -> int:
    targets: Any = read_frame(rows, "target_positions")["target_positions"]
    return int(targets.list.len().max() or 0)
