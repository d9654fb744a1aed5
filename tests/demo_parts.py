"""Recommenders with every method of the page, on tiny models."""

import numpy as np
from conftest import TITLES
from item_parts import item_model, item_processor, table_of

from patchrec_hf import (
    BOOK_PROMPT,
    BudgetLayout,
    Catalog,
    PatchRecForCausalLM,
    PatchRecommender,
    PatchRecProcessor,
)
from patchrec_hf.runtime.fusion import Fusion
from patchrec_hf.runtime.fusion_parts import ItemHeadPart, NeighborPart
from patchrec_hf.tiny import build_tiny_backbone


def co_visit_table():
    """Each item recommends the next one most, and the one after it half as much."""
    dense = np.eye(len(TITLES), k=1) * 2 + np.eye(len(TITLES), k=2)
    return table_of(dense, list(TITLES))


def demo_recommender(processor, layout=None, with_fusion=True, objective="both", **settings):
    layout = BudgetLayout(14, min_tokens=4, num_text_items=2) if layout is None else layout
    made = item_processor(processor, layout, separate_patches=False, **settings)
    if with_fusion:
        parts = {"item": ItemHeadPart(), "co_visits": NeighborPart(co_visit_table())}
        made = made.with_fusion(Fusion(parts, {"item": 0.5, "co_visits": 1.0}))
    model = item_model()
    model.config.objective = objective
    return PatchRecommender(model, made)


MARKUP = (
    "<script>document.title = 'taken over'</script>",
    "<img src=x onerror=\"document.title='taken over'\">",
    "War & Peace &amp; <b>Love</b>",
    "${1 + 1} {{value}} `x` \\n",
)
"""Titles that must be shown as they are."""


def markup_recommender():
    """A recommender with every method, of a catalog whose titles hold markup."""
    catalog = Catalog.from_titles(dict(enumerate([*TITLES.values(), *MARKUP])))
    backbone, tokenizer = build_tiny_backbone(catalog, vocab_size=400, hidden_size=32)
    model = PatchRecForCausalLM.from_backbone(backbone, tokenizer)
    model.add_item_head(catalog)
    layout = BudgetLayout(60, min_tokens=4, num_text_items=2)
    processor = PatchRecProcessor(
        tokenizer, catalog, BOOK_PROMPT, layout, 16, separate_patches=False, item_residuals=True
    )
    dense = np.eye(len(catalog), k=1) * 2 + np.eye(len(catalog), k=-1)
    table = table_of(dense, list(range(len(catalog))))
    parts = {"item": ItemHeadPart(), "co_visits": NeighborPart(table)}
    fusion = Fusion(parts, {"item": 0.5, "co_visits": 1.0})
    return PatchRecommender(model, processor.with_fusion(fusion))
