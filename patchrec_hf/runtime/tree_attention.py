"""Tree attention: tests whether a backbone reads branches of one trunk as one sequence, and reads packed batches."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from .attention import (
    CHUNK_ATTENTION,
    MASKABLE_ATTENTION,
    maskable_attention,
    packed_attention_inputs,
    register_chunk_attention,
)
from .backbones import eval_mode, is_close


class TreeAttentionMixin:
    """
    Methods of [`PatchRecForCausalLM`] for trees of tokens. They check and switch its attention, so that it can read
    titles as branches behind a prompt, and packed batches.
    """

    # Attributes of the model that this class is mixed into.
    config: Any
    model: Any
    device: torch.device
    dtype: torch.dtype

    _reads_trees: bool | None = None
    """Whether the test of `supports_tree_attention` succeeded; `None` before it ran."""
    _padded_attention: str | None = None
    """The attention implementation before `enable_tree_packing` switched it; `None` if nothing was switched."""

    def supports_tree_attention(self) -> bool:
        """
        Whether the backbone can read several branches that share a trunk as one sequence, given a mask and positions.

        The first call tests it: the model reads two branches packed and one by one. A test is needed because recurrent
        and ALiBi backbones accept masks and positions, but ignore them.

        Raises:
            FloatingPointError: If the model's hidden states are not numbers.
        """
        if self._reads_trees is None:
            with maskable_attention(self, self.model.language_model):
                self._reads_trees = reads_trees(self)
        return self._reads_trees

    def check_tree_packing(self) -> None:
        """
        Checks that the model can read packed batches.

        Raises:
            ValueError: If the backbone cannot read trees, or its attention implementation takes no mask.
        """
        decoder, implementation = self.model.language_model, self._attention_without_packing()
        if implementation not in (*MASKABLE_ATTENTION, "flex_attention"):
            raise ValueError(
                f"The attention implementation {implementation!r} takes no mask, so it cannot read packed batches. "
                "Load the model with `attn_implementation='sdpa'`."
            )
        # Under ZeRO-3 the model cannot run before its engine exists, so the class's flags decide.
        if is_deepspeed_zero3_enabled():
            can_read = decoder._supports_attention_backend and _may_read_trees(decoder)
        else:
            can_read = self.supports_tree_attention()
        if not can_read:
            raise ValueError(
                f"{type(decoder).__name__} does not take its positions and mask as given, so it cannot read packed "
                "batches."
            )

    def enable_tree_packing(self) -> None:
        """
        Switches attention to the implementation that reads packed batches fastest on the model's device. SDPA becomes
        FlexAttention on a GPU, and SDPA in chunks elsewhere (see [`chunk_attention_forward`]). Either is tested first.
        Eager attention stays, and so does a FlexAttention that the user chose. Call this when the model is on the
        device that it trains on.

        Raises:
            ValueError: As [`TreeAttentionMixin.check_tree_packing`] does.
        """
        self.check_tree_packing()
        self.disable_tree_packing()
        decoder, implementation = self.model.language_model, self._attention_without_packing()
        if implementation != "sdpa":
            return
        faster = []
        if self.device.type == "cuda" and decoder._supports_flex_attn and not _attention_dropout(decoder.config):
            faster.append("flex_attention")
        if decoder._supports_attention_backend:
            register_chunk_attention()
            faster.append(CHUNK_ATTENTION)
        for name in faster:
            self.set_attn_implementation(name)  # type: ignore[attr-defined]
            if is_deepspeed_zero3_enabled() or reads_trees(self):
                self._padded_attention = implementation
                return
            self.set_attn_implementation(implementation)  # type: ignore[attr-defined]

    def disable_tree_packing(self) -> None:
        """Restores the attention implementation that [`TreeAttentionMixin.enable_tree_packing`] switched."""
        if self._padded_attention is not None:
            self.set_attn_implementation(self._padded_attention)  # type: ignore[attr-defined]
            self._padded_attention = None

    def _attention_without_packing(self) -> str:
        return self._padded_attention or self.config.decoder_config._attn_implementation


@torch.no_grad()
def reads_trees(model: Any) -> bool:
    """
    Tests whether a model reads two branches that share a trunk as one sequence in the same way as one by one. The test
    uses the model's current attention implementation.

    Args:
        model ([`PatchRecForCausalLM`]):
            The model, with an attention implementation that reads trees (see [`packed_attention_inputs`]).

    Returns:
        `bool`: whether the hidden states are the same.

    Raises:
        FloatingPointError: If the model's hidden states are not numbers.
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
            [[-1, -1, -1, -1], [0, 1, 2, -1], [0, 1, 2, 5]],  # three chunks
        )
    )
    inputs = packed_attention_inputs(depths, subtree_end, chunk_ancestors, config, model.dtype)
    branches = (ids[:, :5], torch.cat([ids[:, :3], ids[:, 5:]], dim=1))
    with eval_mode(model):
        try:
            packed = decoder(input_ids=ids, position_ids=depths, use_cache=False, **inputs)
        # ALiBi models take positions only from a mask of shape (B, T). In models that do not pass `chunk_keys` to
        # their attention, the mask has the wrong shape.
        except (ValueError, RuntimeError, TypeError):
            return False
        alone = [decoder(input_ids=branch, use_cache=False).last_hidden_state[:, 3:] for branch in branches]
    if not torch.isfinite(packed.last_hidden_state).all():
        raise FloatingPointError(
            "The model's hidden states are not numbers (NaN or infinity). Check the training loss, and that the "
            "weights were loaded whole."
        )
    tolerance = 1e-3 if model.dtype == torch.float32 else 5e-2
    return is_close(packed.last_hidden_state[:, 3:], torch.cat(alone, dim=1), tolerance)


def _may_read_trees(decoder: PreTrainedModel) -> bool:
    """Whether the flags and the configuration of the backbone allow that it reads trees."""
    return not decoder._is_stateful and not _has_unknown_window(decoder.config)


def _attention_dropout(config: PreTrainedConfig) -> float:
    """Dropout of the attention weights. FlexAttention has none. Backbones name the setting differently."""
    names = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob", "attn_dropout")
    return max(getattr(config, name, None) or 0.0 for name in names)


def _has_unknown_window(config: PreTrainedConfig) -> bool:
    """Whether some layers attend to a window that [`tree_attention_mask`] does not know."""
    layer_types = set(getattr(config, "layer_types", None) or ())
    known = ("sliding_window", "_sliding_window_pattern", "sliding_window_pattern", "max_window_layers")
    windows = [name for name, value in config.to_dict().items() if "window" in name and type(value) is int]
    return bool(layer_types - {"full_attention", "sliding_attention"} or set(windows) - set(known))
