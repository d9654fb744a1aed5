"""LinRec: SASRec with an attention whose cost grows linearly with the history."""

from typing import cast

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import nn

from .sasrec import SASRec, SASRecConfig


@strict
class LinRecConfig(SASRecConfig):
    """Configuration of [`LinRec`]: a [`SASRecConfig`]."""

    model_type = "patchrec_lin_rec"


class LinRec(SASRec):
    """
    LinRec: Linear Attention Mechanism for Long-term Sequential Recommender Systems (Liu et al., SIGIR 2023,
    https://arxiv.org/abs/2411.01537), on SASRec.

    Departures: sums over a history run up to each position only, so that one row can teach several targets and no
    position sees a later one; at a history's last position in the first layer this is the paper's attention. Layers
    normalise their input, not their output. And those of [`SASRec`].
    """

    config_class = LinRecConfig

    def _make_layer(self) -> nn.Module:
        return LinRecLayer(cast(LinRecConfig, self.config))


class LinRecLayer(nn.Module):
    """Linear attention and a feed-forward network, each normalised before and added to its input."""

    def __init__(self, config: LinRecConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_heads
        self.attention_norm, self.forward_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.query, self.key, self.value, self.out = (nn.Linear(size, size) for _ in range(4))
        self.forward_network = nn.Sequential(
            nn.Linear(size, size), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(size, size)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: torch.Tensor, **_: object) -> torch.Tensor:
        normed = self.attention_norm(states)
        queries, keys, values = (
            linear(normed).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        attended = linear_attention(queries, keys, values).transpose(1, 2).flatten(-2)
        states = states + self.dropout(self.out(attended))
        return states + self.dropout(self.forward_network(self.forward_norm(states)))


def linear_attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, chunk_size: int = 64
) -> torch.Tensor:
    """
    The paper's L2-normalised linear attention (section 3.2) of each position to those up to it: queries are normalised
    along their features, keys along the history, both after an ELU, and the result is divided by the root of the size,
    as in the authors' code. It costs T · (chunk_size + size) products of
    vectors: within a chunk positions meet each other, and what came before it as one sum.

    Args:
        queries, keys, values (`torch.Tensor` of shape `(B, heads, T, size)`):
            One vector a position and head.
        chunk_size (`int`, *optional*, defaults to `64`):
            Positions of a chunk.

    Returns:
        `torch.Tensor` of shape `(B, heads, T, size)`.
    """
    length = queries.shape[-2]
    queries, keys = F.normalize(F.elu(queries), dim=-1), F.elu(keys)
    queries = queries / keys.square().cumsum(-2).clamp(min=1e-12).sqrt()
    filled = (0, 0, 0, -length % chunk_size)
    queries, keys, values = (
        F.pad(vectors, filled).unflatten(-2, (-1, chunk_size)) for vectors in (queries, keys, values)
    )
    sums = keys.mT @ values
    before = sums.cumsum(-3) - sums
    within = (queries @ keys.mT).tril() @ values
    return (queries @ before + within).flatten(-3, -2)[..., :length, :] / queries.shape[-1] ** 0.5
