"""Caser: convolutions over the last few items."""

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import nn

from ..runtime.catalog import Catalog
from .sequential import SequentialConfig, SequentialRecommender


@strict
class CaserConfig(SequentialConfig):
    """
    Configuration of [`Caser`]: a [`SequentialConfig`] and

    Args:
        window (`int`, *optional*, defaults to `5`):
            Number of latest items from which a prediction is made; the paper's L.
        num_horizontal_filters (`int`, *optional*, defaults to `16`):
            Number of filters for each height from 1 to `window`.
        num_vertical_filters (`int`, *optional*, defaults to `4`):
            Number of weighted sums of the window's vectors.
    """

    model_type = "patchrec_caser"

    window: int = 5
    num_horizontal_filters: int = 16
    num_vertical_filters: int = 4


class Caser(SequentialRecommender):
    """
    Personalized Top-N Sequential Recommendation via Convolutional Sequence Embedding (Tang and Wang, WSDM 2018,
    https://arxiv.org/abs/1809.07426).

    Departures from the paper: users have no vectors, so the model recommends for any history. Targets are predicted
    one after another instead of the next T at once. The loss is a softmax over the whole catalog instead of sampled
    negatives (`loss="bce"`). An item has one vector, as input and as output.
    """

    config_class = CaserConfig

    def __init__(self, config: CaserConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.horizontal = nn.ModuleList(
            nn.Conv1d(config.hidden_size, config.num_horizontal_filters, height)
            for height in range(1, config.window + 1)
        )
        self.vertical = nn.Linear(config.window, config.num_vertical_filters, bias=False)
        num_features = config.window * config.num_horizontal_filters + config.num_vertical_filters * config.hidden_size
        self.projection = nn.Linear(num_features, config.hidden_size)
        self.post_init()

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        window, size = self.config.window, self.config.hidden_size
        padded = F.pad(vectors, (0, 0, window - 1, 0))
        windows = padded.unfold(1, window, 1).reshape(-1, size, window)
        horizontal = [F.relu(convolve(windows)).amax(-1) for convolve in self.horizontal]
        vertical = self.vertical(windows).flatten(1)
        features = self.dropout(torch.cat([vertical, *horizontal], dim=-1))
        return F.relu(self.projection(features)).unflatten(0, vectors.shape[:2])
