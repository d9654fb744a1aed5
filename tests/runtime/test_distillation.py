"""The divergence of twins."""

import numpy as np
import pytest
import torch

from patchrec_hf.runtime.choice_loss import Choices
from patchrec_hf.runtime.distillation import choice_twin_divergence, twin_divergence


def log_softmax(logits):
    logits = np.asarray(logits, dtype=np.float64)
    return logits - np.log(np.exp(logits).sum())


def divergence(teacher, student):
    teacher, student = log_softmax(teacher), log_softmax(student)
    return (np.exp(teacher) * (teacher - student)).sum()


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_divergence_by_hand(temperature):
    """Two pairs of twins with two labels and one: the teachers' labels are 0, 1 and 4."""
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    is_teacher = torch.tensor([True, True, False, False, True, False])
    found = twin_divergence(logits, is_teacher, temperature)
    values = logits.detach().numpy() / temperature
    pairs = [(0, 2), (1, 3), (4, 5)]
    expected = temperature**2 * sum(divergence(values[teacher], values[student]) for teacher, student in pairs)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    found.backward()
    assert (logits.grad[is_teacher] == 0).all()
    for teacher, student in pairs:
        difference = np.exp(log_softmax(values[student])) - np.exp(log_softmax(values[teacher]))
        assert logits.grad[student].tolist() == pytest.approx((temperature * difference).tolist(), rel=1e-4, abs=1e-6)


def test_divergence_among_choices_by_hand():
    """One pair of twins with two labels each: among tokens 0, 2 and 3, and among 1 and 4."""
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    choices = Choices(
        torch.tensor([0, 1, 0, 1]), torch.tensor([0, 3, 5]), torch.tensor([0, 2, 3, 1, 4]), torch.arange(10, 15)
    )
    is_teacher = torch.tensor([True, True, False, False])
    found = choice_twin_divergence(logits, choices, is_teacher, 2.0)
    values = logits.detach().numpy() / 2
    first = divergence(values[0, [0, 2, 3]], values[2, [0, 2, 3]])
    second = divergence(values[1, [1, 4]], values[3, [1, 4]])
    assert found.item() == pytest.approx(4 * (first + second), rel=1e-5)
    found.backward()
    assert (logits.grad[:2] == 0).all()
    assert (logits.grad[2, [1, 4]] == 0).all()
    assert (logits.grad[2, [0, 2, 3]] != 0).all()


def test_equal_twins_do_not_diverge():
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(2)).repeat(2, 1)
    assert twin_divergence(logits, torch.arange(6) < 3).item() == pytest.approx(0, abs=1e-6)
    empty = twin_divergence(logits[:0], torch.zeros(0, dtype=torch.bool))
    assert empty.item() == 0
