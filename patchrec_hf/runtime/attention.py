"""Attention for trees: masks of which query sees which key, in the form that a backbone takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask


MASKABLE_ATTENTION = ("sdpa", "eager")
"""Attention implementations of transformers that take a mask of any shape."""
CHUNK_ATTENTION = "patchrec_chunks"
"""Name of [`chunk_attention_forward`] among the attention implementations of transformers."""
_BLOCK = 128  # positions in a block of FlexAttention


def tree_attention_mask(
    visible: torch.Tensor,
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    config: PreTrainedConfig,
    dtype: torch.dtype,
) -> torch.Tensor | dict[str, torch.Tensor]:
    """
    Makes the attention mask for a backbone's forward.

    Args:
        visible (`torch.BoolTensor` of shape `(B, Q, K)`):
            Whether each query sees each key.
        query_positions (`torch.LongTensor` of shape `(B, Q)`):
            Depth of each query in its tree.
        key_positions (`torch.LongTensor` of shape `(B, K)`):
            Depth of each key in its tree.
        config ([`~transformers.PreTrainedConfig`]):
            The backbone's configuration.
        dtype (`torch.dtype`):
            Dtype of the hidden states.

    Returns:
        `torch.Tensor` of shape `(B, 1, Q, K)`, additive for eager attention and boolean for the others; or a `dict` of
        such masks by layer type, if the backbone has layer types with a sliding window. The window is measured in
        depth.
    """

    def formatted(mask: torch.Tensor) -> torch.Tensor:
        mask = mask[:, None]
        if config._attn_implementation != "eager":
            return mask
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)

    def in_window(window: int) -> torch.Tensor:
        return formatted(visible & (query_positions[:, :, None] - key_positions[:, None, :] < window))

    return _by_layer_type(config, lambda: formatted(visible), in_window)


def packed_attention_inputs(
    position_ids: torch.Tensor,
    subtree_end: torch.Tensor,
    chunk_ancestors: torch.Tensor,
    config: PreTrainedConfig,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """
    Makes the arguments with which a backbone's forward attends within a packed batch.

    Args:
        position_ids, subtree_end, chunk_ancestors (`torch.LongTensor`):
            Tensors of the batch, as [`pack_histories`] makes them.
        config ([`~transformers.PreTrainedConfig`]):
            The backbone's configuration.
        dtype (`torch.dtype`):
            Dtype of the hidden states.

    Returns:
        `dict[str, Any]`: `attention_mask` in the form that the backbone's attention implementation takes, and the
        other arguments that it needs. Only SDPA and eager attention receive a mask of shape `(1, 1, T, T)`.

    Raises:
        ValueError: If the attention implementation takes no mask.
    """
    if config._attn_implementation == CHUNK_ATTENTION:
        length, num_chunks = position_ids.shape[1], len(chunk_ancestors)
        # The last chunk is padded with positions that see only themselves. They change no result.
        positions = torch.arange(num_chunks * -(-length // num_chunks), device=position_ids.device)
        ends = torch.cat([subtree_end[0], positions[length:] + 1])
        depths = F.pad(position_ids[0], (0, len(positions) - length))
        queries = positions.view(num_chunks, -1)
        keys = torch.cat([chunk_ancestors, queries], dim=1)
        seen_until = torch.where(keys < 0, 0, ends[keys])
        visible = (keys[:, None] <= queries[:, :, None]) & (queries[:, :, None] < seen_until[:, None])
        return {
            "attention_mask": tree_attention_mask(visible, depths[queries], depths[keys], config, dtype),
            "chunk_keys": keys.clamp(min=0, max=length - 1),
        }
    if config._attn_implementation == "flex_attention":
        return {"attention_mask": tree_block_mask(position_ids, subtree_end, config)}
    if config._attn_implementation not in MASKABLE_ATTENTION:
        raise ValueError(
            f"A packed batch needs attention that takes masks, but the model has {config._attn_implementation!r}. "
            "Call `model.set_attn_implementation('sdpa')`, or make the batch without `tree_packing`."
        )
    positions = torch.arange(position_ids.shape[1], device=position_ids.device)
    visible = (positions[None, :] <= positions[:, None]) & (positions[:, None] < subtree_end[:, None, :])
    return {"attention_mask": tree_attention_mask(visible, position_ids, position_ids, config, dtype)}


def tree_block_mask(
    position_ids: torch.Tensor, subtree_end: torch.Tensor, config: PreTrainedConfig
) -> BlockMask | dict[str, BlockMask]:
    """
    Makes the mask of a packed batch for FlexAttention: a function of two positions, the blocks of positions in which
    FlexAttention calls it, and the blocks in which every query sees every key. No tensor of shape `(T, T)` is made.

    Args:
        position_ids, subtree_end (`torch.LongTensor` of shape `(1, T)`):
            Tensors of the batch, as [`pack_histories`] makes them.
        config ([`~transformers.PreTrainedConfig`]):
            The backbone's configuration.

    Returns:
        [`~torch.nn.attention.flex_attention.BlockMask`], or a `dict` of such masks by layer type, if the backbone has
        layer types with a sliding window. The window is measured in depth.
    """
    length = subtree_end.shape[1]
    num_blocks = -(-length // _BLOCK)
    # The last block is padded with positions that see only themselves. They change no result.
    ends = torch.arange(1, num_blocks * _BLOCK + 1, device=subtree_end.device)
    ends[:length] = subtree_end[0]
    depths = F.pad(position_ids[0], (0, len(ends) - length))
    block_ends = ends.view(num_blocks, _BLOCK)
    blocks = torch.arange(num_blocks, device=ends.device)
    is_earlier = blocks[None, :] < blocks[:, None]
    # In a key block before the query block, later queries see fewer keys. If the first query sees no key, the block is
    # skipped. If the last query sees all keys, the block needs no mask.
    is_seen = (is_earlier & (block_ends.amax(dim=1)[None, :] > blocks[:, None] * _BLOCK)) | (blocks == blocks[:, None])
    is_full = is_earlier & (block_ends.amin(dim=1)[None, :] >= ((blocks[:, None] + 1) * _BLOCK).clamp(max=length))

    def in_tree(batch: Any, head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (query < ends[key])

    def in_window(window: int) -> BlockMask:
        def in_tree_and_window(batch: Any, head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return in_tree(batch, head, query, key) & (depths[query] - depths[key] < window)

        return _block_mask(is_seen, torch.zeros_like(is_seen), in_tree_and_window, length)

    return _by_layer_type(config, lambda: _block_mask(is_seen & ~is_full, is_full, in_tree, length), in_window)


def _block_mask(is_partial: torch.Tensor, is_full: torch.Tensor, mask_mod: Any, length: int) -> BlockMask:
    def counts_and_order(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the number of key blocks of each query block, and all key blocks, with the counted ones first."""
        order = blocks.to(torch.int32).argsort(dim=1, descending=True, stable=True)
        return blocks.sum(dim=1, dtype=torch.int32)[None, None], order.to(torch.int32)[None, None]

    return BlockMask.from_kv_blocks(
        *counts_and_order(is_partial),
        *counts_and_order(is_full),
        BLOCK_SIZE=_BLOCK,
        mask_mod=mask_mod,
        seq_lengths=(length, length),
    )


