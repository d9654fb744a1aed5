"""Backbones: loads and checks a causal language model, scales its logits, and initializes its new tokens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE

from .attention import maskable_attention
from .configuration import PatchRecConfig
from .hub_files import check_device_map, check_path, explained_lookup, hub_kwargs
from .padding import is_padding_token
from .progress import no_bars_in_files
from .prompts import SPECIAL_TOKENS, add_special_tokens
from .sharding import gathered


def load_backbone(
    backbone: str | os.PathLike | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, **kwargs: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Loads a causal language model, checks it, and adds embedding rows for the special tokens.

    Args:
        backbone (`str`, `os.PathLike` or [`~transformers.PreTrainedModel`]):
            A repository of the Hub, a directory, or a model, which is changed in place.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The backbone's tokenizer, changed in place. If `backbone` is a path, it may be left out, and is loaded from
            there.
        **kwargs:
            Passed to [`~transformers.AutoModelForCausalLM.from_pretrained`].

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerBase]`: the backbone and its tokenizer.

    Raises:
        ValueError: If the model is not a decoder-only causal language model with a key-value cache, if a model is
            given without its tokenizer, or if the tokenizer is not the backbone's.
    """
    if isinstance(backbone, PreTrainedModel):
        if tokenizer is None:
            raise ValueError("A backbone given as a model needs its tokenizer: `from_backbone(model, tokenizer)`.")
        known_tokens = tokenizer.get_vocab()
        check_origin(backbone, tokenizer, kwargs.get("trust_remote_code", False))
    else:
        check_path(backbone, kwargs)
        check_device_map(kwargs)
        with explained_lookup(backbone, kwargs):
            saved_tokenizer = AutoTokenizer.from_pretrained(
                backbone, trust_remote_code=kwargs.get("trust_remote_code", False), **hub_kwargs(kwargs)
            )
        known_tokens = saved_tokenizer.get_vocab()
        if tokenizer is None:
            tokenizer = saved_tokenizer
        else:
            check_vocabulary(saved_tokenizer, tokenizer, str(backbone))
        with no_bars_in_files(), explained_lookup(backbone, kwargs):
            backbone = AutoModelForCausalLM.from_pretrained(backbone, **{"use_safetensors": True, **kwargs})
    if isinstance(backbone.config, PatchRecConfig):
        raise ValueError("`backbone` is a PatchRec model already. Load it with `PatchRecForCausalLM.from_pretrained`.")
    if backbone.config.is_encoder_decoder or backbone.get_output_embeddings() is None:
        raise ValueError(
            f"{type(backbone).__name__} is not a decoder-only causal language model. Load the backbone "
            "with `AutoModelForCausalLM`."
        )
    if not is_deepspeed_zero3_enabled():  # a sharded model cannot run before its engine exists
        check_outputs(backbone)
    add_special_tokens(tokenizer)
    for settings in (backbone.config.get_text_config(), backbone.generation_config):
        pad_id = getattr(settings, "pad_token_id", None)
        if pad_id is not None and not is_padding_token(tokenizer, pad_id):
            settings.pad_token_id = tokenizer.pad_token_id
    vocabulary = tokenizer.get_vocab()
    num_rows: Any = backbone.get_input_embeddings().num_embeddings  # under ZeRO-3 the weight has no shape
    new_ids = [
        vocabulary[token] for token in SPECIAL_TOKENS if token not in known_tokens or vocabulary[token] >= num_rows
    ]
    if len(tokenizer) > num_rows:
        backbone.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    mean_initialize(backbone, new_ids, num_rows)
    return backbone, tokenizer


def check_vocabulary(saved: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase, backbone: str) -> None:
    """
    Checks that a tokenizer is the one that a backbone was saved with. Tokens may have been added to it. A model that
    reads ids of another tokenizer would train without an error, on titles that mean nothing to it.

    Args:
        saved ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer that was saved with the backbone. Its added tokens may be reserved ones, which users rename.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer to check.
        backbone (`str`):
            Name of the backbone, for the error message.

    Raises:
        ValueError: If a token of the backbone has another id or is missing.
    """
    vocabulary, added = tokenizer.get_vocab(), saved.get_added_vocab()
    own = {token: token_id for token, token_id in saved.get_vocab().items() if token not in added}
    other = [token for token, token_id in own.items() if vocabulary.get(token) != token_id]
    if other:
        raise ValueError(
            f"The tokenizer is not {backbone}'s: {len(other)} of the backbone's {len(own)} tokens, such as "
            f"{other[0]!r}, have other ids in it, or it lacks them. Make the processor from the same backbone: "
            f"`PatchRecProcessor.from_backbone({backbone!r}, catalog, prompt)`."
        )


