"""Fitting a fusion: which parts it has by default, a whole fit, and its mistakes."""

import numpy as np
import pytest
from datasets import Dataset
from item_parts import item_model, item_processor
from transformers import BloomConfig, BloomForCausalLM

from patchrec_hf import Catalog, PatchRecForCausalLM, PatchRecommender, PatchRecProcessor, evaluate_model, fit_fusion
from patchrec_hf.baselines import CoVisitation, Popularity, Transitions


@pytest.fixture
def chains(catalog):
    """Each user reads the catalog in its order, from another item on, and so co-visits know the next item."""
    ids = catalog.item_ids.tolist()
    rows = [
        {"user_id": user, "item_ids": ids[user : user + 4], "target_positions": [3]} for user in range(len(ids) - 4)
    ]
    return Dataset.from_list(rows)


@pytest.fixture
def head():
    return item_model(residual_size=32)


def test_a_fitted_fusion_finds_what_counting_finds(head, processor, catalog, chains):
    processor = item_processor(processor)
    before = evaluate_model(head, processor, chains, show_progress=False).metrics([1])["hr@1"]
    head.train()
    co_visitation = CoVisitation(catalog).fit(chains)
    fitted = fit_fusion(head, processor, chains, chains, co_visitation=co_visitation, show_progress=False)
    assert head.training
    assert processor.fusion is None
    assert list(fitted.fusion.parts) == ["item", "co_visits", "transitions", "similar_titles", "seen"]
    assert fitted.fusion.weights["co_visits"] > 0
    fit = fitted.fusion.fit_result
    assert fit.num_targets == len(chains)
    assert fit.log_likelihood >= max(fit.of_parts.values())
    report = evaluate_model(head, fitted, chains, show_progress=False)
    assert before < 0.5 < report.metrics([1])["hr@1"]
    assert report.settings["method"] == "fusion"
    assert report.settings["fusion"]["co_visits"] == {"weight": fitted.fusion.weights["co_visits"]}


def test_the_fit_says_what_the_parts_reach_alone(head, processor, chains):
    """The likelihoods are those of the recommender's own log-probabilities."""
    fitted = fit_fusion(head, item_processor(processor), chains, chains, show_progress=False)
    rows, targets = [row["item_ids"] for row in chains], [row["item_ids"][3] - 10 for row in chains]
    recommender = PatchRecommender(head.eval(), fitted)
    for method, expected in (
        ("fusion", fitted.fusion.fit_result.log_likelihood),
        ("item", fitted.fusion.fit_result.of_parts["item"]),
    ):
        log_probs = recommender.log_probs([row[:3] for row in rows], method=method)
        assert log_probs[np.arange(len(rows)), targets].mean() == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_parts_follow_from_the_model(model, head, processor, chains):
    def parts(model, processor, objective):
        model.config.objective = objective
        return list(fit_fusion(model, processor, chains, chains, show_progress=False).fusion.parts)

    others = ["co_visits", "transitions", "similar_titles", "seen"]
    assert parts(model, processor, None) == parts(model, processor, "title") == ["titles", *others]
    assert parts(head, item_processor(processor), None) == ["item", *others]
    assert parts(head, item_processor(processor), "item") == ["item", *others]
    assert parts(head, item_processor(processor), "both") == ["titles", "item", *others]


def test_parts_and_rows_can_be_chosen(head, processor, chains):
    fitted = fit_fusion(
        head, item_processor(processor), chains, chains, ["seen", "item"], max_rows=5, show_progress=False
    )
    assert list(fitted.fusion.weights) == ["item", "seen"]
    assert fitted.fusion.fit_result.num_targets == 5


def test_transitions_that_are_given_join(head, processor, catalog, chains):
    transitions = Transitions(catalog).fit(chains)
    fitted = fit_fusion(head, item_processor(processor), chains, chains, transitions=transitions, show_progress=False)
    assert list(fitted.fusion.parts) == ["item", "co_visits", "transitions", "similar_titles", "seen"]
    assert fitted.fusion.parts["transitions"].table is transitions.table


