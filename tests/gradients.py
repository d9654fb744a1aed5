"""Losses and gradients of batches, and of the same examples run one by one."""

import pytest
import torch

from patchrec_hf.runtime.encoding import pad_histories


def gradients(model, batch):
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def one_by_one(model, examples, pad_id):
    """The token mean of the loss, and its gradients, from each example alone."""
    num_labels = sum(len(example.input_ids) - example.prompt_length for example in examples)
    model.zero_grad()
    total = 0.0
    for example in examples:
        loss = model(**pad_histories([example], pad_id), num_items_in_batch=torch.tensor(num_labels)).loss
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(got, expected):
    (loss, grads), (expected_loss, expected_grads) = got, expected
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert grads.keys() == expected_grads.keys()
    # A gradient of one number may nearly cancel, although float32 rounds each of its terms.
    rounding = torch.finfo(torch.float32).eps * torch.stack([grad.norm() for grad in expected_grads.values()]).norm()
    for name, gradient in grads.items():
        expected_norm = expected_grads[name].norm()
        assert (gradient - expected_grads[name]).norm() <= 1e-5 * expected_norm + rounding, name
