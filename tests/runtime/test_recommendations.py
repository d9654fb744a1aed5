"""Recommendations behind prompts: the part that recommenders and user states share."""

from functools import partial

import numpy as np
import pytest
import torch
from families import tiny
from item_parts import item_model, item_processor
from user_states import make_recommender

from patchrec_hf import ItemPatchLayout, PatchRecommender, Recommendation
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


@pytest.mark.parametrize(("scores", "is_tie"), [((5, 3, 3), False), ((5, 5, 3), False), ((5, 5, 5), True)])
def test_titles_tie_by_their_best_items(processor, scores, is_tie):
    """The items 14 and 15 are one title and fill what is ranked for k = 1. Item 16 comes after them."""
    model, processor = item_model(), item_processor(processor)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.item_head.item_vectors.bias[processor.catalog.indices_of([14, 15, 16])] = torch.tensor(scores).float()
    (first,) = PatchRecommender(model, processor).recommend([10], k=1, method="item")
    assert (first.item_id, first.ends_in_tie) == (14, is_tie)


def test_lists_that_end_in_a_tie_say_so(processor):
    """Without weights, all items have one score. The two items called "Poems" are one title."""
    model, processor = item_model(), item_processor(processor)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    recommender = PatchRecommender(model, processor)
    recommend = partial(recommender.recommend, [10], method="item", exclude_seen=False)
    assert {item.ends_in_tie for item in recommend(k=3)} == {True}
    assert {item.ends_in_tie for item in recommend(k=11)} == {False}
    assert {item.ends_in_tie for item in recommend(k=11, unique_titles=False)} == {True}
