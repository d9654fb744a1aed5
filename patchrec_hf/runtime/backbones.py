"""What is asked of a backbone: how its head makes logits, where new tokens start, and whether it can read trees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from .attention import (
    CHUNK_ATTENTION,
    MASKABLE_ATTENTION,
    packed_attention_inputs,
    register_chunk_attention,
)


def scale_logits(logits: torch.Tensor, text_config: PreTrainedConfig) -> torch.Tensor:
    """
    What some families do to the head's output: Cohere multiplies it, Granite divides it, Gemma 2 caps it.

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


def mean_initialise(backbone: PreTrainedModel, new_ids: list[int], num_trained_rows: int) -> None:
    """
    Starts new tokens at the mean of the trained ones, in both embedding tables.

    Args:
        backbone ([`~transformers.PreTrainedModel`]):
            The causal language model, changed in place.
        new_ids (`list[int]`):
            Ids of the new tokens, which follow those that are trained.
        num_trained_rows (`int`):
            Rows that the tables had before they were resized.
    """
    if not new_ids:
        return
    # Tables may have spare rows, which no token used until now.
    num_trained_rows = min(num_trained_rows, *new_ids)
    head = backbone.get_output_embeddings()
    tables = [backbone.get_input_embeddings().weight, head.weight]
    if head.bias is not None:
        tables.append(head.bias)
    for table in {id(table): table for table in tables}.values():  # the weights are one, if they are tied
        with torch.no_grad(), _whole(table):
            table[new_ids] = table[:num_trained_rows].float().mean(dim=0).to(table.dtype)


def _whole(parameter: nn.Parameter) -> AbstractContextManager:
    """A context in which a parameter that ZeRO-3 has sharded is whole, and changes to it are kept."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    # By name, so that a checkpoint which brings this code does not ask for deepspeed.
    return import_module("deepspeed").zero.GatheredParameters([parameter], modifier_rank=0)


@torch.no_grad()
def check_outputs(backbone: PreTrainedModel) -> None:
    """
    Proves on a few tokens that a backbone gives hidden states and a key-value cache, as decoders with attention do.

    Args:
        backbone ([`~transformers.PreTrainedModel`]):
            A causal language model.

    Raises:
        ValueError: If its base model gives one of them not.
    """
    ids = torch.arange(1, 5, device=backbone.device)[None]
    with _probing(backbone), maskable_attention(backbone, backbone.base_model):
        outputs = backbone.base_model(input_ids=ids, use_cache=True)
    missing = [name for name in ("last_hidden_state", "past_key_values") if name not in outputs]
    if missing:
        raise ValueError(
            f"{type(backbone).__name__} cannot serve as a backbone: its base model gives no {' and no '.join(missing)}"
            ". Use a decoder with attention and a key-value cache."
        )


@torch.no_grad()
def check_logits(model: PreTrainedModel, backbone: PreTrainedModel) -> None:
    """
    Proves on a few tokens that the wrapper makes of hidden states what its backbone makes of them.

    Args:
        model ([`PatchRecForCausalLM`]):
            The wrapper.
        backbone ([`~transformers.PreTrainedModel`]):
            The causal language model whose modules it took over.

    Raises:
        ValueError: If their logits differ.
    """
    ids = torch.tensor([[i for i in range(1, 6) if i != model.config.patch_token_id]], device=model.device)
    with _probing(model), _probing(backbone), maskable_attention(model, backbone.base_model):
        ours, theirs = (part(input_ids=ids, use_cache=False).logits.to(model.device) for part in (model, backbone))
    if not _almost_equal(ours, theirs, tolerance=1e-2):
        raise ValueError(
            f"{type(backbone).__name__} makes its logits in a way that this library does not know (largest "
            f"difference {(ours - theirs).abs().max().item():.3g} on a few tokens), so it cannot serve as a backbone."
        )


@torch.no_grad()
def reads_trees(model: PreTrainedModel) -> bool:
    """
    Tries whether a model reads two branches that share a trunk as one sequence as it reads them one by one, with the
    attention implementation that it has.

    Args:
        model ([`PatchRecForCausalLM`]):
            The model, with an attention implementation that reads trees (see [`packed_attention_inputs`]).

    Returns:
        `bool`

    Raises:
        FloatingPointError: If its hidden states are not numbers.
    """
    config, decoder = model.config.decoder_config, model.model.language_model
    if not _may_read_trees(decoder):
        return False
    # The trunk 1 2 3 with the branches 4 5 and 6 7, each at the depths 3 and 4.
    ids, depths, subtree_end, chunk_ancestors = (
        torch.tensor(rows, device=model.device)
        for rows in (
            [[1, 2, 3, 4, 5, 6, 7]],
            [[0, 1, 2, 3, 4, 3, 4]],
            [[7, 7, 7, 5, 5, 7, 7]],
            [[-1, -1, -1, -1], [0, 1, 2, -1], [0, 1, 2, 5]],  # of three chunks
        )
    )
    inputs = packed_attention_inputs(depths, subtree_end, chunk_ancestors, config, model.dtype)
    branches = (ids[:, :5], torch.cat([ids[:, :3], ids[:, 5:]], dim=1))
    with _probing(model):
        try:
            packed = decoder(input_ids=ids, position_ids=depths, use_cache=False, **inputs)
        # ALiBi models take their positions from a mask of shape (B, T) and no other; a model that keeps chunks from
        # its attention finds their mask of the wrong shape.
        except (ValueError, RuntimeError, TypeError):
            return False
        alone = [decoder(input_ids=branch, use_cache=False).last_hidden_state[:, 3:] for branch in branches]
    if not torch.isfinite(packed.last_hidden_state).all():
        raise FloatingPointError(
            "The model's hidden states are not numbers (NaN or infinity). Check the training loss, and that the "
            "weights were loaded whole."
        )
    tolerance = 1e-3 if model.dtype == torch.float32 else 5e-2
    return _almost_equal(packed.last_hidden_state[:, 3:], torch.cat(alone, dim=1), tolerance)


def enable_tree_packing(model: PreTrainedModel) -> None:
    """
    Switches a model's attention to what reads packed batches fastest where the model is: in place of SDPA,
    FlexAttention on a GPU and else SDPA in chunks (see [`chunk_attention_forward`]). Either is tried
    first. Eager attention and a FlexAttention that was there before stay.

    Args:
        model ([`PatchRecForCausalLM`]):
            The model, on the device that it will train on.

    Raises:
        ValueError: If the backbone cannot read trees, or its attention implementation takes no mask.
    """
    disable_tree_packing(model)
    decoder, implementation = model.model.language_model, model.config.decoder_config._attn_implementation
    if implementation not in (*MASKABLE_ATTENTION, "flex_attention"):
        raise ValueError(
            f"The attention implementation {implementation!r} takes no mask, so it cannot read packed batches; load "
            "the model with `attn_implementation='sdpa'`."
        )
    # Shards cannot be read before their engine exists: what the family says of itself must do.
    is_sharded = is_deepspeed_zero3_enabled()
    if is_sharded:
        can_read = decoder._supports_attention_backend and _may_read_trees(decoder)
    else:
        can_read = model.supports_tree_attention()
    if not can_read:
        raise ValueError(
            f"{type(decoder).__name__} does not take its positions and its mask as it is given them, so it cannot "
            "read packed batches."
        )
    if implementation != "sdpa":
        return
    faster = []
    if model.device.type == "cuda" and decoder._supports_flex_attn and not _attention_dropout(decoder.config):
        faster.append("flex_attention")
    if decoder._supports_attention_backend:
        register_chunk_attention()
        faster.append(CHUNK_ATTENTION)
    for name in faster:
        model.set_attn_implementation(name)
        if is_sharded or reads_trees(model):
            model._unpacked_attention = implementation
            return
        model.set_attn_implementation(implementation)


def disable_tree_packing(model: PreTrainedModel) -> None:
    """Takes back what [`enable_tree_packing`] switched, if it did."""
    if model._unpacked_attention is not None:
        model.set_attn_implementation(model._unpacked_attention)
        model._unpacked_attention = None


def _may_read_trees(decoder: PreTrainedModel) -> bool:
    """Whether nothing in a family's description speaks against its reading trees."""
    return not decoder._is_stateful and not _has_unknown_window(decoder.config)


