"""Recommendations behind prompts: the part that recommenders and user states share."""

import numpy as np
import pytest
from families import tiny
from user_states import make_recommender

from patchrec_hf import ItemPatchLayout, Recommendation
from patchrec_hf.runtime.recommendations import PromptRecommender


IDS = tiny()[0].item_ids.tolist()
DEFAULTS = {
    "unique_titles": True, "candidates": None, "method": None, "num_beams": None, "max_title_tokens": None,
    "normalizer": None, "times": None,
}  # fmt: skip


def test_prompts_are_enough():
    recommender = make_recommender(ItemPatchLayout(1))
    items = recommender.catalog.indices_of(IDS[:3])
    shared = PromptRecommender(recommender.model, recommender.processor)
    for method in ("item", "exact", None):
        found = shared.recommend_behind(
            [recommender.processor.encode(items)], [items], 4, **{**DEFAULTS, "method": method}
        )
        assert found == [recommender.recommend(IDS[:3], 4, method=method)]
        assert isinstance(found[0][0], Recommendation)
    everything = shared.recommend_behind([recommender.processor.encode(items)], None, len(IDS), **DEFAULTS)
    assert {item.item_id for item in everything[0]} == set(IDS)


def test_item_vectors_are_computed_once():
    recommender = make_recommender(ItemPatchLayout(1))
    assert recommender.scorer_for("item") is recommender.scorer_for("fusion") is recommender.item_scorer
    assert recommender.scorer_for("exact") is None
    assert recommender.fingerprint is recommender.fingerprint


def test_bad_settings():
    recommender = make_recommender(ItemPatchLayout(1))
    prompts = [recommender.processor.encode(np.arange(3))]
    for k, method, message in ((0, None, "`k` must be at least 1"), (3, "diverse", "'diverse' reproduces")):
        with pytest.raises(ValueError, match=message):
            recommender.recommend_behind(prompts, None, k, **{**DEFAULTS, "method": method})
