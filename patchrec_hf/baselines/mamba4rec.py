"""Mamba4Rec: a selective state space model over the history's items."""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import MambaConfig, MambaModel

from ..runtime.catalog import Catalog
from .sequential import SequentialConfig, SequentialRecommender


@strict
class Mamba4RecConfig(SequentialConfig):
    """
    Configuration of [`Mamba4Rec`]: a [`SequentialConfig`] and

    Args:
        num_layers (`int`, *optional*, defaults to `1`):
            Number of Mamba layers.
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

    Departures from the paper: the Mamba blocks come from transformers. They normalize by RMS, also before the mixer,
    and add the mixer's input to its output, also in a single layer. The loss covers all targets of a row, of which
    there may be several.
    """

    config_class = Mamba4RecConfig

    def __init__(self, config: Mamba4RecConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.layers = nn.ModuleList(Mamba4RecLayer(config) for _ in range(config.num_layers))
        self.post_init()

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        states = self.norm(self.dropout(vectors))
        for layer in self.layers:
            states = layer(states)
        return states


class Mamba4RecLayer(nn.Module):
    """Mamba, then a position-wise feed-forward network, each with a residual connection and a norm."""

    def __init__(self, config: Mamba4RecConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.mamba = MambaModel(
            MambaConfig(
                vocab_size=1,
                hidden_size=size,
                num_hidden_layers=1,
                state_size=config.state_size,
                conv_kernel=config.conv_kernel,
                expand=config.expand,
                use_cache=False,
            )
        )
        self.mamba.get_input_embeddings().requires_grad_(False)  # unused: the input is vectors
        self.network = nn.Sequential(
            nn.Linear(size, 4 * size),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(4 * size, size),
            nn.Dropout(config.dropout),
        )
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        states = self.dropout(self.mamba(inputs_embeds=states).last_hidden_state)
        return self.norm(states + self.network(states))
