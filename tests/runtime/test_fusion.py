"""The fusion, by hand and as a part of a checkpoint."""

import copy
import pickle

import numpy as np
import pytest
from item_parts import table_of

from patchrec_hf import Catalog, PatchRecProcessor
from patchrec_hf.runtime.fusion import Fusion, FusionFit
from patchrec_hf.runtime.fusion_parts import ItemHeadPart, NeighborPart, SeenPart, SimilarTitlesPart


WEIGHTS = {"item": 0.5, "co_visits": 2.0, "similar_titles": 3.0, "seen": -4.0}


@pytest.fixture
def fusion(processor):
    """Item 0 leads to item 1, and items 1 and 2 to item 0."""
    ids = processor.catalog.item_ids
    dense = np.zeros((len(ids), len(ids)))
    dense[0, 1] = dense[1, 0] = dense[2, 0] = 1
    parts = {
        "item": ItemHeadPart(),
        "co_visits": NeighborPart(table_of(dense, ids)),
        "similar_titles": SimilarTitlesPart(),
        "seen": SeenPart(),
    }
    return Fusion(parts, WEIGHTS)


def test_mix_by_hand():
    fusion = Fusion({"item": ItemHeadPart(), "seen": SeenPart()}, {"seen": -1.0, "item": 2.0})
    log_probs = {"seen": np.log([[0.5, 0.25, 0.25]]), "item": np.log([[0.2, 0.2, 0.6]])}
    expected = np.array([0.2**2 / 0.5, 0.2**2 / 0.25, 0.6**2 / 0.25])
    np.testing.assert_allclose(np.exp(fusion.mix(log_probs)), [expected / expected.sum()])


def test_parts_have_one_order(fusion):
    turned = Fusion(dict(reversed(fusion.parts.items())), dict(reversed(fusion.weights.items())))
    assert list(turned.parts) == list(turned.weights) == ["item", "co_visits", "similar_titles", "seen"]


def test_it_is_shown_without_its_arrays(processor, fusion):
    shown = "Fusion(item: 0.5, co_visits: 2, similar_titles: 3, seen: -4)"
    assert repr(fusion) == shown
    assert repr(processor.with_fusion(fusion)).endswith(f"time_gaps=0, fusion={shown})")
    num_items = len(processor.catalog)
    assert repr(fusion.parts["co_visits"]).endswith(f"({num_items} items, 3 scores, decay=0.5, num_history_items=2))")


def test_a_fusion_cannot_be_changed_but_copied(fusion):
    with pytest.raises(TypeError):
        fusion.weights["item"] = 1.0
    for other in (copy.deepcopy(fusion), pickle.loads(pickle.dumps(fusion))):
        assert dict(other.weights) == WEIGHTS


def test_mistakes_are_named(fusion):
    with pytest.raises(TypeError, match="part 'co_visits' must be a `NeighborPart`, got `SeenPart`"):
        Fusion({"co_visits": SeenPart()}, {"co_visits": 1.0})
    with pytest.raises(ValueError, match="one weight for each of its parts"):
        Fusion({"seen": SeenPart()}, WEIGHTS)
    with pytest.raises(ValueError, match="no part 'popular'"):
        Fusion({"popular": SeenPart()}, {"popular": 1.0})


def test_a_processor_keeps_its_fusion(processor, fusion, tmp_path):
    fit = FusionFit(3, -1.5, {"item": -2.0, "co_visits": -2.5, "similar_titles": -3.0, "seen": -3.5})
    with_fusion = processor.with_fusion(Fusion(fusion.parts, fusion.weights, fit))
    assert processor.fusion is None
    with_fusion.save_pretrained(tmp_path)
    loaded = PatchRecProcessor.from_pretrained(tmp_path).fusion
    assert dict(loaded.weights) == WEIGHTS
    assert loaded.fit_result == fit
    assert loaded.parts["item"] == ItemHeadPart(with_features=True)
    histories = [np.array([0, 1]), np.array([3])]
    expected = fusion.parts["co_visits"].log_probs(histories, 12)
    np.testing.assert_allclose(loaded.parts["co_visits"].log_probs(histories, 12), expected)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["fusion_co_visits.safetensors"]


def test_a_processor_without_a_fusion_saves_none(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("fusion*"))
    assert PatchRecProcessor.from_pretrained(tmp_path).fusion is None


def test_a_copy_has_another_fusion_or_none(processor, fusion):
    assert processor.with_fusion(fusion).with_fusion(None).fusion is None
    with pytest.raises(TypeError, match="`fusion` must be a `Fusion` or None, got `dict`"):
        processor.with_fusion({})


def test_new_items_get_no_co_visits(processor, fusion):
    catalog = processor.catalog.with_items({9001: processor.catalog.titles[0]})
    grown = processor.with_fusion(fusion).with_catalog(catalog)
    (co_visits,) = grown.fusion.parts["co_visits"].log_probs([np.array([0])], len(catalog))
    assert co_visits[-1] == co_visits.min() < co_visits.max()


def test_a_part_of_another_catalog_is_refused(processor, fusion):
    ids, titles = processor.catalog.item_ids, processor.catalog.titles
    other = processor.with_catalog(Catalog(ids[1:], titles[1:]))
    with pytest.raises(ValueError, match=f"part 'co_visits' was made for another catalog.*such as item {ids[0]}"):
        other.with_fusion(fusion)
    with pytest.raises(ValueError, match=rf"lacks 1 of .*: {ids[0]}\."):
        processor.with_fusion(fusion).with_catalog(Catalog(ids[1:], titles[1:]))


def test_former_names_warn(processor, fusion):
    with pytest.warns(FutureWarning, match="use `with_fusion`"):
        former = processor.with_prior(fusion)
    with pytest.warns(FutureWarning, match="use `fusion`"):
        assert former.prior is fusion
