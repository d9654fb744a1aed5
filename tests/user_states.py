"""Models and processors that user states are tested with, and the comparison with reading whole histories."""

import copy
from functools import lru_cache

import numpy as np
import torch
from families import make_processor, shared_model, tiny
from item_parts import table_of

from patchrec_hf import PatchRecForCausalLM, PatchRecommender, PatchRecProcessor
from patchrec_hf.runtime.fusion import Fusion
from patchrec_hf.runtime.fusion_parts import ItemHeadPart, NeighborPart, TitlePart


METHODS = ("item", "fusion", "exact", "beam")
NUM_GAPS = 5


@lru_cache
def state_model(family: str = "llama_untied", time_gaps: bool = False) -> PatchRecForCausalLM:
    """A model with an item head, residuals and perhaps time gaps, all of them random. Tests do not change it."""
    model = copy.deepcopy(shared_model(family))
    model.add_item_head(tiny()[0])
    if time_gaps:
        model.add_time_gaps(NUM_GAPS)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in filter(None, (model.item_head, model.model.item_residual, model.model.time_gaps)):
            for parameter in module.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def state_processor(layout, max_history=8, separate_patches=True, time_gaps=False, catalog=None) -> PatchRecProcessor:
    """A processor with a fusion of the item head, titles and co-visits."""
    base = make_processor()
    processor = PatchRecProcessor(
        base.tokenizer, catalog or base.catalog, base.prompt, layout, max_history, separate_patches,
        item_residuals=len(base.catalog), time_gaps=NUM_GAPS if time_gaps else 0,
    )  # fmt: skip
    num_items = len(base.catalog)
    dense = np.eye(num_items, k=1) + 0.5 * np.eye(num_items, k=-7)
    parts = {
        "item": ItemHeadPart(),
        "titles": TitlePart(),
        "co_visits": NeighborPart(table_of(dense, base.catalog.item_ids)),
    }
    return processor.with_fusion(Fusion(parts, {"item": 0.7, "titles": 0.4, "co_visits": 0.5}))


def make_recommender(layout, family="llama_untied", **settings) -> PatchRecommender:
    model = state_model(family, settings.get("time_gaps", False))
    return PatchRecommender(model, state_processor(layout, **settings))


def plans_of(state):
    return state._histories.plans


def read_anew(state, k, method):
    """The recommendations behind the whole prompts of a state's histories, each read by one plain forward."""
    recommender = state._recommender
    prompts = [
        recommender.processor.encode(plan.items, layout=state.layout, seed=(plan.seed,), timestamps=plan.timestamps)
        for plan in plans_of(state)
    ]
    return recommender.recommend_behind(
        prompts, [plan.items for plan in plans_of(state)], k, unique_titles=True, candidates=None, method=method,
        num_beams=None, max_title_tokens=None, normalizer=None, times=None,
    )  # fmt: skip


def assert_same_lists(found, expected):
    """Two items may swap places only where their scores are all but equal."""
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        scores, others = ([item.score for item in items] for items in (mine, theirs))
        np.testing.assert_allclose(scores, others, atol=1e-4, rtol=0)
        for place, (item, other) in enumerate(zip(mine, theirs, strict=True)):
            is_close = np.abs(np.array(others) - others[place]) < 2e-4
            assert item.item_id == other.item_id or is_close.sum() > 1 or place == len(others) - 1


def assert_equals_reading_anew(state, methods=METHODS, k=5):
    for method in methods:
        found = state.recommend(k, method=method)
        lists = [found] if isinstance(state.item_ids[0], int) else found
        assert_same_lists(lists, read_anew(state, k, method))
