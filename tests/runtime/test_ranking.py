"""Rankings of the catalog: what they hold, and which arguments they take."""

import dataclasses

import numpy as np
import pytest
from brute_force import brute_force
from rankers import rank, score
from tiny_parts import title_tokens

from patchrec_hf import Catalog, CatalogRanker, RankingConfig
from patchrec_hf.runtime.trie import build_trie


METHODS = {"exact": {}, "beam": {"num_beams": 12}, "all": {}}


@pytest.fixture(params=METHODS)
def method(request):
    return {"method": request.param, **METHODS[request.param]}


def test_every_method_equals_brute_force(model, processor, prompts, trie, method):
    ranking = rank(model, trie, prompts, processor.prompt.pad_id, k=12, batch_size=3, **method)
    assert ranking.is_exact.all()
    for prompt, items, scores in zip(prompts, ranking.items, ranking.scores, strict=True):
        expected = brute_force(model, processor.title_tokens, processor.prompt.end_of_turn_id, prompt)
        assert sorted(items.tolist()) == list(range(12))
        np.testing.assert_allclose(scores, expected[items], atol=1e-4)
        assert (np.diff(scores) <= 0).all()


def test_excluded_items_are_left_out(model, processor, prompts, trie):
    everything = rank(model, trie, prompts, processor.prompt.pad_id, k=12)
    excluded = [np.sort(items[:4]) for items in everything.items]
    rest = rank(model, trie, prompts, processor.prompt.pad_id, k=5, excluded=excluded)
    for items, ranked in zip(everything.items, rest.items, strict=True):
        assert not set(ranked) & set(items[:4])
    wide = rank(model, trie, prompts, processor.prompt.pad_id, k=12, excluded=excluded)
    for items, ranked, scores in zip(everything.items, wide.items, wide.scores, strict=True):
        assert ranked.tolist() == [*items[4:].tolist(), -1, -1, -1, -1]
        assert (scores[8:] == -np.inf).all()
    assert wide.is_exact.all()


def test_one_of_two_items_with_a_title_can_be_excluded(model, processor, prompts, trie):
    ranking = rank(model, trie, prompts, processor.prompt.pad_id, k=11, excluded=[np.array([4])] * 5)
    assert (ranking.items == 5).any(axis=1).all()
    assert not (ranking.items == 4).any()


def test_result_does_not_depend_on_the_batch(model, processor, prompts, trie):
    together = rank(model, trie, prompts, processor.prompt.pad_id, k=6, batch_size=5)
    alone = rank(model, trie, prompts, processor.prompt.pad_id, k=6, batch_size=1)
    assert (together.items == alone.items).all()
    np.testing.assert_allclose(together.scores, alone.scores, atol=1e-5)


@pytest.mark.parametrize(
    ("k", "message"), [(0, "`k` must be at least 1, got 0"), (13, "between 1 and the catalog's 12 items, got 13")]
)
def test_k_outside_the_catalog(model, processor, prompts, trie, k, message):
    with pytest.raises(ValueError, match=message):
        rank(model, trie, prompts, processor.prompt.pad_id, k=k)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "beam", "num_beams": 4}, "`num_beams` must be at least k = 5, got 4"),
        ({"method": "best"}, "`method` must be one of 'exact', 'beam', 'all', 'item', got 'best'"),
        ({"num_beams": 10}, "`num_beams` and `length_penalty` belong to `method='beam'`"),
        ({"method": "all", "length_penalty": 1.0}, "`num_beams` and `length_penalty` belong to `method='beam'`"),
        ({"method": "beam", "max_title_tokens": 9}, "`max_title_tokens` belongs to `method='exact'`"),
        ({"max_title_tokens": -1}, "`max_title_tokens` must be at least 0, got -1"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"excluded": [np.array([1])]}, "`excluded` needs one array for each of 5 prompts, got 1"),
        ({"candidates": [np.array([1])]}, "`candidates` needs one array for each of 5 prompts, got 1"),
        ({"candidates": [np.array([], dtype=int)] * 5}, "Row 0 has no candidates: its array holds 0 items"),
    ],
)
def test_arguments_that_do_not_fit(model, processor, prompts, trie, arguments, message):
    with pytest.raises(ValueError, match=message):
        rank(model, trie, prompts, processor.prompt.pad_id, k=5, **arguments)


@pytest.mark.parametrize("name", ["candidates", "excluded"])
@pytest.mark.parametrize("item", [-1, 12])
def test_indices_outside_the_catalog(model, processor, prompts, trie, name, item):
    arrays = [np.array([0, item]), *[np.array([0])] * 4]
    with pytest.raises(ValueError, match=f"Row 0 names item {item}; catalog indices lie between 0 and 11"):
        rank(model, trie, prompts, processor.prompt.pad_id, k=1, **{name: arrays})


