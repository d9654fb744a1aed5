"""SASRec: self-attention over the history's items."""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn

from ..runtime.catalog import Catalog
from .sequential import SequentialConfig, SequentialRecommender


@strict
class SASRecConfig(SequentialConfig):
    """
    Configuration of [`SASRec`]: a [`SequentialConfig`] and

    Args:
        num_layers (`int`, *optional*, defaults to `2`):
            Number of Transformer layers.
        num_heads (`int`, *optional*, defaults to `2`):
            Number of attention heads.
    """

    model_type = "patchrec_sasrec"

    num_layers: int = 2
    num_heads: int = 2


class SASRec(SequentialRecommender):
    """
    Self-Attentive Sequential Recommendation (Kang and McAuley, ICDM 2018, https://arxiv.org/abs/1808.09781).

    Departures from the paper: the loss is a softmax over the whole catalog by default, as in "Turning Dross Into Gold
    Loss" (Klenitskiy and Vasilev, RecSys 2023, https://arxiv.org/abs/2309.07602); `loss="bce"` gives the paper's loss.
    The layers are torch's, which also normalize keys and values and put dropout inside the feed-forward network.
    Positions are counted from a window's first item, so one row can have several targets. The loss covers a row's
    targets instead of every position.

    Example:
    ```python
    >>> model = SASRec.from_catalog(catalog).fit(splits["train"], splits["validation"])
    >>> evaluate_scorer(model, catalog, splits["test"]).metrics()
    ```
    """

    config_class = SASRecConfig

    def __init__(self, config: SASRecConfig, catalog: Catalog) -> None:
        if config.hidden_size % config.num_heads:
            raise ValueError(
                f"`hidden_size` ({config.hidden_size}) must be a multiple of `num_heads` ({config.num_heads})."
            )
        super().__init__(config, catalog)
        self.position_embedding = nn.Embedding(config.max_length, config.hidden_size)
        self.layers = nn.ModuleList(self._make_layer() for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def _make_layer(self) -> nn.Module:
        size = self.config.hidden_size
        return nn.TransformerEncoderLayer(
            size, self.config.num_heads, size, self.config.dropout, batch_first=True, norm_first=True
        )

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        length = vectors.shape[1]
        states = vectors * self.config.hidden_size**0.5
        states = self.dropout(states + self.position_embedding.weight[:length])
        mask = nn.Transformer.generate_square_subsequent_mask(length, states.device, states.dtype)
        for layer in self.layers:
            states = layer(states, src_mask=mask, is_causal=True)
        return self.norm(states)
