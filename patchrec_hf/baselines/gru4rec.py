"""GRU4Rec: a recurrent network over the history's items."""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn

from ..runtime.catalog import Catalog
from .sequential import SequentialConfig, SequentialRecommender


@strict
class GRU4RecConfig(SequentialConfig):
    """
    Configuration of [`GRU4Rec`]: a [`SequentialConfig`] and

    Args:
        num_layers (`int`, *optional*, defaults to `1`):
            Number of layers of the GRU.
        gru_size (`int`, *optional*, defaults to `128`):
            Width of the GRU's state.
    """

    model_type = "patchrec_gru4rec"

    num_layers: int = 1
    gru_size: int = 128


class GRU4Rec(SequentialRecommender):
    """
    Session-based Recommendations with Recurrent Neural Networks (Hidasi et al., ICLR 2016,
    https://arxiv.org/abs/1511.06939).

    Departures from the paper: batches hold whole histories instead of parallel sessions. The loss is a softmax over
    the whole catalog (or `"bce"`) instead of TOP1 or BPR among a batch's items. An item has one vector, as input and
    as output.
    """

    config_class = GRU4RecConfig

    def __init__(self, config: GRU4RecConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.gru = nn.GRU(config.hidden_size, config.gru_size, config.num_layers, batch_first=True)
        self.projection = nn.Linear(config.gru_size, config.hidden_size)
        self.post_init()

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        states, _ = self.gru(self.dropout(vectors))
        return self.projection(self.dropout(states))
