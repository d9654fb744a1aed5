"""Loads models of any kind by name, and completes the configuration of adapters."""

from __future__ import annotations

import copy
import json
import os
import re
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftMixedModel, PeftModel
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as TARGET_MODULES
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME, cached_file, find_adapter_config_file, logging

from .configuration import Patcher, PatchRecConfig
from .hub_files import check_device_map, check_path, explained_lookup, hub_kwargs, is_local_name
from .modeling import PatchRecForCausalLM
from .prompts import PATCH_TOKEN, special_token_ids


logger = logging.get_logger(__name__)

# Hub arguments that also apply to the base model. `revision` and `subfolder` are left out: they belong to the adapter.
_BASE_MODEL_KWARGS = ("token", "cache_dir", "local_files_only", "force_download")


def load_model(
    name_or_path: str | os.PathLike, tokenizer: PreTrainedTokenizerBase | None = None, **kwargs: Any
) -> PatchRecForCausalLM:
    """
    Loads a model of any kind: a PatchRec checkpoint, a backbone to start from, or an adapter. An adapter is merged
    into the model that it was trained on.

    Args:
        name_or_path (`str` or `os.PathLike`):
            A repository of the Hub or a directory.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Tokenizer of a backbone, as in [`PatchRecForCausalLM.from_backbone`]. An adapter has its own tokenizer.
        **kwargs:
            Passed to `from_pretrained`.

    Returns:
        [`PatchRecForCausalLM`]
    """
    if is_adapter(name_or_path, **kwargs):
        return load_adapted(name_or_path, **kwargs)
    with explained_lookup(name_or_path, kwargs):
        config = AutoConfig.from_pretrained(
            name_or_path, trust_remote_code=kwargs.get("trust_remote_code", False), **hub_kwargs(kwargs)
        )
    if isinstance(config, PatchRecConfig):
        return PatchRecForCausalLM.from_pretrained(name_or_path, **kwargs)
    return PatchRecForCausalLM.from_backbone(name_or_path, tokenizer, **kwargs)


def without_wrapper(model: Any) -> PatchRecForCausalLM:
    """
    Returns the model in a model with an adapter. PEFT puts its layers into this model, so it scores as the two do
    together, and nothing needs to be merged.

    Args:
        model ([`PatchRecForCausalLM`] or [`~peft.PeftModel`]):
            A model, with or without an adapter.

    Returns:
        [`PatchRecForCausalLM`]

    Raises:
        ValueError: If the adapter puts tokens before a sequence (prompt learning), which the model in it does not see.
        TypeError: If the model is wrapped for several devices, or is of another kind.
    """
    if isinstance(model, PeftModel):
        if model.active_peft_config.is_prompt_learning:
            raise ValueError(
                f"The model has an adapter of the type {model.active_peft_config.peft_type}, which puts tokens before "
                "a sequence. They belong to no history, and a catalog cannot be ranked behind them. Train an adapter "
                "of the weights instead, such as `LoraConfig`."
            )
        model = model.get_base_model()
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        raise TypeError(f"The model is wrapped in `{type(model).__name__}`. Pass the model in it: `model.module`.")
    if isinstance(model, PeftMixedModel):
        raise TypeError(
            "The model is a `PeftMixedModel`, whose adapters are not known to fit together in one model. Merge them: "
            "pass `model.merge_and_unload()`."
        )
    return cast(PatchRecForCausalLM, model)


def is_adapter(name_or_path: str | os.PathLike, **kwargs: Any) -> bool:
    """
    Whether a repository of the Hub or a directory holds an adapter.

    Raises:
        FileNotFoundError, NotADirectoryError, ImportError, ValueError: As [`check_path`] and [`check_device_map`] do.
    """
    check_path(name_or_path, kwargs)
    check_device_map(kwargs)
    with explained_lookup(name_or_path, kwargs):
        return find_adapter_config_file(str(name_or_path), **hub_kwargs(kwargs)) is not None


