"""A trainer's inputs: checks them, loads a model by its name, and completes the collator."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from typing import Any, cast

import numpy as np
import polars as pl
import torch
from datasets import Dataset, DatasetInfo, IterableDataset
from peft import PeftConfig, PeftModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging

from ..batches.candidates import NegativeSampling
from ..batches.collators import Objective, PatchDataCollator, PatchPretrainDataCollator
from ..data.row_facts import check_same_catalog, warn_of_other_max_history
from ..data.rows import TIMES_COLUMN, check_rows, latest_target_time, plain_rows, read_columns, read_frame
from ..runtime.adapters import load_model
from ..runtime.backbones import check_origin
from ..runtime.catalog import Catalog
from ..runtime.configuration import Normalizer, Patcher, Similarity
from ..runtime.layouts import Layout, is_append_only, lay_out_alike
from ..runtime.modeling import PatchRecForCausalLM
from ..runtime.processing import PatchRecProcessor
from .arguments import PatchFinetuneConfig, PatchPretrainConfig


logger = logging.get_logger(__name__)

_SAMPLE_ROWS = 1000
_MAX_FULL_SOFTMAX = 50_000
_NUM_NEGATIVES = 8192


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


def load_trainable(model: Any, args: PatchFinetuneConfig, processor: PatchRecProcessor) -> tuple[Any, Any]:
    """
    Loads a model that is given by name, and checks it.

    Args:
        model (`str`, `os.PathLike`, [`PatchRecForCausalLM`] or [`~peft.PeftModel`]):
            A model or its name.
        args ([`PatchFinetuneConfig`]):
            Training arguments.
        processor ([`PatchRecProcessor`]):
            The processor that feeds the model.

    Returns:
        `tuple`: the model, and the [`PatchRecForCausalLM`] in it.

    Raises:
        TypeError: If the model is no [`PatchRecForCausalLM`].
        ValueError: If model and processor were not made for each other.
    """
    if isinstance(model, (str, os.PathLike)):
        # ZeRO-3 shards weights while they load. On a CPU, DeepSpeed's process group is not initialized yet.
        if is_deepspeed_zero3_enabled() and torch.distributed.is_initialized():
            import deepspeed

            deepspeed.init_distributed(torch.distributed.get_backend(), verbose=False)
        # Like TRL, because mixed precision needs weights in float32, in whatever dtype the checkpoint was saved.
        init_kwargs = args.model_init_kwargs if isinstance(args.model_init_kwargs, dict) else {}
        kwargs = {"trust_remote_code": args.trust_remote_code, "dtype": "float32", **init_kwargs}
        model = load_model(model, processor.tokenizer, **kwargs)
    patchrec_model = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(patchrec_model, PatchRecForCausalLM):
        raise TypeError(
            f"`model` must be a `PatchRecForCausalLM`, got `{type(patchrec_model).__name__}`. Pass the model's name, "
            "or make a PatchRec model with `PatchRecForCausalLM.from_backbone(model, processor.tokenizer)`."
        )
    if args.objective != "title" and patchrec_model.item_head is None:
        if isinstance(model, PeftModel):
            raise ValueError(
                f"`objective={args.objective!r}` needs an item head, which the adapter's base model does not have. "
                "Call `add_item_head` on the base model before the adapter is made, or pass `peft_config`."
            )
        patchrec_model.add_item_head(
            processor.catalog,
            args.item_residual_size if processor.num_residuals > 0 else 0,
            cast(Similarity, args.item_similarity),
            args.item_dropout,
            args.residual_dropout,
            args.title_similarity,
        )
    if processor.num_time_gaps > 0 and patchrec_model.model.time_gaps is None:
        if isinstance(model, PeftModel):
            raise ValueError(
                "The processor writes time gaps, which the adapter's base model does not read. Call `add_time_gaps` "
                "on the base model before the adapter is made, or pass `peft_config`."
            )
        patchrec_model.add_time_gaps(processor.num_time_gaps)
    if args.patcher not in (None, patchrec_model.config.patcher):
        if isinstance(model, PeftModel):
            raise ValueError(
                f"`patcher={args.patcher!r}` is not the patcher of the adapter's base model, which has "
                f"{patchrec_model.config.patcher!r}. Call `add_patcher` on the base model before the adapter is made, "
                "or pass `peft_config`."
            )
        if patchrec_model.config.patcher != "mean":
            raise ValueError(
                f"`patcher={args.patcher!r}`, but the model has the patcher {patchrec_model.config.patcher!r}, which "
                "would lose what it has learned. Leave `patcher` unset, or start from a model that patches by the "
                "mean."
            )
        patchrec_model.add_patcher(cast(Patcher, args.patcher), args.patcher_layers)
    num_layers = patchrec_model.config.patcher_layers
    if args.patcher_layers not in (1, num_layers):  # 1 is the default
        raise ValueError(
            f"`patcher_layers={args.patcher_layers}`, but the model's patcher reads titles by {num_layers} "
            f"layer{'s' * (num_layers > 1)}, as it has learned to. Leave `patcher_layers` unset."
        )
    patchrec_model.check_processor(processor)
    if patchrec_model.config.tokenizer_fingerprint is None:  # an earlier version of the library made the model
        check_origin(patchrec_model, processor.tokenizer, args.trust_remote_code)
        patchrec_model.config.tokenizer_fingerprint = processor.tokenizer_fingerprint
    if args.eval_method == "fusion" and processor.fusion is None:
        raise ValueError(
            "`eval_method='fusion'` needs a processor with a fusion, and this one has none. A fusion is fitted after "
            "training (`fit_fusion`); evaluate by titles or by the item head until then."
        )
    if args.eval_method == "item" and patchrec_model.item_head is None:
        raise ValueError(
            "`eval_method='item'` needs a model with an item head, and this one has none. Set `objective='item'` or "
            "'both', or evaluate by titles."
        )
    patchrec_model.config.objective = args.objective
    _freeze_idle_head(patchrec_model, args.objective, unfreezes=patchrec_model is model)
    if args.objective != "item":
        _set_title_scores(patchrec_model, args)
    return model, patchrec_model


def _set_title_scores(model: PatchRecForCausalLM, args: PatchFinetuneConfig) -> None:
    """Writes to the configuration, which is saved with each checkpoint, how the trained model scores titles."""
    normalizer = args.score_normalizer or args.title_normalizer
    model.config.title_normalizer = normalizer
    model.config.title_temperature = args.title_temperature if normalizer == args.title_normalizer else 1.0


def _freeze_idle_head(model: PatchRecForCausalLM, objective: str, unfreezes: bool) -> None:
    """
    Freezes the head that the objective does not train. Otherwise ZeRO, which takes a missing gradient for 0, would let
    the head decay, and FSDP2, which needs the optimizer's state of each weight that is not frozen, could not resume.
    With `unfreezes`, a head that this function froze for another trainer is trained again.
    """
    shared = set(map(id, model.model.parameters()))  # a tied head is the embedding table
    for head, is_idle in ((model.lm_head, objective == "item"), (model.item_head, objective == "title")):
        for parameter in () if head is None else head.parameters():
            if is_idle and parameter.requires_grad and id(parameter) not in shared:
                parameter.requires_grad_(False)
                parameter.is_idle = True
            elif not is_idle and unfreezes and getattr(parameter, "is_idle", False):
                parameter.requires_grad_(True)


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


def note_training(model: PatchRecForCausalLM, args: PatchFinetuneConfig, train_dataset: Any) -> None:
    """
    Writes to the configuration, which is saved with each checkpoint, until when the rows reach and, the first time,
    the learning rate. An update of the checkpoint continues from both.

    Args:
        model ([`PatchRecForCausalLM`]):
            The model.
        args ([`PatchFinetuneConfig`]):
            Training arguments; `learning_rate` is read.
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Training rows.
    """
    config = model.config
    is_timed = isinstance(train_dataset, Dataset) and TIMES_COLUMN in train_dataset.column_names
    config.trained_until = latest_target_time(train_dataset) if is_timed else None
    if config.initial_learning_rate is None:
        config.initial_learning_rate = float(args.learning_rate)


def _check_choices(processor: PatchRecProcessor) -> None:
    """Checks that titles differ, and computes what a collator needs before workers are made."""
    trie = processor.trie
    if not trie.is_choice.any():
        raise ValueError(
            "`title_normalizer='catalog'` predicts a title among the catalog's titles, but all items have the "
            f"title {processor.catalog.titles[0]!r}. Check the titles, or use `title_normalizer='vocabulary'`."
        )
    _ = trie.choices_above, trie.leaf_of_item


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


def is_prompt_learning(model: Any, peft_config: PeftConfig | None) -> bool:
    """Returns whether the adapter to train puts tokens before a sequence."""
    config = model.active_peft_config if isinstance(model, PeftModel) else peft_config
    return config is not None and config.is_prompt_learning


def _max_targets(rows: Dataset) -> int:
    targets: Any = read_frame(rows, "target_positions")["target_positions"]
    return int(targets.list.len().max() or 0)