def test_no_exclusions_as_an_empty_list(model, processor, prompts, trie):
    expected = rank(model, trie, prompts, processor.prompt.pad_id, k=3)
    ranking = rank(model, trie, prompts, processor.prompt.pad_id, k=3, excluded=[[]] * 5)
    assert (ranking.items == expected.items).all()


def test_titles_of_another_tokenizer(model, processor, prompts):
    trie = build_trie(title_tokens([[1], [100_000]]), processor.prompt.end_of_turn_id)
    with pytest.raises(ValueError, match="The titles hold token 100000, but the model's vocabulary has"):
        rank(model, trie, prompts, processor.prompt.pad_id, k=1)


def test_candidates(model, processor, prompts, trie, method):
    """Only candidates are ranked, of which the seen ones are left out too."""
    candidates = [np.array([1, 2, 4, 5, 9])] * 5
    excluded = [np.array([2])] * 5
    ranking = rank(
        model, trie, prompts, processor.prompt.pad_id, k=12, candidates=candidates, excluded=excluded, **method
    )
    for items, scores, prompt in zip(ranking.items, ranking.scores, prompts, strict=True):
        expected = brute_force(model, processor.title_tokens, processor.prompt.end_of_turn_id, prompt)
        assert sorted(items[:4].tolist()) == [1, 4, 5, 9]
        assert (items[4:] == -1).all()
        np.testing.assert_allclose(scores[:4], expected[items[:4]], atol=1e-4)
    assert ranking.is_exact.all()


def test_all_candidates_seen(model, processor, prompts, trie):
    with pytest.raises(ValueError, match="Row 0 has no item left to recommend: all 2 candidates are excluded"):
        rank(
            model, trie, prompts, processor.prompt.pad_id, k=1,
            candidates=[np.array([1, 2])] * 5, excluded=[np.array([1, 2, 3])] * 5,
        )  # fmt: skip


def test_scores_of_the_whole_catalog(model, processor, prompts, trie):
    scores = score(model, trie, prompts, processor.prompt.pad_id, batch_size=2)
    for row, prompt in enumerate(prompts):
        expected = brute_force(model, processor.title_tokens, processor.prompt.end_of_turn_id, prompt)
        np.testing.assert_allclose(scores[row], expected, atol=1e-4)


def test_length_penalty_ranks_what_was_found_by_score_per_token(model, processor, prompts, trie):
    plain = rank(model, trie, prompts, processor.prompt.pad_id, k=12, method="all")
    ranking = rank(
        model, trie, prompts, processor.prompt.pad_id, k=12, method="beam", num_beams=12, length_penalty=1.0
    )
    num_tokens = processor.title_tokens.lengths + 1
    for items, scores, plain_items, plain_scores in zip(
        ranking.items, ranking.scores, plain.items, plain.scores, strict=True
    ):
        by_item = dict(zip(plain_items.tolist(), plain_scores.tolist(), strict=True))
        expected = [by_item[item] / num_tokens[item] for item in items.tolist()]
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        assert (np.diff(scores) <= 0).all()
    assert not ranking.is_exact.any()


def test_too_long_for_the_context(model, processor, prompts, trie):
    model.config.text_config.max_position_embeddings = 40
    with pytest.raises(
        ValueError, match=r"takes \d+ tokens with a title, but the model reads at most 40.*max_history"
    ):
        rank(model, trie, prompts, processor.prompt.pad_id, k=5)


def test_nothing_left(model, processor, prompts, trie):
    excluded = [np.arange(12) if row == 2 else np.array([], dtype=int) for row in range(5)]
    with pytest.raises(ValueError, match="Row 2 has no item left"):
        rank(model, trie, prompts, processor.prompt.pad_id, k=3, excluded=excluded)


def test_single_item_catalog(model, tokenizer):
    from patchrec_hf import BOOK_PROMPT, PatchRecommender, PatchRecProcessor

    lonely = PatchRecProcessor(tokenizer, Catalog.from_titles({3: "Emma"}), BOOK_PROMPT)
    assert [item.item_id for item in PatchRecommender(model, lonely).recommend(["Poems"], k=1)] == [3]


def test_a_configuration_can_be_changed():
    config = RankingConfig(k=3, method="beam")
    assert (config.num_beams, config.beam_width) == (None, 6)
    assert dataclasses.replace(config, k=20).beam_width == 40
    assert dataclasses.replace(config, method="exact").beam_width is None


def test_a_configuration_of_another_kind(model, processor):
    with pytest.raises(TypeError, match="must be a `RankingConfig`"):
        CatalogRanker(model, processor, {"k": 3})
