"""LinRec, against the formulas of its paper."""

import torch
import torch.nn.functional as F

from patchrec_hf.baselines.lin_rec import linear_attention


def test_linear_attention_is_the_papers():
    """At the last position it is the paper's: ρ₁(elu(Q)) (ρ₂(elu(K))ᵀ V) / √d; and chunks change nothing."""
    queries, keys, values = torch.randn(3, 2, 2, 11, 4, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    found = linear_attention(queries, keys, values, chunk_size=4)
    for length in (1, 4, 5, 11):
        k = F.normalize(F.elu(keys[..., :length, :]), dim=-2)
        q = F.normalize(F.elu(queries[..., :length, :]), dim=-1)
        expected = (q @ (k.mT @ values[..., :length, :]))[..., -1, :] / 4**0.5
        torch.testing.assert_close(found[..., length - 1, :], expected)
    torch.testing.assert_close(found, linear_attention(queries, keys, values, chunk_size=64))
