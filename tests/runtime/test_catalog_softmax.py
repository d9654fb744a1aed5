"""Softmaxes over some columns of each row, and the rankings of titles whose probabilities sum to 1."""

import numpy as np
import pytest
import torch
from brute_force import brute_force_catalog
from rankers import rank, score
from tiers import first_fast

from patchrec_hf import CatalogRanker, PatchRecForCausalLM, PatchRecommender, RankingConfig, evaluate_model
from patchrec_hf.runtime.catalog_softmax import catalog_log_softmax


LOGITS = torch.tensor([[0.0, 1.0, 2.0, 3.0], [400.0, -400.0, 5.0, 0.0], [1.0, 1.0, 1.0, 1.0]])


def test_each_row_is_a_softmax_over_its_own_columns():
    rows, columns = torch.tensor([1, 0, 0, 1, 0]), torch.tensor([0, 3, 1, 1, 2])
    found = catalog_log_softmax(LOGITS, rows, columns)
    expected = LOGITS[0, 1:].log_softmax(0)
    assert found[[2, 4, 1]].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert found[[0, 3]].tolist() == [0.0, -800.0]  # far apart, and nothing overflows


def test_the_temperature_divides_logits():
    rows, columns = torch.zeros(2, dtype=torch.long), torch.tensor([0, 2])
    found = catalog_log_softmax(LOGITS, rows, columns, temperature=2.0)
    assert found.tolist() == pytest.approx((LOGITS[0, [0, 2]] / 2).log_softmax(0).tolist())


def test_gradients_are_those_of_a_softmax():
    rows, columns = torch.tensor([0, 0, 0, 2, 2]), torch.tensor([0, 1, 3, 1, 2])
    ours, theirs = LOGITS.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    catalog_log_softmax(ours, rows, columns)[[1, 4]].sum().backward()
    (theirs[0, [0, 1, 3]].log_softmax(0)[1] + theirs[2, [1, 2]].log_softmax(0)[1]).backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


def test_no_cells_have_no_probabilities():
    none = torch.empty(0, dtype=torch.long)
    assert catalog_log_softmax(LOGITS, none, none).shape == (0,)


METHODS = {"exact": {}, "beam": {"num_beams": 12}, "all": {}}
POEMS = (4, 5)  # two items with one title


@pytest.fixture
def normalized(model, trie, processor):
    def scores_of(prompts, **settings):
        return score(model, trie, prompts, processor.prompt.pad_id, normalizer="catalog", **settings)

    return scores_of


def expected_scores(model, processor, prompt, temperature=1.0):
    titles, end = processor.title_tokens, processor.prompt.end_of_turn_id
    return brute_force_catalog(model, titles, end, prompt, range(len(titles)), temperature)


@pytest.mark.parametrize("temperature", first_fast([None, 2.0]))
@pytest.mark.parametrize("method", first_fast(METHODS))
def test_every_method_equals_brute_force(model, processor, prompts, trie, method, temperature):
    settings = {"method": method, "normalizer": "catalog", "temperature": temperature, **METHODS[method]}
    ranking = rank(model, trie, prompts, processor.prompt.pad_id, k=12, batch_size=3, **settings)
    assert ranking.is_exact.all()
    for prompt, items, scores in zip(prompts, ranking.items, ranking.scores, strict=True):
        assert sorted(items.tolist()) == list(range(12))
        np.testing.assert_allclose(
            scores, expected_scores(model, processor, prompt, temperature or 1.0)[items], atol=1e-4
        )


def test_the_probabilities_of_all_items_sum_to_1(normalized, prompts):
    probabilities = np.exp(normalized(prompts).astype(np.float64))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities[:, POEMS[0]] == probabilities[:, POEMS[1]]).all()


def test_a_model_of_nothing_finds_all_choices_of_a_node_equally_likely(model, processor, prompts, normalized):
    with torch.no_grad():
        model.lm_head.weight.zero_()
    scores = normalized(prompts)[0]
    first = {processor.title_tokens[index][0] for index in range(12)}
    # "Emma" is decided by its first token, and the two items of "Poems" share what their first token has.
    assert scores[0] == pytest.approx(-np.log(len(first)))
    assert scores[POEMS[0]] == pytest.approx(-np.log(2 * len(first)))