def load_adapted(
    adapter: str | os.PathLike, base_model: str | os.PathLike | None = None, **kwargs: Any
) -> PatchRecForCausalLM:
    """
    Loads an adapter and merges it into the model that it was trained on.

    Args:
        adapter (`str` or `os.PathLike`):
            A repository of the Hub or a directory with the adapter and its tokenizer, as a trainer saves them.
        base_model (`str` or `os.PathLike`, *optional*):
            Repository or directory of the model that the adapter was trained on. If not given, the adapter names it.
        **kwargs:
            Passed to `from_pretrained`. `revision` and `subfolder` choose files of the adapter only.

    Returns:
        [`PatchRecForCausalLM`]

    Raises:
        ValueError: If the adapter does not name the model that it was trained on, or was trained on another model.
        FileNotFoundError: If the adapter names a directory that does not exist.
    """
    adapter_kwargs = hub_kwargs(kwargs)
    if base_model is None:
        base_model = _find_base(adapter, PeftConfig.from_pretrained(adapter, **adapter_kwargs).base_model_name_or_path)
    base_kwargs = {
        name: value for name, value in kwargs.items() if name not in adapter_kwargs or name in _BASE_MODEL_KWARGS
    }
    trust_remote_code = kwargs.get("trust_remote_code", False)
    tokenizer = AutoTokenizer.from_pretrained(adapter, trust_remote_code=trust_remote_code, **adapter_kwargs)
    model = load_model(base_model, tokenizer, **base_kwargs)
    # An adapter that was not saved by a trainer has no `config.json`.
    has_config = cached_file(adapter, CONFIG_NAME, _raise_exceptions_for_missing_entries=False, **adapter_kwargs)
    head, num_time_gaps, patcher, num_layers = None, 0, "mean", 1
    if has_config is not None:
        config = AutoConfig.from_pretrained(adapter, trust_remote_code=trust_remote_code, **adapter_kwargs)
        if isinstance(config, PatchRecConfig):
            head, num_time_gaps = config.item_head_config, config.num_time_gaps
            patcher, num_layers = config.patcher, config.patcher_layers
            # The adapter was trained for an objective and scores of its own.
            model.config.objective = config.objective
            model.config.trained_until = config.trained_until
            model.config.initial_learning_rate = config.initial_learning_rate
            model.config.title_normalizer = config.title_normalizer
            model.config.title_temperature = config.title_temperature
    if head is not None and model.item_head is None:
        model.make_item_head(head)  # the adapter holds its weights
    if num_time_gaps > 0 and model.model.time_gaps is None:
        model.add_time_gaps(num_time_gaps)  # so here
    if patcher != model.config.patcher:
        model.add_patcher(cast(Patcher, patcher), num_layers)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            model = PeftModel.from_pretrained(model, adapter, **adapter_kwargs).merge_and_unload()
    except (RuntimeError, ValueError, KeyError, IndexError, UserWarning) as error:
        raise ValueError(
            f"The adapter in {adapter} does not fit {base_model}, so it was trained on another model: {error}"
        ) from error
    _keep_apart(model)
    # An adapter that is trained on this model saves this path as its base model.
    model.name_or_path = model.config.name_or_path = str(adapter)
    return model


def _keep_apart(model: PatchRecForCausalLM) -> None:
    """
    Notes in the configuration that head and embedding table differ, if an adapter has trained one of the two alone.
    Otherwise a saved copy of the model would be loaded with one table for both.
    """
    table: Any = model.get_input_embeddings().weight
    head: Any = model.get_output_embeddings().weight
    if not model.config.tie_word_embeddings or head is table or torch.equal(head, table):
        return
    for config in (model.config, model.config.text_config, model.config.decoder_config):
        config.tie_word_embeddings = False
    model._tied_weights_keys = {}


def _find_base(adapter: str | os.PathLike, base_model: str | None) -> str:
    """
    Finds the model that an adapter was trained on. A path is one as it stands, or from a directory above the adapter:
    an earlier version saved paths as they were given, from the directory in which the training ran.
    """
    if base_model is None:
        raise ValueError(
            f"The adapter in {adapter} does not name the model that it was trained on. Pass it as `base_model`."
        )
    if os.path.isdir(base_model) or not os.path.isdir(adapter):
        return base_model
    for directory in Path(adapter).resolve().parents:
        if (directory / base_model / CONFIG_NAME).is_file():
            return str(directory / base_model)
    if is_local_name(base_model):
        raise FileNotFoundError(
            f"The adapter in {adapter} was trained on the model in {base_model}, and there is no such directory. If "
            "the model was moved, pass its directory as `base_model`."
        )
    return base_model


