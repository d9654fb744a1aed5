"""The item head: scores the items of the catalog by products of user vectors and item vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .configuration import ItemHeadConfig


INITIAL_LOG_SCALE = 2.5
"""Logarithm of the factor on cosines before training: e^2.5 = 12.2."""
FEATURES = ("seen", "titles")
"""Facts about an item and a history besides their vectors: the history holds the item; their titles are similar."""
_FEATURE_GAIN = 10.0
"""Factor on the weights of features, which have further to go than other weights."""


class ItemResidual(nn.Module):
    """
    Learned vectors of items, which are added to the items' patches. All are zero before training. A new item has none,
    so its patch is the mean of its title's token embeddings.

    Args:
        num_items (`int`):
            Number of items that have a residual: the first items of the catalog.
        residual_size (`int`):
            Size of the stored vectors.
        hidden_size (`int`):
            Size of a patch. If it differs from `residual_size`, a learned matrix brings the vectors to this size.
    """

    def __init__(self, num_items: int, residual_size: int, hidden_size: int) -> None:
        super().__init__()
        # Parameters of this module, not of an `nn.Embedding`: transformers would fill that with random numbers.
        self.weight = nn.Parameter(torch.zeros(num_items, residual_size))
        if residual_size == hidden_size:
            self.register_parameter("projection", None)
        else:
            # With random rows, the gradient reaches the vectors although all of them are zero.
            generator = torch.Generator().manual_seed(0)
            rows = torch.randn(residual_size, hidden_size, generator=generator, device="cpu")
            self.projection = nn.Parameter((rows / residual_size**0.5).to(self.weight.device))

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Returns the residuals of `items` (int64, shape `(n,)`, catalog indices), shape `(n, H)`."""
        vectors = F.embedding(items, self.weight)
        return vectors if self.projection is None else vectors @ self.projection


class UserVectors(nn.Module):
    """
    Turns hidden states into user vectors.

    Args:
        config ([`ItemHeadConfig`]):
            Settings of the head.
        hidden_size (`int`):
            Size H of a hidden state.
    """

    def __init__(self, config: ItemHeadConfig, hidden_size: int) -> None:
        super().__init__()
        self.is_cosine = config.similarity == "cosine"
        self.weight = nn.Parameter(torch.eye(hidden_size))
        self.log_scale = nn.Parameter(torch.full((1,), INITIAL_LOG_SCALE if self.is_cosine else 0.0))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Returns the vectors of `states` (shape `(n, H)`), float32, shape `(n, H + 1)`. The last entry is 1."""
        vectors = F.linear(states.to(self.weight.dtype), self.weight).float()
        vectors = F.normalize(vectors, dim=-1) if self.is_cosine else vectors / vectors.shape[-1] ** 0.5
        return F.pad(vectors * self.log_scale.float().exp(), (0, 1), value=1.0)


class ItemVectors(nn.Module):
    """
    Turns item patches into item vectors.

    Args:
        config ([`ItemHeadConfig`]):
            Settings of the head.
        hidden_size (`int`):
            Size H of a patch.
    """

    def __init__(self, config: ItemHeadConfig, hidden_size: int) -> None:
        super().__init__()
        self.is_cosine = config.similarity == "cosine"
        self.weight = nn.Parameter(torch.eye(hidden_size))
        self.bias = nn.Parameter(torch.zeros(config.num_items))

    def forward(self, patches: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """
        Computes the vectors of items.

        Args:
            patches (`torch.Tensor` of shape `(n, H)`):
                The items' patches, with their residuals.
            items (`torch.LongTensor` of shape `(n,)`):
                The items' catalog indices.

        Returns:
            `torch.Tensor` of shape `(n, H + 1)`, float32. The last entry is the item's bias, which is 0 for new items.
        """
        vectors = F.linear(patches.to(self.weight.dtype), self.weight).float()
        if self.is_cosine:
            vectors = F.normalize(vectors, dim=-1)
        is_known = items < len(self.bias)
        biases = torch.where(is_known, self.bias.float()[torch.where(is_known, items, 0)], 0.0)
        return torch.cat([vectors, biases[:, None]], dim=1)


class FeatureWeights(nn.Module):
    """Learns how much each of `FEATURES` adds to an item's score. All weights are 0 before training."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(len(FEATURES)))

    def forward(self) -> torch.Tensor:
        """Returns the weights, float32, shape `(2,)`."""
        return self.weight.float() * _FEATURE_GAIN


class ItemHead(nn.Module):
    """
    Scores items after hidden states:

    score(state, item) = e^s · cos(W_user · state, W_item · patch) + bias(item) + w · features(history, item)

    The similarity can also be a plain product. Both matrices are the identity before training; biases and w are 0. The
    features are 1 for an item that the history holds, and, if the configuration asks for it, how similar the item's
    title is to the history's latest titles (see [`sparse_log_shares`]).

    Without the features, the score is one product of a user vector and an item vector of H + 1 entries. So item
    vectors can be computed once for a catalog, and given to any index for inner products.

    Args:
        config ([`ItemHeadConfig`]):
            Settings of the head.
        hidden_size (`int`):
            Size H of a hidden state.
    """

    item_ids: torch.Tensor
    """The `id_numbers` of the catalog that the head was made for; int64, shape `(num_items,)`."""

    def __init__(self, config: ItemHeadConfig, hidden_size: int) -> None:
        super().__init__()
        self.user_vectors = UserVectors(config, hidden_size)
        self.item_vectors = ItemVectors(config, hidden_size)
        self.feature_weights = FeatureWeights()
        self.register_buffer("item_ids", torch.arange(config.num_items))

    def forward(
        self, states: torch.Tensor, patches: torch.Tensor, items: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Computes what scores are made of.

        Args:
            states (`torch.Tensor` of shape `(n, H)`):
                Hidden states.
            patches (`torch.Tensor` of shape `(C, H)`):
                Patches of C items.
            items (`torch.LongTensor` of shape `(C,)`):
                Their catalog indices.

        Returns:
            `tuple` of float32 tensors: user vectors of shape `(n, H + 1)`, item vectors of shape `(C, H + 1)`, and the
            features' weights, of shape `(2,)`.
        """
        return self.user_vectors(states), self.item_vectors(patches, items), self.feature_weights()
