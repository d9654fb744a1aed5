import math

import numpy as np
import pytest
from conftest import TITLES
from demo_parts import co_visit_table, demo_recommender

from patchrec_hf import BudgetLayout, ItemPatchLayout, PatchRecommender, TimeWindowLayout, Title
from patchrec_hf.demo.methods import MethodComparison
from patchrec_hf.runtime.log_probs import log_smoothed_shares


HISTORY = [10, 11, 18]


@pytest.fixture
def comparison(processor):
    return MethodComparison(demo_recommender(processor))


def result_of(comparison, name, history=HISTORY, **settings):
    (method,) = (method for method in comparison.methods if method.name == name)
    return comparison.rank(method, history, **settings)


def test_a_whole_checkpoint_has_all_methods(comparison):
    assert [method.name for method in comparison.methods] == ["fusion", "item", "exact", "co_visits"]
    assert [method.absence for method in comparison.methods] == [None] * 4


@pytest.mark.slow
def test_methods_recommend_as_the_recommender_does(comparison):
    for name in ("fusion", "item", "exact"):
        expected = comparison.recommender.recommend(HISTORY, 4, exclude_seen=False, method=name)
        result = result_of(comparison, name, k=4)
        assert [(item.item_id, item.score) for item in result.items] == [
            (item.item_id, pytest.approx(item.score)) for item in expected
        ]
        assert result.milliseconds > 0


def test_co_visits_are_those_of_the_table(comparison):
    scores = co_visit_table().scores([np.array([0, 1, 8])], len(TITLES))
    expected = log_smoothed_shares(scores)[0]
    result = result_of(comparison, "co_visits", k=3)
    best = [int(item.item_id) - 10 for item in result.items]
    assert [item.score for item in result.items] == pytest.approx(sorted(expected, reverse=True)[:3])
    # The latest item counts twice as much as the one before it: 2 and 1 for 19 and 20, and half of 2 for 12.
    assert best[:1] == [9]
    assert set(best) <= {9, 10, 2}


@pytest.mark.slow
def test_seen_items_are_marked_or_left_out(comparison):
    for name in ("fusion", "item", "exact", "co_visits"):
        marked = result_of(comparison, name, k=12)
        assert {item.title for item in marked.items if item.is_seen} == {TITLES[item] for item in HISTORY}
        others = result_of(comparison, name, k=12, exclude_seen=True)
        assert not any(item.is_seen for item in others.items)
        assert {item.title for item in others.items} == {item.title for item in marked.items if not item.is_seen}


def test_an_item_with_a_seen_title_is_seen(comparison):
    for history in ([14, 18], [Title("Poems"), 18]):  # items 14 and 15 share the title
        assert {item.title for item in result_of(comparison, "fusion", history, k=12).items if item.is_seen} == {
            "Poems", "A Study in Scarlet"
        }  # fmt: skip


def test_the_budget_reaches_the_recommender(comparison):
    history = list(TITLES)[:8]
    narrow, wide = (result_of(comparison, "item", history, k=3, max_tokens=budget) for budget in (4, 14))
    for result, budget in ((narrow, 4), (wide, 14)):
        expected = comparison.recommender.recommend(history, 3, exclude_seen=False, method="item", max_tokens=budget)
        assert [item.score for item in result.items] == pytest.approx([item.score for item in expected])
    assert [item.score for item in narrow.items] != pytest.approx([item.score for item in wide.items])


def test_an_error_of_a_history_is_told(comparison):
    result = result_of(comparison, "fusion", list(TITLES), exclude_seen=True)
    assert result.items == ()
    assert "no item left to recommend" in result.error


def test_a_layout_that_reads_times_is_served(processor):
    comparison = MethodComparison(demo_recommender(processor, TimeWindowLayout(86_400)))
    assert result_of(comparison, "item").error is None


def test_what_a_checkpoint_lacks_has_a_reason(processor, model):
    absences = {method.name: method.absence for method in MethodComparison(PatchRecommender(model, processor)).methods}
    assert absences["exact"] is None
    assert "no fusion" in absences["fusion"]
    assert "no item head" in absences["item"]
    assert "holds no fusion" in absences["co_visits"]


def test_a_model_that_learned_items_alone_has_no_titles(processor):
    comparison = MethodComparison(demo_recommender(processor, objective="item"))
    assert "learned no titles" in comparison.methods[2].absence


def test_a_fusion_without_co_visits_is_told(processor):
    recommender = demo_recommender(processor)
    fusion = recommender.processor.fusion
    alone = type(fusion)({"item": fusion.parts["item"]}, {"item": 1.0})
    comparison = MethodComparison(PatchRecommender(recommender.model, recommender.processor.with_fusion(alone)))
    assert "a fusion without co-visits" in comparison.methods[3].absence


def test_budgets_are_those_that_were_learned(processor):
    def budget_of(layout):
        return MethodComparison(demo_recommender(processor, layout)).budget

    budget = budget_of(BudgetLayout(14, min_tokens=4))
    assert (budget.least, budget.most, budget.absence) == (4, 14, None)
    assert budget_of(BudgetLayout(14)).least == 3
    assert "ItemPatchLayout" in budget_of(ItemPatchLayout(0)).absence


def test_scores_say_what_they_are(comparison):
    assert "all texts" in comparison.methods[2].score
    comparison.recommender.model.config.title_normalizer = "catalog"
    again = MethodComparison(comparison.recommender)
    assert "the catalog" in again.methods[2].score
    total = sum(math.exp(item.score) for item in result_of(again, "fusion", k=12).items)
    assert 0 < total <= 1 + 1e-6


def test_warming_up_computes_what_histories_share(comparison):
    comparison.warm_up()
    assert comparison.recommender.item_scorer._item_vectors is not None
