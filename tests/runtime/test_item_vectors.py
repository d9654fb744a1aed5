"""Item vectors in blocks."""

import numpy as np
import pytest
import torch
from item_parts import item_model, item_processor

from patchrec_hf.runtime import item_vectors
from patchrec_hf.runtime.item_vectors import item_patches, item_vectors_of, padded_item_vectors


@pytest.fixture
def parts(processor):
    return item_model(residual_size=6), item_processor(processor)


@pytest.mark.parametrize("at_once", [1, 5, 11])
@torch.no_grad()
def test_blocks_change_nothing(parts, monkeypatch, at_once):
    items = np.array([3, 1, 4, 11, 0, 9, 2, 6, 5, 10, 8])
    functions = (item_vectors_of, item_patches)
    expected = [function(*parts, items) for function in functions]
    sizes, compute = [], item_vectors._patches
    monkeypatch.setattr(item_vectors, "_patches", lambda *args: sizes.append(len(args[2])) or compute(*args))
    monkeypatch.setattr(item_vectors, "_MOST_ITEMS_AT_ONCE", at_once)
    for function, whole in zip(functions, expected, strict=True):
        sizes.clear()
        found = function(*parts, items)
        assert found.dtype == whole.dtype
        torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)
        assert max(sizes) <= at_once
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == 11


def test_few_numbers_at_once_for_wide_models(parts, monkeypatch):
    monkeypatch.setattr(item_vectors, "_NUMBERS_AT_ONCE", 100)  # three vectors of 32 numbers
    assert item_vectors._items_at_once(parts[0]) == 3


@torch.no_grad()
def test_rows_of_zeros_follow(parts):
    items = np.arange(12)
    vectors = padded_item_vectors(*parts, items, multiple=8)
    assert vectors.shape == (16, 33)
    assert torch.equal(vectors[:12], item_vectors_of(*parts, items))
    assert not vectors[12:].any()


def test_gradients_reach_the_weights_through_blocks(parts, monkeypatch):
    monkeypatch.setattr(item_vectors, "_MOST_ITEMS_AT_ONCE", 5)
    item_vectors_of(*parts, np.arange(12)).sum().backward()
    assert (parts[0].item_head.item_vectors.bias.grad == 1).all()


def test_a_vector_that_is_not_finite_is_named(parts, monkeypatch):
    monkeypatch.setattr(item_vectors, "_MOST_ITEMS_AT_ONCE", 5)
    with torch.no_grad():
        parts[0].model.item_residual.weight[7, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="item with catalog index 7 is not finite"):
        item_vectors_of(*parts, np.arange(12))