def check_origin(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, trust_remote_code: bool = False) -> None:
    """
    Checks a tokenizer against the tokenizer in the directory that a model was loaded from. If the model comes from the
    Hub, or if the directory is gone or has no tokenizer, nothing is checked.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            A model whose configuration names its directory.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer to check.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code in the directory may be run.

    Raises:
        ValueError: If the tokenizer in the directory is another one (see [`check_vocabulary`]).
    """
    directory = model.config.name_or_path
    if directory and Path(directory, TOKENIZER_CONFIG_FILE).is_file():
        saved = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)
        check_vocabulary(saved, tokenizer, directory)


def scale_logits(logits: torch.Tensor, text_config: PreTrainedConfig) -> torch.Tensor:
    """
    Scales and caps the head's output as the backbone's family does: Cohere multiplies it, Granite divides it, Gemma 2
    caps it.

    Args:
        logits (`torch.Tensor` of shape `(..., V)`):
            The head's output.
        text_config ([`~transformers.PreTrainedConfig`]):
            The backbone's configuration.
    """
    scale = getattr(text_config, "logit_scale", None)
    if scale is not None:
        logits = logits * scale
    divisor = getattr(text_config, "logits_scaling", None)
    if divisor is not None:
        logits = logits / divisor
    cap = getattr(text_config, "final_logit_softcapping", None)
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits


def mean_initialize(backbone: PreTrainedModel, new_ids: list[int], num_trained_rows: int) -> None:
    """
    Initializes new tokens with the mean of the trained tokens, in both embedding tables.

    Args:
        backbone ([`~transformers.PreTrainedModel`]):
            The causal language model, changed in place.
        new_ids (`list[int]`):
            Ids of the new tokens, which follow the trained tokens.
        num_trained_rows (`int`):
            Number of rows that the tables had before they were resized.
    """
    if not new_ids:
        return
    # A table may have spare rows that no token uses.
    num_trained_rows = min(num_trained_rows, *new_ids)
    head = backbone.get_output_embeddings()
    tables = [backbone.get_input_embeddings().weight, head.weight]
    if head.bias is not None:
        tables.append(head.bias)
    for table in {id(table): table for table in tables}.values():  # tied weights are one table
        with torch.no_grad(), gathered(table):
            table[new_ids] = table[:num_trained_rows].float().mean(dim=0).to(table.dtype)


@torch.no_grad()
def check_outputs(backbone: PreTrainedModel) -> None:
    """
    Checks on a few tokens that a backbone returns hidden states and a key-value cache, as decoders with attention do.

    Args:
        backbone ([`~transformers.PreTrainedModel`]):
            A causal language model.

    Raises:
        ValueError: If its base model does not return both.
    """
    ids = torch.arange(1, 5, device=backbone.device)[None]
    with eval_mode(backbone), maskable_attention(backbone, backbone.base_model):
        outputs = backbone.base_model(input_ids=ids, use_cache=True)
    missing = [name for name in ("last_hidden_state", "past_key_values") if name not in outputs]
    if missing:
        raise ValueError(
            f"{type(backbone).__name__} cannot serve as a backbone: its base model returns no "
            f"{' and no '.join(missing)}. Use a decoder with attention and a key-value cache."
        )


@torch.no_grad()
def check_logits(model: PreTrainedModel, backbone: PreTrainedModel) -> None:
    """
    Checks on a few tokens that wrapper and backbone compute the same logits.

    Args:
        model ([`PatchRecForCausalLM`]):
            The wrapper.
        backbone ([`~transformers.PreTrainedModel`]):
            The causal language model whose modules the wrapper took over.

    Raises:
        ValueError: If the logits differ.
    """
    ids = torch.tensor([[i for i in range(1, 6) if i != model.config.patch_token_id]], device=model.device)
    with eval_mode(model), eval_mode(backbone), maskable_attention(model, backbone.base_model):
        ours, theirs = (part(input_ids=ids, use_cache=False).logits.to(model.device) for part in (model, backbone))
    if not is_close(ours, theirs, tolerance=1e-2):
        raise ValueError(
            f"{type(backbone).__name__} computes its logits in a way that this library does not reproduce (largest "
            f"difference {(ours - theirs).abs().max().item():.3g} on a few tokens), so it cannot serve as a backbone."
        )


@contextmanager
def eval_mode(model: PreTrainedModel) -> Iterator[None]:
    """Puts a model in evaluation mode, without autocast, inside the context."""
    training = model.training
    model.eval()
    try:
        with torch.autocast(model.device.type, enabled=False):
            yield
    finally:
        model.train(training)


def is_close(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    """Whether two tensors differ by at most `tolerance` of the second one's norm."""
    return bool((one - other).float().norm() <= tolerance * other.float().norm())
