"""SASRec: its scores by plain formulas, and its settings."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_baselines import CLASSES


@pytest.mark.parametrize("name", ["SASRec", "LinRec"])
def test_heads_must_share_the_width(catalog, name):
    with pytest.raises(ValueError, match=r"`hidden_size` \(65\) must be a multiple of `num_heads` \(2\)"):
        CLASSES[name].from_catalog(catalog, hidden_size=65)


def test_scores_after_one_item(make_baseline):
    """The only item attends to itself alone, so that attention returns its value."""
    model = make_baseline("SASRec", num_layers=1)
    (layer,) = model.layers
    with torch.no_grad():
        state = 4 * model.item_embedding.weight[7] + model.position_embedding.weight[0]  # 4 is the root of the width
        attention = layer.self_attn
        value = attention.in_proj_weight[32:] @ layer.norm1(state) + attention.in_proj_bias[32:]
        state = state + attention.out_proj(value)
        state = state + layer.linear2(F.relu(layer.linear1(layer.norm2(state))))
        expected = model.item_embedding.weight[:-1] @ model.norm(state)
    np.testing.assert_allclose(model.score([[17]])[0], expected, atol=1e-5)
