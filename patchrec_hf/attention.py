"""Attention masks for trees: which query sees which key, in the form that a backbone takes it."""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig


MASKABLE_ATTENTION = ("sdpa", "eager")
"""Attention implementations of transformers that take a mask of any shape."""


def tree_attention_mask(
    visible: torch.Tensor,
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    config: PreTrainedConfig,
    dtype: torch.dtype,
) -> torch.Tensor | dict[str, torch.Tensor]:
    """
    Makes the mask argument of a backbone's forward.

    Args:
        visible (`torch.BoolTensor` of shape `(B, Q, K)`):
            Whether a query sees a key.
        query_positions (`torch.LongTensor` of shape `(B, Q)`):
            Depth of each query in its tree.
        key_positions (`torch.LongTensor` of shape `(B, K)`):
            Depth of each key in its tree.
        config ([`~transformers.PreTrainedConfig`]):
            The backbone's configuration.
        dtype (`torch.dtype`):
            Dtype of the hidden states.

    Returns:
        `torch.Tensor` of shape `(B, 1, Q, K)`, boolean for SDPA and additive for eager attention; a `dict` of them by
        layer type where some layers attend to a sliding window, which is measured in depth.
    """
    layer_types = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if window is None or (layer_types is not None and "sliding_attention" not in layer_types):
        return _finished(visible, config, dtype)
    distance = query_positions[:, :, None] - key_positions[:, None, :]
    in_window = _finished(visible & (distance < window), config, dtype)
    if layer_types is None:  # every layer slides, as in Mistral
        return in_window
    return {"full_attention": _finished(visible, config, dtype), "sliding_attention": in_window}


def _finished(visible: torch.Tensor, config: PreTrainedConfig, dtype: torch.dtype) -> torch.Tensor:
    mask = visible[:, None]
    if config._attn_implementation == "sdpa":
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
