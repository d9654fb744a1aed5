"""Caser, against plain convolutions."""

import numpy as np
import torch
import torch.nn.functional as F


def test_caser_convolves_the_last_window(make_baseline):
    model = make_baseline("Caser", window=3)
    with torch.no_grad():
        vectors = torch.cat([torch.zeros(1, 16), model.item_embedding.weight[torch.tensor([4, 7])]])
        image = vectors[None, None]  # one picture of 3 items by 16 numbers
        features = [torch.einsum("vl,ld->dv", model.vertical.weight, vectors).flatten()]
        for convolve in model.horizontal:
            maps = F.conv2d(image, convolve.weight.transpose(1, 2)[:, None], convolve.bias)
            features.append(F.relu(maps).amax((2, 3))[0])
        state = F.relu(model.projection(torch.cat(features)))
        expected = model.item_embedding.weight[:-1] @ state
    np.testing.assert_allclose(model.score([[14, 17]])[0], expected, atol=1e-6)