def test_rows_with_times_have_popularity(head, processor, catalog, chains, tmp_path):
    """Each user asks on another day."""
    processor, day = item_processor(processor), 86_400
    timed = chains.map(lambda row: {"timestamps": [row["user_id"] * day] * len(row["item_ids"])})
    fitted = fit_fusion(head, processor, timed, timed, show_progress=False)
    assert list(fitted.fusion.parts) == ["item", "co_visits", "transitions", "similar_titles", "seen", "popularity"]
    part = fitted.fusion.parts["popularity"]
    assert part.window == 7
    log_probs = part.log_probs([np.array([0])] * len(timed), 12, np.arange(len(timed)) * day)
    reached = log_probs[np.arange(len(timed)), np.arange(len(timed)) + 3].mean()
    assert reached == pytest.approx(fitted.fusion.fit_result.of_parts["popularity"], abs=1e-5)

    recent = Popularity(catalog, window=2).fit(timed)
    fitted = fit_fusion(head, processor, chains, timed, ["item", "popularity"], popularity=recent, show_progress=False)
    fitted.save_pretrained(tmp_path)
    loaded = PatchRecProcessor.from_pretrained(tmp_path)
    assert loaded.fusion.parts["popularity"].window == 2
    recommenders = PatchRecommender(head.eval(), fitted), PatchRecommender(head, loaded)
    early, late = (recommenders[0].log_probs([[10]], times=moment) for moment in (0, 3 * day))
    assert not np.allclose(early, late)
    np.testing.assert_allclose(recommenders[1].log_probs([[10]], times=[3 * day]), late)
    np.testing.assert_allclose(
        recommenders[0].log_probs([[10]]), recommenders[0].log_probs([[10]], times=len(timed) * day)
    )
    report = evaluate_model(head, fitted, timed, show_progress=False)
    assert len(report.targets) == len(timed)
    with pytest.raises(ValueError, match="part 'popularity' reads the moment of asking of each history, and got none"):
        evaluate_model(head, fitted, chains, show_progress=False)
    with pytest.raises(ValueError, match="`window=7` counts the latest days, but the rows of 'train' have no column"):
        fit_fusion(head, processor, chains, chains, ["popularity"], show_progress=False)


def test_popularity_is_never_counted_up_to_the_end_for_rows_without_times(head, processor, catalog, chains):
    """The end of the counted days lies after the targets, which would then be known."""
    timed = chains.map(lambda row: {"timestamps": [row["user_id"] * 86_400] * len(row["item_ids"])})
    recent = Popularity(catalog, window=2).fit(timed)
    with pytest.raises(ValueError, match="part 'popularity' reads the moment of asking of each history, and got none"):
        fit_fusion(head, item_processor(processor), timed, chains, popularity=recent, show_progress=False)
    with pytest.raises(ValueError, match="`popularity` must be a `Popularity` with a `window`"):
        fit_fusion(
            head, item_processor(processor), timed, timed, popularity=Popularity(catalog).fit(timed),
            show_progress=False,
        )  # fmt: skip


def test_parts_are_a_list_of_names(head, processor, chains):
    with pytest.raises(TypeError, match=r"`parts` must be a list of names, such as \['item'\], got 'item'"):
        fit_fusion(head, processor, chains, chains, parts="item")


def test_a_backbone_that_cannot_attend_to_a_tree_has_no_titles(catalog, tokenizer, processor, chains):
    config = BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=2, pad_token_id=2)
    bloom = PatchRecForCausalLM.from_backbone(BloomForCausalLM(config), tokenizer)
    with pytest.raises(TypeError, match=r"BloomModel cannot attend to one.*Leave 'titles' out of `parts`"):
        fit_fusion(bloom, processor, chains, chains, ["titles"], show_progress=False)
    fitted = fit_fusion(bloom, processor, chains, chains, show_progress=False)
    assert list(fitted.fusion.parts) == ["co_visits", "transitions", "similar_titles", "seen"]


def test_mistakes_are_named(model, head, processor, catalog, chains):
    with pytest.raises(ValueError, match="part 'item' needs a model with an item head"):
        fit_fusion(model, processor, chains, chains, ["item"], show_progress=False)
    with pytest.raises(ValueError, match="no part 'popular'"):
        fit_fusion(model, processor, chains, chains, ["popular"], show_progress=False)
    turned = Catalog(catalog.item_ids[::-1], catalog.titles[::-1])
    other = CoVisitation(turned).fit(chains)
    with pytest.raises(ValueError, match="part 'co_visits' was made for another catalog"):
        fit_fusion(head, item_processor(processor), chains, chains, co_visitation=other, show_progress=False)
    with pytest.raises(ValueError, match="did not converge: after 1 steps"):
        fit_fusion(head, item_processor(processor), chains, chains, max_steps=1, show_progress=False)


def test_later_items_change_no_score(head, processor, catalog, chains):
    """A row's target and the items after it are in no history, and later rows are in no count."""
    fitted = fit_fusion(head, item_processor(processor), chains, chains, show_progress=False)
    ids = catalog.item_ids.tolist()
    rows = [{"user_id": user, "item_ids": ids[user : user + 6], "target_positions": [3]} for user in range(6)]
    cut = [{**row, "item_ids": row["item_ids"][:4]} for row in rows]
    reports = [
        evaluate_model(head, fitted, Dataset.from_list(part), show_progress=False, keep_rankings=True)
        for part in (rows, cut)
    ]
    assert reports[0].targets.equals(reports[1].targets)


def test_a_checkpoint_recommends_by_its_fusion(head, processor, chains, tmp_path):
    fitted = fit_fusion(head, item_processor(processor), chains, chains, show_progress=False)
    expected = PatchRecommender(head.eval(), fitted).recommend([[10, 11], [17]], k=4)
    for part in (head, fitted):
        part.save_pretrained(tmp_path)
    found = PatchRecommender.from_pretrained(tmp_path).recommend([[10, 11], [17]], k=4)
    for one, two in zip(found, expected, strict=True):
        assert [item.item_id for item in one] == [item.item_id for item in two]
        np.testing.assert_allclose([item.score for item in one], [item.score for item in two], rtol=1e-5)
    assert isinstance(fitted, PatchRecProcessor)
