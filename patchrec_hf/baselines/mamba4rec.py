"""Mamba4Rec: a selective state space model over the history's items."""

from __future__ import annotations

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import MambaConfig, MambaPreTrainedModel
from transformers.models.mamba.modeling_mamba import MambaBlock

from ..catalog import Catalog
from .sequential import SequentialConfig, SequentialRecommender


@strict
class Mamba4RecConfig(SequentialConfig):
    """
    Configuration of [`Mamba4Rec`]: a [`SequentialConfig`] and

    Args:
        num_layers (`int`, *optional*, defaults to `1`):
            Mamba layers.
        state_size, conv_kernel, expand (`int`, *optional*, default to `32`, `4` and `2`):
            See [`~transformers.MambaConfig`].
    """

    model_type = "patchrec_mamba4rec"

    num_layers: int = 1
    state_size: int = 32
    conv_kernel: int = 4
    expand: int = 2


class Mamba4Rec(SequentialRecommender):
    """
    Mamba4Rec: Towards Efficient Sequential Recommendation with Selective State Space Models (Liu et al., 2024,
    https://arxiv.org/abs/2403.03900).

    Departures: the Mamba blocks are transformers', which normalise before the mixer, by RMS, instead of after it; the
    loss is of a row's targets, which may be several.
    """

    config_class = Mamba4RecConfig

    def __init__(self, config: Mamba4RecConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.norm = nn.LayerNorm(config.hidden_size)
        block_config = MambaConfig(
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            state_size=config.state_size,
            conv_kernel=config.conv_kernel,
            expand=config.expand,
        )
        self.blocks = nn.ModuleList(MambaBlock(block_config, layer_idx=place) for place in range(config.num_layers))
        self.networks = nn.ModuleList(ForwardNetwork(config) for _ in range(config.num_layers))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MambaBlock):
            # A block's weights are drawn by its model, by rules of their own.
            initialise = MambaPreTrainedModel(module.config)._init_weights
            for part in module.modules():
                initialise(part)

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        states = self.norm(self.dropout(vectors))
        for block, network in zip(self.blocks, self.networks, strict=True):
            states = network(block(states))
        return states


class ForwardNetwork(nn.Module):
    """The paper's position-wise feed-forward network, with its residual connection and norm."""

    def __init__(self, config: Mamba4RecConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.layers = nn.Sequential(
            nn.Linear(size, 4 * size), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(4 * size, size),
            nn.Dropout(config.dropout),
        )  # fmt: skip
        self.norm = nn.LayerNorm(size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.norm(states + self.layers(states))
