import pytest
import torch

from patchrec_hf.runtime.catalog_softmax import catalog_log_softmax


LOGITS = torch.tensor([[0.0, 1.0, 2.0, 3.0], [400.0, -400.0, 5.0, 0.0], [1.0, 1.0, 1.0, 1.0]])


def test_each_row_is_a_softmax_over_its_own_columns():
    rows, columns = torch.tensor([1, 0, 0, 1, 0]), torch.tensor([0, 3, 1, 1, 2])
    found = catalog_log_softmax(LOGITS, rows, columns)
    expected = LOGITS[0, 1:].log_softmax(0)
    assert found[[2, 4, 1]].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert found[[0, 3]].tolist() == [0.0, -800.0]  # far apart, and nothing overflows


def test_the_temperature_divides_logits():
    rows, columns = torch.zeros(2, dtype=torch.long), torch.tensor([0, 2])
    found = catalog_log_softmax(LOGITS, rows, columns, temperature=2.0)
    assert found.tolist() == pytest.approx((LOGITS[0, [0, 2]] / 2).log_softmax(0).tolist())


def test_gradients_are_those_of_a_softmax():
    rows, columns = torch.tensor([0, 0, 0, 2, 2]), torch.tensor([0, 1, 3, 1, 2])
    ours, theirs = LOGITS.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    catalog_log_softmax(ours, rows, columns)[[1, 4]].sum().backward()
    (theirs[0, [0, 1, 3]].log_softmax(0)[1] + theirs[2, [1, 2]].log_softmax(0)[1]).backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


def test_no_cells_have_no_probabilities():
    none = torch.empty(0, dtype=torch.long)
    assert catalog_log_softmax(LOGITS, none, none).shape == (0,)