def _attention_dropout(config: PreTrainedConfig) -> float:
    """FlexAttention knows none, and families name it as they like."""
    names = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob", "attn_dropout")
    return max(getattr(config, name, None) or 0.0 for name in names)


def is_sharded(model: PreTrainedModel) -> bool:
    """Whether each process holds only a part of the weights (ZeRO-3, FSDP2), so that all must run alike."""
    return is_deepspeed_zero3_enabled() or any(isinstance(parameter, DTensor) for parameter in model.parameters())


@contextmanager
def gathered_root(model: PreTrainedModel) -> Iterator[None]:
    """
    What FSDP2 shards with the model itself and not with one of its layers (embedding, final norm, head) is whole
    meanwhile. The model's own forward would gather it; who calls its parts must.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Any model; without FSDP2 nothing happens.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def _has_unknown_window(config: PreTrainedConfig) -> bool:
    """Whether some layers narrow what they see in a way that [`tree_attention_mask`] does not know of."""
    layer_types = set(getattr(config, "layer_types", None) or ())
    known = ("sliding_window", "_sliding_window_pattern", "sliding_window_pattern", "max_window_layers")
    windows = [name for name, value in config.to_dict().items() if "window" in name and type(value) is int]
    return bool(layer_types - {"full_attention", "sliding_attention"} or set(windows) - set(known))


@contextmanager
def maskable_attention(model: PreTrainedModel, decoder: PreTrainedModel) -> Iterator[None]:
    """
    Attention that takes masks of any shape and any precision, which flash attention does not.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model whose attention is switched meanwhile.
        decoder ([`~transformers.PreTrainedModel`]):
            Its part that attends.
    """
    implementation = decoder.config.get_text_config()._attn_implementation
    if implementation in MASKABLE_ATTENTION:
        yield
        return
    model.set_attn_implementation("sdpa" if decoder._supports_sdpa else "eager")
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)


@contextmanager
def _probing(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode in the model's own precision."""
    training = model.training
    model.eval()
    try:
        with torch.autocast(model.device.type, enabled=False):
            yield
    finally:
        model.train(training)


def _almost_equal(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    return bool((one - other).float().norm() <= tolerance * other.float().norm())