def test_candidates_and_exclusions_change_no_probability(model, processor, prompts, trie):
    settings = {"k": 12, "normalizer": "catalog"}
    everything = rank(model, trie, prompts, processor.prompt.pad_id, **settings)
    few = rank(
        model, trie, prompts, processor.prompt.pad_id, [np.array([3, 5, 8, 9])] * 5, [np.array([8])] * 5, **settings
    )
    for row in range(len(prompts)):
        assert set(few.items[row][:3].tolist()) == {3, 5, 9}
        of_item = dict(zip(everything.items[row].tolist(), everything.scores[row].tolist(), strict=True))
        np.testing.assert_allclose(few.scores[row][:3], [of_item[item] for item in few.items[row][:3]], atol=1e-5)


def test_new_items_take_probability_from_the_others(model, processor):
    more = processor.with_catalog(processor.catalog.with_items({90: "Emma and Her Sisters"}))
    history = np.array([1, 2])
    config = RankingConfig(k=1, normalizer="catalog")
    before = np.exp(CatalogRanker(model, processor, config).score([processor.encode(history)])[0])
    after = np.exp(CatalogRanker(model, more, config).score([more.encode(history)])[0])
    assert after.sum() == pytest.approx(1, abs=1e-5)
    assert after[12] > 0
    assert after[0] < before[0]  # "Emma" and the new title begin alike
    np.testing.assert_allclose(after[0] + after[12], before[0], rtol=1e-4)
    np.testing.assert_allclose(after[1:12], before[1:12], rtol=1e-4)


def test_nothing_is_read_that_leads_to_no_choice(model, processor, prompts, trie):
    everything = rank(model, trie, prompts, processor.prompt.pad_id, k=1, method="all", normalizer="catalog")
    assert (everything.tokens_read == (trie.only_leaves[1:] < 0).sum()).all()
    by_vocabulary = rank(model, trie, prompts, processor.prompt.pad_id, k=1, method="all")
    assert (everything.tokens_read < by_vocabulary.tokens_read / 3).all()


@pytest.mark.slow
def test_a_checkpoint_says_how_its_titles_are_scored(model, processor, prompts, tmp_path, rows):
    model.config.title_normalizer, model.config.title_temperature = "catalog", 2.0
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    loaded = PatchRecForCausalLM.from_pretrained(tmp_path)
    own = CatalogRanker(loaded, processor, RankingConfig(k=3)).rank(prompts)
    chosen = CatalogRanker(
        model, processor, RankingConfig(k=3, normalizer="catalog", temperature=2.0)
    ).rank(prompts)  # fmt: skip
    other = CatalogRanker(model, processor, RankingConfig(k=3, normalizer="vocabulary")).rank(prompts)
    np.testing.assert_allclose(own.scores, chosen.scores, atol=1e-5)
    assert (own.scores[:, 0] > other.scores[:, 0] + 1).all()
    recommender = PatchRecommender.from_pretrained(tmp_path)
    (by_default,) = recommender.recommend([10, 11], k=1, exclude_seen=False)
    (by_name,) = recommender.recommend([10, 11], k=1, exclude_seen=False, normalizer="vocabulary")
    assert by_default.score > by_name.score
    settings = evaluate_model(loaded, processor, rows, show_progress=False).settings
    assert (settings["normalizer"], settings["temperature"]) == ("catalog", 2.0)
    settings = evaluate_model(loaded, processor, rows, normalizer="vocabulary", show_progress=False).settings
    assert (settings["normalizer"], settings["temperature"]) == ("vocabulary", None)


@pytest.mark.parametrize("temperature", ["2", True, [2.0]])
def test_temperatures_that_are_no_numbers(temperature):
    with pytest.raises(TypeError, match=r"`temperature` must be a positive number, such as 2\.0, got "):
        RankingConfig(temperature=temperature)
    RankingConfig(temperature=np.float32(2))


def test_a_temperature_needs_the_normalizer_of_the_catalog(model, processor):
    with pytest.raises(ValueError, match="Give `normalizer='catalog'` too"):
        CatalogRanker(model, processor, RankingConfig(k=1, temperature=2.0))


def test_scores_that_are_not_numbers(model, processor, prompts, trie):
    with torch.no_grad():
        model.lm_head.weight[processor.title_tokens[2][0]] = float("nan")
    with pytest.raises(FloatingPointError, match="scores are not numbers"):
        rank(model, trie, prompts, processor.prompt.pad_id, k=1, normalizer="catalog")
