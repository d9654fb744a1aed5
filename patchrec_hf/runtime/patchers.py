"""Patchers: how the embeddings of title tokens become a patch, as their mean, by learned attention, or in context."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .title_states import FoldedTitles


_EPSILON = 1e-12  # of mean squares; an embedding of zeros gets a gradient that is finite
_SMALLEST = torch.finfo(torch.float32).tiny


def mean_weights(divisors: torch.Tensor) -> torch.Tensor:
    """
    Computes the weights with which folded tokens enter their patches as in the paper.

    Args:
        divisors (`torch.LongTensor` of shape `(N,)`):
            The divisors of the tokens' embeddings; 0 marks padding.

    Returns:
        `torch.Tensor` of shape `(N,)`, float32; padding has the weight 0.
    """
    return torch.where(divisors > 0, 1.0 / divisors.clamp(min=1).float(), 0.0)


def fold_tokens(table: torch.Tensor, rows: torch.Tensor, starts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """
    Sums weighted embeddings into patches.

    Args:
        table (`torch.Tensor` of shape `(U, H)`):
            Embeddings, each once; float32.
        rows (`torch.LongTensor` of shape `(N,)`):
            For each folded token, its row of `table`. The tokens of a patch stand together.
        starts (`torch.LongTensor` of shape `(C,)`):
            For each patch, the index of its first token; ascending.
        weights (`torch.Tensor` of shape `(N,)`):
            For each folded token, its weight.

    Returns:
        `torch.Tensor` of shape `(C, H)`, float32.
    """
    return F.embedding_bag(rows, table, starts, mode="sum", per_sample_weights=weights)


class AttentionPatcher(nn.Module):
    r"""
    Weighs the title tokens of a patch by learned attention. A token t with the embedding \\( e_t \\) has the weight

    $$ w_t = \frac{\exp(s_t) / d_t}{\sum_u \exp(s_u) / d_u}, \quad s_t = \frac{q \cdot k(e_t)}{\sqrt{H}} $$

    where d is the token's divisor, q the learned query, and the key k(e) is the embedding, scaled so that the mean of
    its squared values is 1. The sum is over all title tokens of the patch. So in a session patch, the weights also say
    which items count. Before training, q is zero, and patches are the paper's mean. A matrix for the keys would add
    nothing, because only its product with the one query would count.

    Residuals and time gaps are no title tokens. They keep the weight 1/d.

    Args:
        hidden_size (`int`):
            Size of a patch, H.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        # A parameter of this module, not of an `nn.Linear`: transformers would fill that with random numbers.
        self.query = nn.Parameter(torch.zeros(hidden_size))

    def forward(
        self,
        table: torch.Tensor,
        is_title: torch.Tensor,
        rows: torch.Tensor,
        starts: torch.Tensor,
        divisors: torch.Tensor,
    ) -> torch.Tensor:
        """
        Computes the weights of folded tokens.

        Args:
            table (`torch.Tensor` of shape `(U, H)`):
                Embeddings, each once; float32.
            is_title (`torch.BoolTensor` of shape `(U,)`):
                Which of them are embeddings of title tokens. The others are residuals and time gaps.
            rows, starts:
                See [`fold_tokens`].
            divisors (`torch.LongTensor` of shape `(N,)`):
                See [`mean_weights`].

        Returns:
            `torch.Tensor` of shape `(N,)`, float32.
        """
        # Products of single values, because autocast would compute a matrix product in low precision.
        keys = table * torch.rsqrt(table.square().mean(dim=1, keepdim=True) + _EPSILON)
        scores = ((keys * self.query.float()).sum(dim=1) / table.shape[1] ** 0.5)[rows]
        weights = mean_weights(divisors)
        takes_part = is_title[rows] & (divisors > 0)
        patches = torch.searchsorted(starts, torch.arange(len(rows), device=rows.device), right=True) - 1
        largest = scores.detach().new_full((len(starts),), -torch.inf)
        largest = largest.scatter_reduce(0, patches, scores.detach().masked_fill(~takes_part, -torch.inf), "amax")
        shifted = torch.where(takes_part, scores - largest[patches], 0.0)
        attention = torch.where(takes_part, weights * shifted.exp(), 0.0)
        totals = attention.new_zeros(len(starts)).index_add(0, patches, attention)
        return torch.where(takes_part, attention / totals.clamp(min=_SMALLEST)[patches], weights)


class ContextualPatcher(nn.Module):
    """
    Mixes the mean of a patch with vectors that the backbone's first layers make of its titles, each read alone (see
    [`title_differences`]). A session patch gets the mean of its titles' vectors. Residuals and time gaps are added as
    to the mean. The gate, which is learned, is zero before training, so that patches are the paper's mean then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, means: torch.Tensor, differences: torch.Tensor, titles: FoldedTitles) -> torch.Tensor:
        """
        Computes patches.

        Args:
            means (`torch.Tensor` of shape `(C, H)`):
                The patches as means, float32.
            differences (`torch.Tensor` of shape `(U, H)`):
                For each distinct title, the difference of its vector from the mean of its embeddings, float32.
            titles ([`FoldedTitles`]):
                The titles of the patches.

        Returns:
            `torch.Tensor` of shape `(C, H)`, float32.
        """
        shares = differences[titles.kinds] / titles.sizes[:, None]
        return means + self.gate.float() * torch.zeros_like(means).index_add(0, titles.patches, shares)


def make_patcher(patcher: str, hidden_size: int) -> AttentionPatcher | ContextualPatcher | None:
    """Makes the weights of a patcher, untrained; `None` for the mean, which has none."""
    if patcher == "attention":
        return AttentionPatcher(hidden_size)
    return ContextualPatcher() if patcher == "contextual" else None