def _by_layer_type(config: PreTrainedConfig, full: Any, in_window: Any) -> Any:
    """Returns `full()`, `in_window(window)`, or both in a dict by layer type, as the backbone's layers need."""
    layer_types = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if window is None or (layer_types is not None and "sliding_attention" not in layer_types):
        return full()
    if layer_types is None:  # every layer has the window, as in Mistral
        return in_window(window)
    return {"full_attention": full(), "sliding_attention": in_window(window)}


@contextmanager
def maskable_attention(model: Any, decoder: Any) -> Iterator[None]:
    """
    Switches to attention that takes masks of any shape and any precision, if the model's attention does not. Flash
    attention, for example, does not.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model whose attention is switched inside the context.
        decoder ([`~transformers.PreTrainedModel`]):
            The part of the model that computes attention.
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


def register_chunk_attention() -> None:
    """Registers [`chunk_attention_forward`] in transformers, as `"patchrec_chunks"`."""
    AttentionInterface.register(CHUNK_ATTENTION, chunk_attention_forward)
    AttentionMaskInterface.register(CHUNK_ATTENTION, sdpa_mask)


def chunk_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    chunk_keys: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """
    SDPA in which each chunk of a packed batch attends only to itself and to the ancestors of its first position. In
    preorder, all other ancestors of the chunk's positions are in the chunk. Without `chunk_keys`, it is plain SDPA.

    With a mask over all pairs, SDPA computes T² scores. Here it computes T · K scores: K is the size of a chunk plus
    the number of ancestors of the deepest chunk. The keys and values of each chunk are gathered from the sequence.

    Args:
        module (`torch.nn.Module`):
            The attention layer.
        query, key, value (`torch.Tensor` of shape `(1, heads, T, D)`):
            The states of the layer, as transformers passes them.
        attention_mask (`torch.BoolTensor` of shape `(C, 1, Q, K)`):
            Whether each position of a chunk sees each of the chunk's keys; Q is ⌈T / C⌉.
        chunk_keys (`torch.LongTensor` of shape `(C, K)`, *optional*):
            Positions that each chunk attends to. Padding may be any position.

    Returns:
        `tuple[torch.Tensor, None]`: attended values of shape `(1, T, heads, D)`.
    """
    if chunk_keys is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    length, num_chunks = query.shape[2], len(chunk_keys)
    size = -(-length // num_chunks)
    queries = F.pad(query[0], (0, 0, 0, num_chunks * size - length)).unflatten(1, (num_chunks, size)).transpose(0, 1)

    def gathered(states: torch.Tensor) -> torch.Tensor:
        # An embedding lookup adds up its gradient by rows, which is faster than the gradient of indexing. The sum is
        # in float32, because every chunk contributes to the gradient of a trunk.
        rows = F.embedding(chunk_keys, states[0].transpose(0, 1).flatten(1).float()).to(states.dtype)
        return rows.unflatten(2, (states.shape[1], states.shape[3])).transpose(1, 2)

    attended, _ = sdpa_attention_forward(module, queries, gathered(key), gathered(value), attention_mask, **kwargs)
    return attended.flatten(0, 1)[None, :length], None
