"""MoRec: SASRec whose item vectors a text encoder computes from the titles."""

from typing import Any, Self, cast

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.configuration_utils import SubConfigSpec

from ..runtime.catalog import Catalog
from ..runtime.encoding import IGNORED_LABEL
from ..runtime.title_tokens import tokenize_titles
from .sasrec import SASRec, SASRecConfig


@strict
class MoRecConfig(SASRecConfig):
    """
    Configuration of [`MoRec`]: a [`SASRecConfig`] and

    Args:
        text_config ([`~transformers.PreTrainedConfig`] or `dict`, *optional*):
            Configuration of the text encoder. BERT's defaults if not given.
        title_length (`int`, *optional*, defaults to `1`):
            Number of tokens of the longest title.
        titles_per_forward (`int`, *optional*, defaults to `2048`):
            Number of titles that the encoder reads at once. It bounds the memory of scoring.
    """

    model_type = "patchrec_mo_rec"
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert")}  # noqa: RUF012

    text_config: dict | PreTrainedConfig | None = None
    title_length: int = 1
    titles_per_forward: int = 2048


class MoRec(SASRec):
    """
    Where to Go Next for Recommender Systems? ID- vs. Modality-based Recommender Models Revisited (Yuan et al., SIGIR
    2023, https://arxiv.org/abs/2303.13835). The text encoder and the sequence model are trained together.

    Departures from the paper, beside the departures of [`SASRec`]: a title's vector is the mean over its tokens,
    without special tokens, instead of the state of its first token. In training, a target competes with all items of
    its batch, each once. These include the items of its own history, and there is no correction for popularity.
    """

    config_class = MoRecConfig

    @classmethod
    def from_encoder(
        cls, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, catalog: Catalog, **settings: Any
    ) -> Self:
        """
        Builds a new model on a text encoder, which may be pretrained.

        Args:
            encoder ([`~transformers.PreTrainedModel`]):
                Any transformers model that returns `last_hidden_state`, such as `AutoModel.from_pretrained(name)`.
            tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
                Tokenizer of the encoder.
            catalog ([`Catalog`]):
                The items that can be recommended.
            **settings:
                Settings of [`MoRecConfig`].

        Raises:
            ValueError: If a title holds a special token, or has no tokens.
        """
        titles = tokenize_titles(catalog.titles, tokenizer)
        longest = int(titles.lengths.max())
        model = cls.from_catalog(catalog, text_config=encoder.config, title_length=longest, **settings)
        model.item_embedding.encoder = encoder
        is_token = torch.from_numpy(np.arange(longest) < titles.lengths[:, None])
        model.item_embedding.title_mask[:-1] = is_token
        model.item_embedding.title_ids[:-1][is_token] = torch.from_numpy(titles.ids)
        return model

    def _make_item_embedding(self) -> nn.Module:
        return TitleEmbedding(cast(MoRecConfig, self.config))

    def catalog_table(self) -> torch.Tensor:
        """Encodes all titles. See [`SequentialRecommender.catalog_table`]."""
        return self.item_embedding(torch.arange(self.config.num_items + 1, device=self.device))

    def item_table(
        self, items: torch.Tensor, targets: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Returns the items of the batch in training, else the catalog. See [`SequentialRecommender.item_table`]."""
        num_items = self.config.num_items
        if not (self.training and targets is not None):
            return self.catalog_table(), items, targets
        is_target = targets != IGNORED_LABEL
        padding = items.new_tensor([num_items])
        padded_targets = torch.where(is_target, targets, num_items)
        # `unique` sorts, so padding comes last.
        candidates, rows = torch.cat([items.flatten(), padded_targets.flatten(), padding]).unique(return_inverse=True)
        items = rows[: items.numel()].view_as(items)
        targets = torch.where(is_target, rows[items.numel() : -1].view_as(targets), IGNORED_LABEL)
        return self.item_embedding(candidates), items, targets


class TitleEmbedding(nn.Module):
    """Item vectors: the mean of the encoder's states over a title's tokens, projected. Zeros for padding."""

    title_ids: torch.Tensor
    title_mask: torch.Tensor

    def __init__(self, config: MoRecConfig) -> None:
        super().__init__()
        self.titles_per_forward = config.titles_per_forward
        self.encoder = AutoModel.from_config(config.text_config)
        self.projection = nn.Linear(self.encoder.config.hidden_size, config.hidden_size)
        shape = (config.num_items + 1, config.title_length)
        self.register_buffer("title_ids", torch.zeros(shape, dtype=torch.int64))
        self.register_buffer("title_mask", torch.zeros(shape, dtype=torch.bool))

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Returns vectors of shape `(num_items, hidden_size)` for catalog indices of shape `(num_items,)`."""
        parts = []
        for part in items.split(self.titles_per_forward):
            ids, mask = self.title_ids[part], self.title_mask[part]
            # The mask keeps the first position even of padding, which has no tokens: softmax needs one.
            states = self.encoder(input_ids=ids, attention_mask=mask | (ids.new_ones(ids.shape).cumsum(1) == 1))
            weights = mask[..., None].to(states.last_hidden_state.dtype)
            parts.append((states.last_hidden_state * weights).sum(1) / weights.sum(1).clamp(min=1))
        vectors = torch.cat(parts)
        is_item = self.title_mask[items].any(-1)
        return self.projection(vectors) * is_item[:, None]
