"""The item loss equals a plain cross-entropy, in value and in gradients."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiers import scaled

from patchrec_hf.runtime import item_loss as module
from patchrec_hf.runtime.item_loss import Features, item_loss


def naive_loss(users, items, targets, weights, values, log_inclusion):
    """All scores at once. `values` holds every feature of every pair, shape `(n, C, 2)`."""
    scores = users @ items.T + values @ weights
    own = F.one_hot(targets, len(items)).bool()
    scores = torch.where(own, scores, scores - log_inclusion)
    return F.cross_entropy(scores, targets, reduction="sum")


def make_case(num_users, num_items, seed, samples=False):
    generator = torch.Generator().manual_seed(seed)
    users, items = (
        torch.randn(n, 5, generator=generator, dtype=torch.float64).requires_grad_() for n in (num_users, num_items)
    )
    targets = torch.randint(num_items, (num_users,), generator=generator)
    weights = torch.randn(2, generator=generator, dtype=torch.float64).requires_grad_()
    values = torch.rand(num_users, num_items, 2, generator=generator, dtype=torch.float64)
    values[torch.rand(values.shape, generator=generator) < 0.5] = 0
    log_inclusion = torch.zeros(num_items, dtype=torch.float64)
    if samples:
        log_inclusion = -torch.rand(num_items, generator=generator, dtype=torch.float64)
        log_inclusion[torch.rand(num_items, generator=generator) < 0.3] = math.inf
    return users, items, targets, weights, values, log_inclusion


def sparse(weights, values):
    rows, columns, kinds = values.nonzero(as_tuple=True)
    return Features(weights, rows, columns, kinds, values[rows, columns, kinds])


def value_and_gradients(loss, *inputs):
    return [loss.detach(), *torch.autograd.grad(3 * loss, inputs)]


@settings(max_examples=scaled(60))
@given(
    num_users=st.integers(1, 9),
    num_items=st.integers(1, 7),
    seed=st.integers(0, 999),
    samples=st.booleans(),
    cells=st.integers(1, 80),
)
def test_loss_and_gradients_equal_the_naive_ones(num_users, num_items, seed, samples, cells):
    """For blocks of one row, of some rows, and of all; a factor on the loss reaches the gradients."""
    users, items, targets, weights, values, log_inclusion = make_case(num_users, num_items, seed, samples)
    expected = naive_loss(users, items, targets, weights, values, log_inclusion)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(module, "_CELLS_PER_BLOCK", cells)
        got = item_loss(users, items, targets, sparse(weights, values), log_inclusion if samples else None)
    inputs = (users, items, weights)
    for one, other in zip(value_and_gradients(got, *inputs), value_and_gradients(expected, *inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_by_hand():
    """Two candidates, and the history holds the one that was not chosen, whose title is also similar."""
    users, items = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 9.0], [1.0, 9.0]])
    target, weights, values = torch.tensor([1]), torch.tensor([0.5, -1.0]), torch.zeros(1, 2, 2)

    def loss(log_inclusion=None):
        return item_loss(users, items, target, sparse(weights, values), log_inclusion).item()

    assert loss() == pytest.approx(math.log(1 + math.e))
    # The other candidate was drawn with probability 1/4, so it stands for four items like it.
    assert loss(torch.tensor([1 / 4, 1 / 3]).log()) == pytest.approx(math.log(1 + 4 * math.e))
    assert loss(torch.full((2,), math.inf)) == 0.0
    values[0, 0] = torch.tensor([1.0, 2.0])
    assert loss() == pytest.approx(math.log(1 + math.exp(1 + 0.5 - 2)))
    values[0, 1, 0] = 1.0  # both were seen
    assert loss() == pytest.approx(math.log(1 + math.exp(1 - 2)))


def test_no_targets():
    """A batch without targets has the loss 0, and its gradients are zeros."""
    users, items, targets, weights, values, _ = make_case(0, 4, seed=0)
    loss = item_loss(users, items, targets, sparse(weights, values))
    value, *gradients = value_and_gradients(loss, users, items, weights)
    assert value == 0
    assert [gradient.abs().sum().item() for gradient in gradients] == [0, 0, 0]


def test_large_scores_do_not_overflow():
    users, items = torch.full((1, 1), 100.0), torch.tensor([[10.0], [9.0]])
    features = sparse(torch.zeros(2), torch.zeros(1, 2, 2))
    assert item_loss(users, items, torch.tensor([1]), features).item() == pytest.approx(100.0)


def test_autocast_changes_nothing():
    users, items, targets, weights, values, _ = make_case(6, 5, seed=3)
    inputs = [tensor.detach().float().requires_grad_() for tensor in (users, items, weights)]

    def run():
        return value_and_gradients(item_loss(*inputs[:2], targets, sparse(inputs[2], values.float())), *inputs)

    expected = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (inputs[0] @ inputs[1].T).dtype == torch.bfloat16
        got = run()
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


def test_without_gradients():
    users, items, targets, weights, values, _ = make_case(6, 5, seed=3)
    expected = item_loss(users, items, targets, sparse(weights, values))
    with torch.no_grad():
        loss = item_loss(users, items, targets, sparse(weights, values))
    assert not loss.requires_grad
    assert loss == expected
