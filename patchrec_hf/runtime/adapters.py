"""Models by name, of any kind, and what an adapter trains."""

from __future__ import annotations

import copy
import os
import warnings
from typing import Any

from peft import LoraConfig, PeftConfig, PeftModel
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as TARGET_MODULES
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import find_adapter_config_file

from .configuration import PatchRecConfig
from .hub_files import hub_kwargs
from .modeling import PatchRecForCausalLM
from .prompts import PATCH_TOKEN, special_token_ids


# Of what says which files are meant, what does not name the adapter's own.
_FOR_BASE_TOO = ("token", "cache_dir", "local_files_only", "force_download")


def load_model(
    name_or_path: str | os.PathLike, tokenizer: PreTrainedTokenizerBase | None = None, **kwargs: Any
) -> PatchRecForCausalLM:
    """
    Loads a model of any kind: a PatchRec checkpoint, a backbone to start from, or an adapter, which is merged into the
    model that it was trained on.

    Args:
        name_or_path (`str` or `os.PathLike`):
            A repository of the Hub or a directory.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            For a backbone: as in [`PatchRecForCausalLM.from_backbone`]. An adapter brings its own.
        **kwargs:
            Passed to `from_pretrained`.

    Returns:
        [`PatchRecForCausalLM`]
    """
    if is_adapter(name_or_path, **kwargs):
        return load_adapted(name_or_path, **kwargs)
    config = AutoConfig.from_pretrained(
        name_or_path, trust_remote_code=kwargs.get("trust_remote_code", False), **hub_kwargs(kwargs)
    )
    if isinstance(config, PatchRecConfig):
        return PatchRecForCausalLM.from_pretrained(name_or_path, **kwargs)
    return PatchRecForCausalLM.from_backbone(name_or_path, tokenizer, **kwargs)


def is_adapter(name_or_path: str | os.PathLike, **kwargs: Any) -> bool:
    """Whether a repository of the Hub or a directory holds an adapter."""
    return find_adapter_config_file(str(name_or_path), **hub_kwargs(kwargs)) is not None


def load_adapted(
    adapter: str | os.PathLike, base_model: str | os.PathLike | None = None, **kwargs: Any
) -> PatchRecForCausalLM:
    """
    Loads an adapter, merged into the model that it was trained on.

    Args:
        adapter (`str` or `os.PathLike`):
            A repository of the Hub or a directory, as a trainer saves it: with its tokenizer.
        base_model (`str` or `os.PathLike`, *optional*):
            Where that model is; what the adapter names if not given.
        **kwargs:
            Passed to `from_pretrained`; what says which files are meant says it of the adapter's.

    Returns:
        [`PatchRecForCausalLM`]

    Raises:
        ValueError: If the adapter does not say what it was trained on, or was trained on another model.
    """
    where = hub_kwargs(kwargs)
    base_model = base_model or PeftConfig.from_pretrained(adapter, **where).base_model_name_or_path
    if base_model is None:
        raise ValueError(
            f"The adapter in {adapter} does not say which model it was trained on. Pass that as `base_model`."
        )
    others = {name: value for name, value in kwargs.items() if name not in where or name in _FOR_BASE_TOO}
    trust_remote_code = kwargs.get("trust_remote_code", False)
    tokenizer = AutoTokenizer.from_pretrained(adapter, trust_remote_code=trust_remote_code, **where)
    model = load_model(base_model, tokenizer, **others)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            model = PeftModel.from_pretrained(model, adapter, **where).merge_and_unload()
    except (RuntimeError, ValueError, KeyError, IndexError, UserWarning) as error:
        raise ValueError(
            f"The adapter in {adapter} does not fit {base_model}, so it was trained on another model: {error}"
        ) from error
    # What is trained on top of it names it as what it was trained on.
    model.name_or_path = model.config.name_or_path = str(adapter)
    return model


def complete_lora_config(
    config: PeftConfig, model: PatchRecForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> PeftConfig:
    """
    Fills in what a LoRA configuration leaves open: the backbone's usual target modules, and that the special tokens
    which surround and separate items are trained. A backbone does not know these; `<|patch|>` only holds a place.

    Args:
        config ([`~peft.PeftConfig`]):
            Any adapter's; only LoRA's is changed, in a copy. `trainable_token_indices=[]` trains no token.
        model ([`PatchRecForCausalLM`]):
            The model that the adapter is for.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.

    Returns:
        [`~peft.PeftConfig`]

    Raises:
        ValueError: If the model has no module of a name in `target_modules`.
    """
    if not isinstance(config, LoraConfig):
        return config
    config = copy.deepcopy(config)
    if config.target_modules is None and config.target_parameters is None:
        config.target_modules = TARGET_MODULES.get(model.config.decoder_config.model_type, "all-linear")
    if not isinstance(config.target_modules, str):
        _check_target_modules(config.target_modules or (), model)
    embeddings = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embeddings).rpartition(".")[2]
    is_trained = name in (config.modules_to_save or ()) or name in (config.target_modules or ())
    if config.trainable_token_indices is None and not is_trained:
        token_ids = special_token_ids(tokenizer)
        config.trainable_token_indices = {name: [token_ids[token] for token in token_ids if token != PATCH_TOKEN]}
    # PEFT would wrap the embedding for no token too.
    config.trainable_token_indices = config.trainable_token_indices or None
    return config


def _check_target_modules(names: Any, model: PatchRecForCausalLM) -> None:
    known = [name for name, _ in model.named_modules()]
    decoder = model.model.named_modules()
    linear = sorted({name.rpartition(".")[2] for name, part in decoder if isinstance(part, nn.Linear)})
    for wanted in names:
        if not any(name == wanted or name.endswith(f".{wanted}") for name in known):
            raise ValueError(
                f"`target_modules` of the adapter names {wanted!r}, which the backbone "
                f"({type(model.model.language_model).__name__}) does not have. Its linear layers are called "
                f"{', '.join(linear)}."
            )
