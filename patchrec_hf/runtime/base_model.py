"""PatchRec's base model: a backbone without its head, which reads patches among the embeddings of its text tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForCausalLM, Cache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils import can_return_tuple

from .attention import packed_attention_inputs
from .configuration import PatchRecConfig
from .item_head import ItemResidual
from .patchers import fold_tokens, make_patcher, mean_weights
from .prompts import PATCH_TOKEN
from .time_gaps import TimeGaps
from .title_states import folded_titles, title_differences


@dataclass
class PatchRecModelOutput(BaseModelOutputWithPast):
    """
    Output of [`PatchRecModel`]: a [`~transformers.modeling_outputs.BaseModelOutputWithPast`] and

    Args:
        candidate_patches (`torch.FloatTensor` of shape `(C, H)`, *optional*):
            The patches of candidates.
    """

    candidate_patches: torch.Tensor | None = None


class PatchRecPreTrainedModel(PreTrainedModel):
    """Base class of both models. It defines how transformers names, saves and moves them."""

    config_class = PatchRecConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    # The backbone checks its own support. No other part of these models computes attention.
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True


class PatchRecModel(PatchRecPreTrainedModel):
    """
    The backbone without its head. It reads text tokens and patches.

    Args:
        config ([`PatchRecConfig`]):
            The model's configuration.
        language_model ([`~transformers.PreTrainedModel`], *optional*):
            The backbone's base model. Built from `config.text_config` if not given.
    """

    def __init__(self, config: PatchRecConfig, language_model: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if language_model is None:
            language_model = AutoModelForCausalLM.from_config(config.text_config).base_model
        self.language_model = language_model
        self.item_residual: ItemResidual | None = None
        self.time_gaps: TimeGaps | None = None
        if config.item_head_config is not None:
            self.add_item_residual()
        if config.num_time_gaps > 0:
            self.time_gaps = TimeGaps(config.num_time_gaps, config.decoder_config.hidden_size)
        self.patcher: Any = make_patcher(config.patcher, config.decoder_config.hidden_size)
        """[`AttentionPatcher`], [`ContextualPatcher`] or `None`."""
        self.post_init()

    def add_item_residual(self) -> None:
        """Adds the residuals that the configuration's item head asks for, if it does. All are zero."""
        head, hidden_size = self.config.item_head_config, self.config.decoder_config.hidden_size
        if head is not None and head.residual_size > 0:
            self.item_residual = ItemResidual(head.num_items, head.residual_size, hidden_size)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def prepare_inputs_embeds(
        self,
        input_ids: torch.Tensor,
        patch_token_ids: torch.Tensor,
        patch_positions: torch.Tensor,
        patch_divisors: torch.Tensor,
        patch_title_starts: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Embeds text tokens, and folds title tokens into patches, by default as in the paper.

        There, an item patch is the mean of its title's token embeddings, and a session patch is the mean of its item
        patches. Both are a weighted sum over title tokens. An [`AttentionPatcher`] learns other weights. The embedding
        module is called once, on the unique ids. So it may be sharded, adapted or scaled, and its gradient has one row
        for each distinct token of the input.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`):
                Text tokens, and one `<|patch|>` for each patch.
            patch_token_ids (`torch.LongTensor` of shape `(B, N)`):
                The title tokens that are folded into patches.
            patch_positions (`torch.LongTensor` of shape `(B, N)`):
                For each folded token, the position of its patch, in `[0, T)`; ascending in each row.
            patch_divisors (`torch.LongTensor` of shape `(B, N)`):
                For each folded token, the divisor of its embedding; 0 marks padding.
            patch_title_starts (`torch.LongTensor` of shape `(B, N)`, *optional*):
                For each folded token, 1 if a title begins with it. Only a [`ContextualPatcher`] needs it.

        Returns:
            `torch.Tensor` of shape `(B, T, H)`, in the embedding's dtype.
        """
        return self.fold_inputs(
            input_ids, patch_token_ids, patch_positions, patch_divisors, patch_title_starts=patch_title_starts
        )[0]

    def fold_inputs(
        self,
        input_ids: torch.Tensor,
        patch_token_ids: torch.Tensor,
        patch_positions: torch.Tensor,
        patch_divisors: torch.Tensor,
        candidate_token_ids: torch.Tensor | None = None,
        candidate_starts: torch.Tensor | None = None,
        candidate_divisors: torch.Tensor | None = None,
        patch_title_starts: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Embeds inputs as [`PatchRecModel.prepare_inputs_embeds`] does, and in the same call of the embedding module the
        patches of candidates.

        Args:
            input_ids, patch_token_ids, patch_positions, patch_divisors,
            patch_title_starts (`torch.LongTensor`, *optional*):
                See [`PatchRecModel.prepare_inputs_embeds`].
            candidate_token_ids, candidate_divisors (`torch.LongTensor` of shape `(1, K)`, *optional*):
                The tokens that are folded into the patches of C candidates, one candidate after the other, and their
                divisors.
            candidate_starts (`torch.LongTensor` of shape `(1, C)`, *optional*):
                For each candidate, the index of its first token among the K.

        Returns:
            `tuple`: embeddings of shape `(B, T, H)`, and candidates' patches of shape `(C, H)`, float32, or `None`.

        Raises:
            ValueError: If the model's patcher is contextual, and `patch_title_starts` is not given.
        """
        if self.config.patcher == "contextual" and patch_title_starts is None:
            raise ValueError(
                "The model's patcher is contextual and must know where titles begin, so pass `patch_title_starts` as "
                "the processor and the collators make it."
            )
        batch_size, length = input_ids.shape
        parts = [input_ids.flatten(), patch_token_ids.flatten()]
        if candidate_token_ids is not None:
            parts.append(candidate_token_ids.flatten())
        ids, inverse = torch.cat(parts).unique(return_inverse=True)
        rows = self._read_rows(ids, drops=candidate_token_ids is not None)
        text_rows, patch_rows, *candidate_rows = inverse.split([len(part) for part in parts])

        embeds = rows[text_rows]
        is_patch = (input_ids == self.config.patch_token_id).flatten()
        patch_indices = is_patch.nonzero().squeeze(1)
        # A patcher joins the graph of a batch without patches too: DDP needs every weight in every forward.
        if len(patch_indices) > 0 or self.patcher is not None:
            # One bag per placeholder. Padding has weight 0 and goes to the end of its row, so that the bags ascend.
            row_starts = length * torch.arange(batch_size, device=input_ids.device)[:, None]
            index_of_token = torch.where(patch_divisors > 0, patch_positions, length - 1) + row_starts
            bags = (is_patch.cumsum(0) - 1).clamp(min=0)[index_of_token.flatten()]
            bag_starts = torch.searchsorted(bags, torch.arange(len(patch_indices), device=bags.device))
            title_starts = None if patch_title_starts is None else patch_title_starts.flatten()
            patches = self._fold(rows, ids, patch_rows, bag_starts, patch_divisors.flatten(), title_starts)
            if candidate_token_ids is not None:
                patches = F.dropout(patches, self.config.item_head_config.dropout, self.training)
            embeds = embeds.index_put((patch_indices,), patches.to(embeds.dtype))
        candidates = None
        if candidate_starts is not None and candidate_divisors is not None:
            starts, divisors = candidate_starts.flatten(), candidate_divisors.flatten()
            candidates = self._fold(rows, ids, candidate_rows[0], starts, divisors)
        return embeds.view(batch_size, length, -1), candidates

    def _fold(
        self,
        embeddings: torch.Tensor,
        ids: torch.Tensor,
        rows: torch.Tensor,
        starts: torch.Tensor,
        divisors: torch.Tensor,
        title_starts: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Folds rows of `embeddings`, which embed `ids`, into patches (see [`fold_tokens`]). Divisor 0: left out."""
        table = embeddings.float()  # summed in float32: in low precision, a patch's weights do not add up to 1
        is_title = ids >= 0
        if self.config.patcher == "attention":
            return fold_tokens(table, rows, starts, self.patcher(table, is_title, rows, starts, divisors))
        patches = fold_tokens(table, rows, starts, mean_weights(divisors))
        if self.config.patcher == "contextual":
            titles = folded_titles(is_title, rows, starts, divisors, title_starts)
            differences = title_differences(self.language_model, self.config.patcher_layers, embeddings, titles.tokens)
            patches = self.patcher(patches, differences, titles)
        return patches

    def _read_rows(self, ids: torch.Tensor, drops: bool) -> torch.Tensor:
        """
        Reads the embeddings of ascending ids. Negative ids are time gaps, and then residuals (see [`FoldedItems`]).
        With `drops`, training leaves out some residuals.
        """
        embeddings = self.get_input_embeddings()
        if self.item_residual is None and self.time_gaps is None:
            return embeddings(ids)
        head = self.config.item_head_config
        num_learned = 0 if self.item_residual is None else head.num_items
        num_gaps, num_negative = torch.stack([(ids < -num_learned).sum(), (ids < 0).sum()]).tolist()
        rows = embeddings(ids[num_negative:])
        parts = [rows]
        if self.item_residual is not None:
            residuals = self.item_residual(-1 - ids[num_gaps:num_negative]).to(rows)
            if drops and self.training and head.residual_dropout > 0:
                residuals = residuals * (torch.rand_like(residuals[:, :1]) >= head.residual_dropout)
            parts.insert(0, residuals)
        if self.time_gaps is not None:
            parts.insert(0, self.time_gaps(-1 - num_learned - ids[:num_gaps]).to(rows))
        return torch.cat(parts)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | dict[str, torch.Tensor] | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        patch_token_ids: torch.Tensor | None = None,
        patch_positions: torch.Tensor | None = None,
        patch_divisors: torch.Tensor | None = None,
        patch_title_starts: torch.Tensor | None = None,
        supervised_positions: torch.Tensor | None = None,
        subtree_end: torch.Tensor | None = None,
        chunk_ancestors: torch.Tensor | None = None,
        candidate_token_ids: torch.Tensor | None = None,
        candidate_starts: torch.Tensor | None = None,
        candidate_divisors: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> PatchRecModelOutput:
        """
        Runs the backbone.

        Args:
            input_ids, patch_token_ids, patch_positions, patch_divisors,
            patch_title_starts (`torch.LongTensor`, *optional*):
                See [`PatchRecModel.prepare_inputs_embeds`].
            attention_mask (`torch.Tensor` of shape `(B, T)`, or a mask per layer type, *optional*):
                As the backbone takes it.
            supervised_positions (`torch.LongTensor` of shape `(B, S)`, *optional*):
                If given, `last_hidden_state` holds only these positions, in shape `(B, S, H)`.
            subtree_end, chunk_ancestors (`torch.LongTensor`, *optional*):
                Tensors of a packed batch, which has no `attention_mask` (see [`pack_histories`]).
            candidate_token_ids, candidate_starts, candidate_divisors (`torch.LongTensor`, *optional*):
                Items whose patches are returned too (see [`PatchRecModel.fold_inputs`]).
            position_ids, past_key_values, inputs_embeds, **kwargs:
                As the backbone takes them.

        Returns:
            [`PatchRecModelOutput`]

        Raises:
            ValueError: If `input_ids` holds `<|patch|>` but no patch tensors are given, if not exactly one of
                `input_ids` and `inputs_embeds` is given, or if a packed batch is incomplete or the attention
                implementation takes no mask for it.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of `input_ids` and `inputs_embeds`.")
        candidate_patches = None
        if input_ids is not None:
            if patch_token_ids is not None and patch_positions is not None and patch_divisors is not None:
                patches = (patch_token_ids, patch_positions, patch_divisors)
                if candidate_token_ids is None:
                    inputs_embeds = self.prepare_inputs_embeds(input_ids, *patches, patch_title_starts)
                else:
                    candidates = (candidate_token_ids, candidate_starts, candidate_divisors)
                    inputs_embeds, candidate_patches = self.fold_inputs(
                        input_ids, *patches, *candidates, patch_title_starts
                    )
            elif any(tensor is not None for tensor in (patch_token_ids, patch_positions, patch_divisors)):
                raise ValueError(
                    "Pass `patch_token_ids`, `patch_positions` and `patch_divisors` together; one is missing."
                )
            else:
                if not holds_prompt(past_key_values) and (input_ids == self.config.patch_token_id).any():
                    raise ValueError(
                        f"`input_ids` holds {PATCH_TOKEN} but no patch tensors were passed, so the model would read "
                        "the placeholder's embedding. Pass `patch_token_ids`, `patch_positions` and `patch_divisors` "
                        "as the processor and the collators make them."
                    )
                inputs_embeds = self.get_input_embeddings()(input_ids)
        if subtree_end is not None:
            if position_ids is None or chunk_ancestors is None:
                raise ValueError("A packed batch needs `position_ids` and `chunk_ancestors`.")
            if attention_mask is not None or past_key_values is not None:
                raise ValueError("A packed batch is read alone: without `attention_mask` and `past_key_values`.")
            packed = packed_attention_inputs(
                position_ids, subtree_end, chunk_ancestors, self.config.decoder_config, self.dtype
            )
            attention_mask = packed.pop("attention_mask")
            kwargs.update(packed)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )
        if supervised_positions is not None:
            outputs.last_hidden_state = outputs.last_hidden_state.take_along_dim(
                supervised_positions[..., None].to(outputs.last_hidden_state.device), dim=1
            )
        return PatchRecModelOutput(**outputs, candidate_patches=candidate_patches)


def holds_prompt(past_key_values: Cache | None) -> bool:
    """Whether a cache holds what was read before, so that the next inputs are text tokens only."""
    return past_key_values is not None and past_key_values.get_seq_length() > 0
