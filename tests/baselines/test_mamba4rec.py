"""Mamba4Rec, against the equations of its recurrence."""

import numpy as np
import torch
import torch.nn.functional as F


def select(mixer, states):
    """Mamba's convolution and selective recurrence, one position after another."""
    inner, gate = mixer.in_proj(states).chunk(2, dim=-1)
    size = mixer.conv1d.weight.shape[-1]
    windows = F.pad(inner, (0, 0, size - 1, 0)).unfold(0, size, 1)
    inner = F.silu((windows * mixer.conv1d.weight[:, 0]).sum(-1) + mixer.conv1d.bias)
    step, into, out = mixer.x_proj(inner).split([mixer.time_step_rank, 4, 4], dim=-1)
    step = F.softplus(mixer.dt_proj(step))
    memory, found = torch.zeros(inner.shape[1], 4), []
    for place in range(len(states)):
        decay = torch.exp(-torch.exp(mixer.A_log) * step[place][:, None])
        memory = decay * memory + (step[place] * inner[place])[:, None] * into[place]
        found.append(memory @ out[place] + mixer.D * inner[place])
    return mixer.out_proj(torch.stack(found) * F.silu(gate))


def test_scores_follow_the_recurrence(make_baseline):
    model = make_baseline("Mamba4Rec")
    (layer,) = model.layers
    (block,) = layer.mamba.layers
    with torch.no_grad():
        states = model.norm(model.item_embedding.weight[torch.tensor([4, 7, 2])])
        states = layer.mamba.norm_f(states + select(block.mixer, block.norm(states)))
        expected = model.item_embedding.weight[:-1] @ layer.norm(states + layer.network(states))[-1]
    np.testing.assert_allclose(model.score([[14, 17, 12]])[0], expected, atol=1e-5)


def test_the_table_of_the_mamba_model_is_not_trained(make_baseline):
    """It is fed with the items' vectors, so its own embeddings are never read."""
    frozen = [
        name
        for name, weight in make_baseline("Mamba4Rec", num_layers=2).named_parameters()
        if not weight.requires_grad
    ]
    assert frozen == ["layers.0.mamba.embeddings.weight", "layers.1.mamba.embeddings.weight"]
