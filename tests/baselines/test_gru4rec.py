"""GRU4Rec, against the equations of its recurrence."""

import numpy as np
import torch


def test_scores_follow_the_gates(make_baseline):
    """One step after another by the equations of a gated recurrent unit."""
    model = make_baseline("GRU4Rec", gru_size=8)
    weights = dict(model.gru.named_parameters())
    state = torch.zeros(8)
    with torch.no_grad():
        for item in (4, 7, 2):
            of_item = weights["weight_ih_l0"] @ model.item_embedding.weight[item] + weights["bias_ih_l0"]
            of_state = weights["weight_hh_l0"] @ state + weights["bias_hh_l0"]
            reset, update = torch.sigmoid(of_item[:16] + of_state[:16]).chunk(2)
            candidate = torch.tanh(of_item[16:] + reset * of_state[16:])
            state = (1 - update) * candidate + update * state
        expected = model.item_embedding.weight[:-1] @ model.projection(state)
    np.testing.assert_allclose(model.score([[14, 17, 12]])[0], expected, atol=1e-6)
