"""LinRec: SASRec with attention whose cost grows linearly with the length of the history."""

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

    Departures from the paper, beside the departures of [`SASRec`]: sums over a history run only up to each position,
    so one row can have several targets and no position sees a later one. At a history's last position in the first
    layer, the result is the paper's attention. Layers normalize their input instead of their output.
    """

    config_class = LinRecConfig

    def _make_layer(self) -> nn.Module:
        return LinRecLayer(cast(LinRecConfig, self.config))


class LinRecLayer(nn.Module):
    """Linear attention, then a feed-forward network. Each normalizes its input and adds its output to it."""

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
    The paper's L2-normalized linear attention (section 3.2), in which each position attends to itself and the earlier
    positions. Queries are normalized along their features and keys along the history, both after an ELU. The result is
    divided by the root of the size, as in the authors' code. The cost is T · (chunk_size + size) products of vectors:
    positions attend to each other within a chunk, and to all earlier chunks through one sum.

    Args:
        queries, keys, values (`torch.Tensor` of shape `(B, heads, T, size)`):
            One vector per position and head.
        chunk_size (`int`, *optional*, defaults to `64`):
            Number of positions in a chunk.

    Returns:
        `torch.Tensor` of shape `(B, heads, T, size)`.
    """
    length = queries.shape[-2]
    queries, keys = F.normalize(F.elu(queries), dim=-1), F.elu(keys)
    queries = queries / keys.square().cumsum(-2).clamp(min=1e-12).sqrt()
    padding = (0, 0, 0, -length % chunk_size)
    queries, keys, values = (
        F.pad(vectors, padding).unflatten(-2, (-1, chunk_size)) for vectors in (queries, keys, values)
    )
    sums = keys.mT @ values
    before = sums.cumsum(-3) - sums
    within = (queries @ keys.mT).tril() @ values
    return (queries @ before + within).flatten(-3, -2)[..., :length, :] / queries.shape[-1] ** 0.5