def save_base_path(directory: str | os.PathLike) -> None:
    """
    Makes a saved adapter name its base model so that it is found from any directory: the path of a directory is made
    absolute. The name of a repository stays.

    Args:
        directory (`str` or `os.PathLike`):
            A directory with an adapter, which was saved by a process that works where the path leads.
    """
    path = Path(directory, ADAPTER_CONFIG_NAME)
    config = json.loads(path.read_text(encoding="utf-8"))
    base_model = config.get("base_model_name_or_path")
    if base_model is None or not os.path.isdir(base_model) or os.path.isabs(base_model):
        return
    config["base_model_name_or_path"] = os.path.abspath(base_model)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    part.replace(path)


def complete_lora_config(
    config: PeftConfig, model: PatchRecForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> PeftConfig:
    """
    Fills in the open settings of a LoRA configuration: the target modules are the usual ones of the backbone, and the
    special tokens that surround and separate items are trained. A backbone does not know these tokens. `<|patch|>` is
    not trained, because it is only a placeholder. An item head, residuals, time gaps and a patcher's weights are
    trained whole and saved with the adapter.

    Args:
        config ([`~peft.PeftConfig`]):
            Configuration of any adapter. Only a LoRA configuration is changed, in a copy. With
            `trainable_token_indices=[]`, no token is trained.
        model ([`PatchRecForCausalLM`]):
            The model that the adapter is for.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer.

    Returns:
        [`~peft.PeftConfig`]

    Raises:
        ValueError: If `target_modules` names a module that the model does not have.
    """
    if not isinstance(config, LoraConfig):
        return config
    config = copy.deepcopy(config)
    if config.target_modules is None and config.target_parameters is None:
        config.target_modules = TARGET_MODULES.get(model.config.decoder_config.model_type, "all-linear")
    pattern, names = config.target_modules, [name for name, _ in model.named_modules()]
    if isinstance(pattern, str) and pattern != "all-linear" and not any(re.fullmatch(pattern, name) for name in names):
        config.target_modules = {pattern}  # no pattern of whole names, but one name, as TRL's arguments give it
    if not isinstance(config.target_modules, str):
        _check_target_modules(config.target_modules or (), model)
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    names_of = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
    name, chosen = names_of[id(embeddings)], {*(config.modules_to_save or ()), *_names(config.target_modules)}
    # PEFT trains tokens of a tied table in the head, too, and cannot do so where it trains the head itself.
    is_tied = head is not None and head.weight is embeddings.weight
    is_head_trained = is_tied and names_of[id(head)] in chosen
    if config.trainable_token_indices is None and name not in chosen:
        token_ids = special_token_ids(tokenizer)
        if is_head_trained:
            logger.warning(
                f"The adapter trains {names_of[id(head)]!r}, which is tied to {name!r}. PEFT cannot also train the "
                f"special tokens of the prompt in {name!r}, so their embeddings stay as they are. To train them, add "
                f"{name!r} to `modules_to_save`."
            )
        else:
            config.trainable_token_indices = {name: [token_ids[token] for token in token_ids if token != PATCH_TOKEN]}
    parts = {
        "item_head": model.item_head,
        "item_residual": model.model.item_residual,
        "time_gaps": model.model.time_gaps,
        "patcher": model.model.patcher,
    }
    # A part that the objective does not train is frozen. PEFT would train a copy of it.
    trained = [
        name
        for name, part in parts.items()
        if part is not None and any(parameter.requires_grad for parameter in part.parameters())
    ]
    if trained:
        config.modules_to_save = [*(config.modules_to_save or ()), *trained]
    # With an empty dict or list, PEFT would wrap the embedding although no token is trained.
    config.trainable_token_indices = config.trainable_token_indices or None
    return config


def _names(target_modules: Any) -> Any:
    """Returns the names in `target_modules`, which can also be one pattern."""
    return () if target_modules is None or isinstance(target_modules, str) else target_modules


def _check_target_modules(names: Any, model: PatchRecForCausalLM) -> None:
    known = [name for name, _ in model.named_modules()]
    decoder = model.model.named_modules()
    linear = sorted({name.rpartition(".")[2] for name, part in decoder if isinstance(part, nn.Linear)})
    for target in names:
        if not any(name == target or name.endswith(f".{target}") for name in known):
            raise ValueError(
                f"`target_modules` of the adapter names {target!r}, which the backbone "
                f"({type(model.model.language_model).__name__}) does not have. Its linear layers are called "
                f"{', '.join(linear)}."
            )
