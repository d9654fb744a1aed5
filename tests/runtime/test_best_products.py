"""The best products, block by block, are those of the whole catalog."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchrec_hf.runtime import best_products as module
from patchrec_hf.runtime.allowed_items import ItemSet
from patchrec_hf.runtime.best_products import Addend, best_products, products_of


MULTIPLE = 4


def padded(vectors):
    """Vectors, and rows that stand for no item, whose products would be the largest."""
    return torch.cat([vectors, vectors.new_full((-len(vectors) % MULTIPLE, vectors.shape[1]), 50.0)])


def best_by_hand(users, vectors, k, masks, addends):
    scores = (users @ vectors.T).double().numpy()
    for addend in addends:
        scores[addend.rows, addend.items] += addend.values
    scores = np.where(masks, scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(scores, order, axis=1)
    return np.where(found > -np.inf, order, -1), found


@settings(max_examples=60)
@given(
    num_items=st.integers(1, 45),
    num_users=st.integers(1, 5),
    at_once=st.sampled_from([1, 8, 24, 100, 2**20]),
    seed=st.integers(0, 10**6),
    data=st.data(),
)
def test_blocks_of_any_size_find_the_best_of_the_catalog(num_items, num_users, at_once, seed, data):
    """Of small whole numbers, so that products are exact and many are equal."""
    rng = np.random.default_rng(seed)
    k = data.draw(st.integers(1, num_items))
    users, vectors = (
        torch.from_numpy(rng.integers(1, 3, (size, 3)).astype(np.float32)) for size in (num_users, num_items)
    )
    masks = rng.random((num_users, num_items)) < rng.choice([0.0, 0.1, 0.6, 1.0], (num_users, 1))
    rows, items = np.nonzero(rng.random((num_users, num_items)) < 0.2)
    addends = [Addend(rows, items, rng.integers(-2, 3, len(rows)).astype(dtype)) for dtype in (np.float32, np.float64)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PRODUCTS_AT_ONCE", at_once)
        patch.setattr(module, "ROWS_MULTIPLE", MULTIPLE)
        found = best_products(
            users, padded(vectors), num_items, k, [ItemSet.from_mask(mask) for mask in masks], addends
        )
    expected = best_by_hand(users, vectors, k, masks, addends)
    assert found[0].tolist() == expected[0].tolist()
    assert found[1].tolist() == expected[1].tolist()


def test_equal_vectors_are_in_catalog_order_in_every_block(monkeypatch):
    """Products of any shape could round in their own way; those of the blocks do not."""
    monkeypatch.setattr(module, "_PRODUCTS_AT_ONCE", 128)
    generator = torch.Generator().manual_seed(0)
    users, vector = torch.randn(1, 33, generator=generator), torch.randn(1, 33, generator=generator)
    vectors = torch.cat([vector.repeat(1003, 1), torch.zeros(21, 33)])
    for allowed in (ItemSet(), ItemSet(np.arange(0, 1003, 2), is_rest=False)):
        items, scores = best_products(users, vectors, 1003, 30, [allowed])
        assert items[0].tolist() == np.arange(1003)[allowed.holds(np.arange(1003))][:30].tolist()
        assert len(set(scores[0].tolist())) == 1


@pytest.mark.parametrize("num_users", [1, 3, 40])
def test_scores_of_all_items_never_stand_in_memory(monkeypatch, num_users):
    sizes = []

    def measured(users, vectors):
        sizes.append(len(users) * len(vectors))
        return products_of(users, vectors)

    monkeypatch.setattr(module, "products_of", measured)
    monkeypatch.setattr(module, "_PRODUCTS_AT_ONCE", 1024)
    best_products(torch.ones(num_users, 3), torch.ones(6400, 3), 6390, 5, [ItemSet()] * num_users)
    assert max(sizes) <= 1024
    assert sum(sizes) >= num_users * 6390
    sizes.clear()
    few = ItemSet(np.array([5, 70, 6000]), is_rest=False)
    best_products(torch.ones(num_users, 3), torch.ones(6400, 3), 6390, 5, [few] * num_users)
    assert sizes == [64] * num_users


def test_products_that_are_not_finite():
    with pytest.raises(FloatingPointError, match="The item head's scores hold inf"):
        products_of(torch.full((1, 2), 1e30), torch.full((64, 2), 1e30))
