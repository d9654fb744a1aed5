"""Trainable models: loads a model by its name, adds the parts that are to be trained, and notes what trained it."""

from __future__ import annotations

import os
from typing import Any, cast

import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from ..data.rows import TIMES_COLUMN, latest_target_time
from ..runtime.adapters import load_model
from ..runtime.backbones import check_origin
from ..runtime.configuration import Patcher, Similarity
from ..runtime.modeling import PatchRecForCausalLM
from ..runtime.processing import PatchRecProcessor
from .arguments import PatchFinetuneConfig


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
    _add_parts(patchrec_model, args, processor, is_adapted=isinstance(model, PeftModel))
    patchrec_model.check_processor(processor)
    if patchrec_model.config.tokenizer_fingerprint is None:  # an earlier version of the library made the model
        check_origin(patchrec_model, processor.tokenizer, args.trust_remote_code)
        patchrec_model.config.tokenizer_fingerprint = processor.tokenizer_fingerprint
    _check_evaluation(patchrec_model, args, processor)
    patchrec_model.config.objective = args.objective
    _freeze_idle_head(patchrec_model, args.objective, unfreezes=patchrec_model is model)
    if args.objective != "item":
        _set_title_scores(patchrec_model, args)
    return model, patchrec_model


def _add_parts(
    model: PatchRecForCausalLM, args: PatchFinetuneConfig, processor: PatchRecProcessor, is_adapted: bool
) -> None:
    """Adds an item head, time gaps and a patcher where they are asked for, but not below an adapter."""
    if args.objective != "title" and model.item_head is None:
        if is_adapted:
            raise ValueError(
                f"`objective={args.objective!r}` needs an item head, which the adapter's base model does not have. "
                "Call `add_item_head` on the base model before the adapter is made, or pass `peft_config`."
            )
        model.add_item_head(
            processor.catalog,
            args.item_residual_size if processor.num_residuals > 0 else 0,
            cast(Similarity, args.item_similarity),
            args.item_dropout,
            args.residual_dropout,
            args.title_similarity,
        )
    if processor.num_time_gaps > 0 and model.model.time_gaps is None:
        if is_adapted:
            raise ValueError(
                "The processor writes time gaps, which the adapter's base model does not read. Call `add_time_gaps` "
                "on the base model before the adapter is made, or pass `peft_config`."
            )
        model.add_time_gaps(processor.num_time_gaps)
    if args.patcher not in (None, model.config.patcher):
        if is_adapted:
            raise ValueError(
                f"`patcher={args.patcher!r}` is not the patcher of the adapter's base model, which has "
                f"{model.config.patcher!r}. Call `add_patcher` on the base model before the adapter is made, "
                "or pass `peft_config`."
            )
        if model.config.patcher != "mean":
            raise ValueError(
                f"`patcher={args.patcher!r}`, but the model has the patcher {model.config.patcher!r}, which "
                "would lose what it has learned. Leave `patcher` unset, or start from a model that patches by the "
                "mean."
            )
        model.add_patcher(cast(Patcher, args.patcher), args.patcher_layers)
    num_layers = model.config.patcher_layers
    if args.patcher_layers not in (1, num_layers):  # 1 is the default
        raise ValueError(
            f"`patcher_layers={args.patcher_layers}`, but the model's patcher reads titles by {num_layers} "
            f"layer{'s' * (num_layers > 1)}, as it has learned to. Leave `patcher_layers` unset."
        )


def _check_evaluation(model: PatchRecForCausalLM, args: PatchFinetuneConfig, processor: PatchRecProcessor) -> None:
    if args.eval_method == "fusion" and processor.fusion is None:
        raise ValueError(
            "`eval_method='fusion'` needs a processor with a fusion, and this one has none. A fusion is fitted after "
            "training (`fit_fusion`); evaluate by titles or by the item head until then."
        )
    if args.eval_method == "item" and model.item_head is None:
        raise ValueError(
            "`eval_method='item'` needs a model with an item head, and this one has none. Set `objective='item'` or "
            "'both', or evaluate by titles."
        )


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


def is_prompt_learning(model: Any, peft_config: PeftConfig | None) -> bool:
    """Returns whether the adapter to train puts tokens before a sequence."""
    config = model.active_peft_config if isinstance(model, PeftModel) else peft_config
    return config is not None and config.is_prompt_learning
