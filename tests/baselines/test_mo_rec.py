"""MoRec: when it reads titles, and what it learns from."""

import numpy as np
import torch
import torch.nn.functional as F


def test_morec_reads_titles_once_in_each_call(make_baseline, monkeypatch):
    model = make_baseline("MoRec")
    reads = []
    model.item_embedding.encoder.register_forward_hook(lambda *_: reads.append(1))
    monkeypatch.setattr("patchrec_hf.baselines.sequential.HISTORIES_PER_BATCH", 1)
    before = model.score([[10, 11], [12]])
    assert len(reads) == 1
    with torch.no_grad():
        model.item_embedding.projection.weight.mul_(2)
    assert np.abs(model.score([[10, 11], [12]]) - before).max() > 1e-3
    assert len(reads) == 2


def test_morec_learns_from_the_items_of_a_batch(make_baseline, catalog):
    """In training a target competes with the batch's items, each once; and items of one title are one vector."""
    model = make_baseline("MoRec", dropout=0.0)
    model.item_embedding.encoder.config.hidden_dropout_prob = 0.0
    items, targets = torch.tensor([[0, 3, 12], [3, 5, 6]]), torch.tensor([[7, -100], [3, 8]])
    positions = torch.tensor([[1, 0], [0, 2]])
    with torch.no_grad():
        logits = model(items, positions).logits
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        loss = model(items, positions, targets).loss
    in_batch = torch.tensor([0, 3, 5, 6, 7, 8])
    rows = logits[[0, 1, 1], [0, 0, 1]][:, in_batch]
    torch.testing.assert_close(loss, F.cross_entropy(rows, torch.tensor([4, 1, 5])))
    scores = model.score([[10, 11]])[0]
    assert catalog.titles[4] == catalog.titles[5]
    assert scores[4] == scores[5]
