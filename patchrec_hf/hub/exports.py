"""Exports: checkpoints for the Hub, and backbones for other engines."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from huggingface_hub import CommitInfo, HfApi
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import CONFIG_NAME, PROCESSOR_NAME

from ..evaluation.report import EvaluationReport
from ..runtime.hub_files import CATALOG_NAME, require_token
from ..runtime.item_vectors import item_patches, item_vectors_of
from ..runtime.layouts import lay_out_alike
from ..runtime.modeling import PatchRecForCausalLM
from ..runtime.processing import PatchRecProcessor
from ..runtime.sharding import is_sharded
from .model_card import make_model_card


ITEM_VECTORS_NAME = "item_vectors.safetensors"
_PROMPT_NAME = "patchrec_prompt.json"
# A checkpoint needs this module and the modules that it imports relatively, and no other code.
_ENTRY_MODULE = "recommender.py"
_AUTO_MAPS = {
    CONFIG_NAME: {
        "AutoConfig": "configuration.PatchRecConfig",
        "AutoModel": "modeling.PatchRecModel",
        "AutoModelForCausalLM": "modeling.PatchRecForCausalLM",
    },
    PROCESSOR_NAME: {"AutoProcessor": "processing.PatchRecProcessor"},
}


def export_checkpoint(
    model: PatchRecForCausalLM,
    processor: PatchRecProcessor,
    directory: str | os.PathLike,
    repo_id: str | None = None,
    include_code: bool = False,
    results: EvaluationReport | Mapping[str, float] | None = None,
    **card: Any,
) -> None:
    """
    Saves model, processor and model card, in the form in which [`export_to_hub`] pushes them.

    Args:
        model ([`PatchRecForCausalLM`]):
            The model. Merge an adapter first.
        processor ([`PatchRecProcessor`]):
            The processor that the model was trained with.
        directory (`str` or `os.PathLike`):
            Where to save; made if it does not exist.
        repo_id (`str`, *optional*):
            The repository that the card's code loads the checkpoint from; `directory` if not given.
        include_code (`bool`, *optional*, defaults to `False`):
            Whether to add this library's code, so that the checkpoint loads where the library is not installed. Users
            must then trust the code (`trust_remote_code=True`), and install the packages that it imports.
        results ([`EvaluationReport`] or `Mapping[str, float]`, *optional*):
            Metrics for the card.
        **card:
            Passed to [`make_model_card`]: `dataset_name`, `base_model`, `data`, `training`, `tags`.

    Raises:
        TypeError: If `model` is no [`PatchRecForCausalLM`].
        ValueError: If model and processor were not made for each other, or the weights are sharded over processes.
    """
    _check_whole(model, processor)
    directory = Path(directory)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    if include_code:
        _add_code(directory)
    make_model_card(processor, repo_id or str(directory), results, include_code=include_code, **card).save(
        directory / "README.md"
    )


def export_to_hub(
    model: PatchRecForCausalLM,
    processor: PatchRecProcessor,
    repo_id: str,
    include_code: bool = False,
    results: EvaluationReport | Mapping[str, float] | None = None,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload PatchRec checkpoint",
    **card: Any,
) -> CommitInfo:
    """
    Pushes model, processor and model card to the Hub, in one commit. Under a launcher, call it in one process only.

    Args:
        model, processor, include_code, results, **card:
            See [`export_checkpoint`].
        repo_id (`str`):
            The repository, such as `"user/name"`; made if it does not exist.
        token (`str`, *optional*):
            A token that may write; the token of the environment or of `hf auth login` if not given.
        private (`bool`, *optional*):
            Whether to make a new repository private.
        revision (`str`, *optional*):
            The branch to push to; the main branch if not given.
        commit_message (`str`, *optional*, defaults to `"Upload PatchRec checkpoint"`):
            The commit's message.

    Returns:
        [`~huggingface_hub.CommitInfo`]

    Raises:
        TypeError, ValueError: As [`export_checkpoint`] does, and if there is no token.

    Example:
    ```python
    >>> report = evaluate_model(model, processor, splits["test"])
    >>> export_to_hub(model, processor, "user/patchrec-goodreads", results=report, dataset_name="Goodreads")
    ```
    """
    require_token(token)
    with TemporaryDirectory() as directory:
        export_checkpoint(model, processor, directory, repo_id, include_code, results, **card)
        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        return api.upload_folder(
            repo_id=repo_id, folder_path=directory, revision=revision, commit_message=commit_message
        )


@torch.no_grad()
def export_backbone(model: PatchRecForCausalLM, processor: PatchRecProcessor, directory: str | os.PathLike) -> None:
    """
    Saves the backbone as a plain causal language model, and the item patch of each item as a vector. With both, an
    engine that supports the backbone and takes prompts as embeddings can serve the model. A session patch is the mean
    of its items' vectors. All other positions of a prompt hold the token embeddings of the backbone.

    Args:
        model ([`PatchRecForCausalLM`]):
            The model. Merge an adapter first.
        processor ([`PatchRecProcessor`]):
            The processor that the model was trained with.
        directory (`str` or `os.PathLike`):
            Where to save. The directory gets the backbone with its tokenizer, the catalog (`catalog.parquet`),
            `item_vectors.safetensors` and `patchrec_prompt.json` (the prompt's token ids, the layout, the history's
            length). The vectors are in the order of the catalog: `item_vectors` of shape `(num_items, H)`, in the
            model's dtype, are the item patches of prompts. If the model has an item head, `head_item_vectors` of shape
            `(num_items, H + 1)`, float32, are the vectors for an index of inner products, the last entry being the
            item's bias; `head_user_matrix` and `head_log_scale` turn a hidden state into the vector to search with
            (see [`UserVectors`]); `head_feature_weights` are the weights of seen items and of similar titles. The
            settings of the head are in `patchrec_prompt.json`.

    Raises:
        TypeError, ValueError: As [`export_checkpoint`] does, and if the layout has sessions and the model's patcher
            is `"attention"`, which makes no means of items' vectors.
    """
    _check_whole(model, processor)
    if model.config.patcher == "attention" and _has_sessions(processor):
        raise ValueError(
            f"The layout {processor.layout} joins items to sessions, and `patcher='attention'` weighs the tokens of a "
            "whole session, which vectors of items cannot express. Export with `processor.with_layout("
            "ItemPatchLayout(5))`, or train with another patcher."
        )
    directory = Path(directory)
    with torch.device("meta"):
        backbone = AutoModelForCausalLM.from_config(model.config.text_config)
    # The new backbone takes over the modules that hold the weights, so nothing is copied.
    setattr(backbone, backbone.base_model_prefix, model.model.language_model)
    backbone.set_output_embeddings(model.lm_head)
    backbone.generation_config = model.generation_config
    backbone.save_pretrained(directory)
    processor.tokenizer.save_pretrained(directory)
    processor.catalog.to_parquet(directory / CATALOG_NAME)
    items = np.arange(len(processor.catalog))
    vectors = {"item_vectors": item_patches(model, processor, items)}
    if model.item_head is not None:
        vectors["head_item_vectors"] = item_vectors_of(model, processor, items)
        user = model.item_head.user_vectors
        vectors |= {
            "head_user_matrix": user.weight.detach(),
            "head_log_scale": user.log_scale.detach(),
            "head_feature_weights": model.item_head.feature_weights(),
        }
    save_file({name: tensor.cpu().contiguous() for name, tensor in vectors.items()}, directory / ITEM_VECTORS_NAME)
    settings = {**processor.to_dict(), "item_head": model.config.item_head, "patcher": model.config.patcher}
    (directory / _PROMPT_NAME).write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _check_whole(model: PatchRecForCausalLM, processor: PatchRecProcessor) -> None:
    if not isinstance(model, PatchRecForCausalLM):
        raise TypeError(
            f"`model` must be a `PatchRecForCausalLM`, got `{type(model).__name__}`. Merge an adapter first: "
            "`trainer.model.merge_and_unload()`."
        )
    model.check_processor(processor)
    if is_sharded(model):
        raise ValueError(
            "The weights are sharded: this process holds only a part of them. Save with `trainer.save_model`, load "
            "the result with `PatchRecForCausalLM.from_pretrained` in one process, and export that model."
        )


def _has_sessions(processor: PatchRecProcessor) -> bool:
    """Whether the layout joins items of the longest history, if all of them were chosen at once."""
    segments = lay_out_alike(processor.layout, processor.max_history, processor.separate_patches)
    return any(granularity == "session_patch" for granularity, _, _ in segments)


def _add_code(directory: Path) -> None:
    """Copies the modules that loading and recommending import, and registers them for the Auto classes."""
    package = Path(__file__).parents[1] / "runtime"
    for path in {str(package / _ENTRY_MODULE), *get_relative_import_files(package / _ENTRY_MODULE)}:
        shutil.copy(path, directory)
    for name, auto_map in _AUTO_MAPS.items():
        values = json.loads((directory / name).read_text(encoding="utf-8"))
        (directory / name).write_text(json.dumps({**values, "auto_map": auto_map}, indent=2) + "\n", encoding="utf-8")
