"""The prior, by hand and as a part of a checkpoint."""

import numpy as np
import pytest

from patchrec_hf import Catalog, PatchRecProcessor
from patchrec_hf.runtime.neighbors import NeighborTable
from patchrec_hf.runtime.prior import Prior, PriorWeights, seen_mask


WEIGHTS = PriorWeights(head=0.5, co_visits=2.0, titles=3.0, seen=-4.0)


def table_of(dense, item_ids):
    dense = np.array(dense, dtype=np.float32)
    sources, targets = np.nonzero(dense)
    offsets = np.searchsorted(sources, np.arange(len(dense) + 1))
    return NeighborTable(offsets, targets.astype(np.int32), dense[sources, targets], np.array(item_ids), 0.5, 2)


@pytest.fixture
def prior(processor):
    """Item 0 leads to item 1, and items 1 and 2 to item 0."""
    ids = processor.catalog.item_ids
    dense = np.zeros((len(ids), len(ids)))
    dense[0, 1] = dense[1, 0] = dense[2, 0] = 1
    return Prior(table_of(dense, ids), WEIGHTS)


def test_join_by_hand():
    """The table knows two of three items; the history holds the first one and an unknown title."""
    co_visits, titles = table_of([[0, 1], [1, 0]], [5, 6]), table_of([[0, 2], [2, 0]], [5, 6])
    prior = Prior(co_visits, WEIGHTS)
    scores = prior.join(np.array([[1.0, 2.0, 3.0]], dtype=np.float32), [np.array([0, 7])], titles)
    bonus = np.log1p(1e4)
    np.testing.assert_allclose(scores, [[0.5 - 4, 1 + 2 * bonus + 3 * bonus, 1.5]], rtol=1e-6)
    assert scores.dtype == np.float32


def test_seen_mask():
    assert seen_mask([np.array([1, 1, 9]), np.array([], dtype=np.int64)], 3).tolist() == [[0, 1, 0], [0, 0, 0]]


def test_a_processor_keeps_its_prior(processor, prior, tmp_path):
    with_prior = processor.with_prior(prior)
    assert processor.prior is None
    with_prior.save_pretrained(tmp_path)
    loaded = PatchRecProcessor.from_pretrained(tmp_path)
    assert loaded.prior.weights == WEIGHTS
    products = np.random.default_rng(0).random((2, len(processor.catalog)), dtype=np.float32)
    histories = [np.array([0, 1]), np.array([3])]
    expected = prior.join(products, histories, processor.title_neighbors)
    np.testing.assert_allclose(loaded.prior.join(products, histories, loaded.title_neighbors), expected, rtol=1e-6)
    assert [path.name for path in tmp_path.glob("*co_visit*")] == ["co_visitation.safetensors"]


def test_a_processor_without_a_prior_saves_none(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    assert not (tmp_path / "co_visitation.safetensors").exists()
    assert PatchRecProcessor.from_pretrained(tmp_path).prior is None


def test_new_items_get_similar_titles_but_no_co_visits(processor, prior):
    catalog = processor.catalog.with_items({9001: processor.catalog.titles[0]})
    grown = processor.with_prior(prior).with_catalog(catalog)
    co_visits, titles, _ = grown.prior.features([np.array([0])], len(catalog), grown.title_neighbors)
    assert co_visits[0, -1] == 0
    assert titles[0, -1] == titles[0].max() > 0  # it has the title of the history's item


def test_a_prior_of_another_catalog_is_refused(processor, prior):
    ids, titles = processor.catalog.item_ids, processor.catalog.titles
    other = processor.with_catalog(Catalog(ids[1:], titles[1:]))
    with pytest.raises(ValueError, match=f"such as item {ids[0]}"):
        other.with_prior(prior)
    with pytest.raises(ValueError, match=rf"lacks 1 of .*: {ids[0]}\."):
        processor.with_prior(prior).with_catalog(Catalog(ids[1:], titles[1:]))
