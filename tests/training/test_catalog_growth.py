"""Catalog growth: merged catalogs, and models in which old items score as ever."""

import numpy as np
import pytest
import torch
from conftest import TITLES
from hypothesis import given
from hypothesis import strategies as st
from item_parts import item_model, item_processor
from peft import LoraConfig, get_peft_model

from patchrec_hf import Catalog, PatchRecForCausalLM, PatchRecommender, PatchRecProcessor
from patchrec_hf.training.catalog_growth import grow_catalog, merge_catalogs


NEW = {30: "The Valley of Fear", 31: "Lady Susan"}
ids = st.sets(st.integers(0, 12), min_size=1)


def named(numbers, word="Book"):
    return Catalog.from_titles({number: f"{word} {number}" for number in sorted(numbers)})


@given(known=ids, now=ids)
def test_old_items_keep_their_places_and_stay(known, now):
    now = now | {min(known)}
    merged = merge_catalogs(named(known), named(now))
    assert merged.item_ids.tolist() == [*sorted(known), *sorted(now - known)]
    assert merged.titles == tuple(f"Book {number}" for number in merged.item_ids)


def test_a_changed_title_is_refused_kept_or_taken():
    known, now = named({1, 2}), Catalog.from_titles({3: "Book 3", 2: "Book two", 1: "Book 1"})
    with pytest.raises(ValueError, match=r"1 of the 2 items .* \(2: 'Book 2' is now 'Book two'\).*'take'.*'keep'"):
        merge_catalogs(known, now)
    assert merge_catalogs(known, now, "keep").titles == ("Book 1", "Book 2", "Book 3")
    assert merge_catalogs(known, now, "take").titles == ("Book 1", "Book two", "Book 3")
    with pytest.raises(ValueError, match="'refuse', 'keep', 'take', got 'drop'"):
        merge_catalogs(known, now, "drop")
    with pytest.raises(ValueError, match=r"'Book 3' is now 'Tea 3'; and 2 more\)"):
        merge_catalogs(named(range(1, 6)), named(range(1, 6), "Tea"))


def test_catalogs_of_other_shops_are_refused():
    with pytest.raises(TypeError, match=r"are whole numbers, such as 1, but the data have texts, such as 'a'"):
        merge_catalogs(named({1}), Catalog.from_titles({"a": "Book 1"}))
    with pytest.raises(ValueError, match=r"None of the 1 items of the data is among the 2 .* first is 1 \('Book 1'\)"):
        merge_catalogs(named({1, 2}), named({3}))


def products_of(model, processor):
    """The item vectors of a catalog."""
    recommender = PatchRecommender(model, processor)
    return recommender.log_probs([[10, 11, 16]], method="item")[0]


@pytest.mark.parametrize("residual_size", [0, 16, 32])
def test_old_items_are_scored_as_ever_and_new_ones_by_their_titles(processor, residual_size):
    model, feeds = item_model(residual_size=residual_size), item_processor(processor, item_residuals=residual_size > 0)
    old = products_of(model, feeds)
    without_growth = products_of(model, feeds.with_catalog(feeds.catalog.with_items(NEW)))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    grown = grow_catalog(model, feeds, feeds.catalog.with_items(NEW))
    assert (feeds.num_residuals, grown.num_residuals) == ((12, 14) if residual_size else (0, 0))
    assert model.config.item_head["num_items"] == 14
    for name, value in model.state_dict().items():
        assert torch.equal(value[: len(weights[name])], weights[name]), name
        assert name.endswith("item_ids") or not value[len(weights[name]) :].any()
    scores = products_of(model, grown)
    np.testing.assert_allclose(scores, without_growth, atol=1e-6)
    np.testing.assert_allclose(scores[:12] - scores[0], old - old[0], atol=1e-5)


def test_a_grown_checkpoint_loads_and_new_items_are_trained(processor, tmp_path):
    model, feeds = item_model(residual_size=32), item_processor(processor)
    grown = grow_catalog(model, feeds, feeds.catalog.with_items(NEW))
    expected = products_of(model, grown)
    for part in (model, grown):
        part.save_pretrained(tmp_path)
    loaded = PatchRecommender.from_pretrained(tmp_path)
    np.testing.assert_allclose(products_of(loaded.model, loaded.processor), expected, atol=1e-6)
    again = grow_catalog(loaded.model, loaded.processor, loaded.processor.catalog.with_items({32: "Sanditon"}))
    assert len(again.catalog) == loaded.model.item_head.item_vectors.bias.shape[0] == 15
    assert loaded.model.item_head.item_vectors.bias.requires_grad


def test_a_lost_item_is_refused_with_its_id(processor):
    model, feeds = item_model(residual_size=0), item_processor(processor, item_residuals=False)
    fewer = Catalog.from_titles({number: title for number, title in TITLES.items() if number != 14})
    with pytest.raises(ValueError, match=r"lacks 1 of the 12 items that the model has learned: 14\. Keep them"):
        grow_catalog(model, feeds, fewer)


def test_models_without_a_head_grow_by_their_processor(model, processor):
    grown = grow_catalog(model, processor, processor.catalog.with_items(NEW))
    assert (len(grown.catalog), grown.num_residuals) == (14, 0)
    with pytest.raises(TypeError, match="this is an adapter"):
        grow_catalog(get_peft_model(model, LoraConfig(target_modules=["q_proj"])), processor, grown.catalog)
    assert isinstance(model, PatchRecForCausalLM)
    assert isinstance(grown, PatchRecProcessor)
