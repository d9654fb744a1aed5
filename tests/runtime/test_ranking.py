import math

import numpy as np
import pytest
import torch
from brute_force import brute_force
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

import patchrec_hf.runtime.ranking as ranking_module
import patchrec_hf.runtime.search as search_module
import patchrec_hf.runtime.tree_reader as tree_reader_module
from patchrec_hf import (
    Catalog,
    PatchDataCollator,
    PatchRecConfig,
    PatchRecForCausalLM,
    rank_catalog,
    score_catalog,
)
from patchrec_hf.runtime.catalog import TitleTokens
from patchrec_hf.runtime.encoding import EncodedExample, TokenCounts
from patchrec_hf.runtime.trie import build_trie


@pytest.fixture
def prompts(processor, rows):
    return PatchDataCollator(processor).encode_rows(list(rows)[:5])


@pytest.fixture
def trie(processor):
    return build_trie(processor.title_tokens, processor.prompt.end_of_turn_id)


METHODS = {"exact": {}, "beam": {"num_beams": 12}, "all": {}}


@pytest.fixture(params=METHODS)
def method(request):
    return {"method": request.param, **METHODS[request.param]}


def test_every_method_equals_brute_force(model, processor, prompts, trie, method):
    ranking = rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=12, batch_size=3, **method)
    assert ranking.certified.all()
    for prompt, items, scores in zip(prompts, ranking.items, ranking.scores, strict=True):
        expected = brute_force(model, processor.title_tokens, processor.prompt.end_of_turn_id, prompt)
        assert sorted(items.tolist()) == list(range(12))
        np.testing.assert_allclose(scores, expected[items], atol=1e-4)
        assert (np.diff(scores) <= 0).all()


def tiny_model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=12, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=1.0, max_position_embeddings=32,
    )  # fmt: skip
    return PatchRecForCausalLM(PatchRecConfig(text_config=config, patch_token_id=11), LlamaForCausalLM(config)).eval()


def title_tokens(titles):
    return TitleTokens(np.concatenate(titles), np.concatenate([[0], np.cumsum([len(title) for title in titles])]))


def plain_prompt(ids):
    empty, counts = np.empty(0, dtype=np.int64), TokenCounts(0, 0, 0)
    return EncodedExample(np.array(ids), len(ids), empty, empty, empty, counts, counts)


random_titles = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=2, max_size=14)
random_prompts = st.lists(st.lists(st.integers(0, 10), min_size=1, max_size=5), min_size=1, max_size=3)


@settings(max_examples=60)
@given(
    titles=random_titles,
    k=st.integers(1, 14),
    prompts=random_prompts,
    tokens_at_once=st.integers(1, 20),
    crowded=st.sampled_from([0, 100]),
    data=st.data(),
)
def test_random_tries(titles, k, prompts, tokens_at_once, crowded, data):
    """Prefixes, duplicates, single-token titles, excluded items: exact and all equal brute force; what a beam or a
    bounded search certifies is exact, and what they do not certify are still k different items with right scores."""
    model, tokens, k = tiny_model(), title_tokens(titles), min(k, len(titles))
    prompts = [plain_prompt(ids) for ids in prompts]
    trie = build_trie(tokens, end_of_turn_id=9)
    item_sets = st.lists(st.integers(0, len(titles) - 1), max_size=len(titles) - 1, unique=True)
    excluded = [np.array(data.draw(item_sets), dtype=np.int64) for _ in prompts]
    scores = np.array([brute_force(model, tokens, 9, prompt) for prompt in prompts])
    for row, items in enumerate(excluded):
        scores[row, items] = -np.inf
    expected = -np.sort(-scores, axis=1)[:, :k]

    def rank(**kwargs):
        ranking = rank_catalog(model, trie, prompts, pad_id=10, k=k, batch_size=2, excluded=excluded, **kwargs)
        for row in range(len(prompts)):
            found = ranking.items[row][ranking.items[row] >= 0]
            assert len(set(found.tolist())) == len(found) == min(k, len(titles) - len(excluded[row]))
            np.testing.assert_allclose(ranking.scores[row, : len(found)], scores[row, found], atol=1e-4)
            if ranking.certified[row]:
                np.testing.assert_allclose(ranking.scores[row], expected[row], atol=1e-4)
        return ranking

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(ranking_module, "_TOKENS_AT_ONCE", {"exact": tokens_at_once, "all": tokens_at_once})
        monkeypatch.setattr(tree_reader_module, "_CROWDED", crowded)
        assert rank(method="exact").certified.all()
        assert rank(method="all").certified.all()
        assert rank(method="beam", num_beams=len(titles)).certified.all()
        rank(method="beam", num_beams=k)
        rank(method="exact", max_expansions=data.draw(st.integers(0, 12)))


def test_excluded_items_are_left_out(model, processor, prompts, trie):
    everything = rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=12)
    excluded = [np.sort(items[:4]) for items in everything.items]
    rest = rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=5, excluded=excluded)
    for items, ranked in zip(everything.items, rest.items, strict=True):
        assert not set(ranked) & set(items[:4])
    wide = rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=12, excluded=excluded)
    for items, ranked, scores in zip(everything.items, wide.items, wide.scores, strict=True):
        assert ranked.tolist() == [*items[4:].tolist(), -1, -1, -1, -1]
        assert (scores[8:] == -np.inf).all()
    assert wide.certified.all()


def test_one_of_two_items_with_a_title_can_be_excluded(model, processor, prompts, trie):
    ranking = rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=11, excluded=[np.array([4])] * 5)
    assert (ranking.items == 5).any(axis=1).all()
    assert not (ranking.items == 4).any()


def test_result_does_not_depend_on_the_batch(model, processor, prompts, trie):
    together = rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=6, batch_size=5)
    alone = rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=6, batch_size=1)
    assert (together.items == alone.items).all()
    np.testing.assert_allclose(together.scores, alone.scores, atol=1e-5)


@pytest.mark.parametrize("k", [0, 13])
def test_k_outside_the_catalog(model, processor, prompts, trie, k):
    with pytest.raises(ValueError, match=f"`k` must lie between 1 and the catalog's 12 items, got {k}"):
        rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=k)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "beam", "num_beams": 4}, "`num_beams` must be at least k = 5, got 4"),
        ({"method": "best"}, "`method` must be one of 'exact', 'beam', 'all', got 'best'"),
        ({"num_beams": 10}, "`num_beams` and `length_penalty` belong to `method='beam'`"),
        ({"method": "all", "length_penalty": 1.0}, "`num_beams` and `length_penalty` belong to `method='beam'`"),
        ({"method": "beam", "max_expansions": 9}, "`max_expansions` belongs to `method='exact'`"),
        ({"max_expansions": -1}, "`max_expansions` must be at least 0, got -1"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"excluded": [np.array([1])]}, "`excluded` needs one array for each of 5 prompts, got 1"),
        ({"candidates": [np.array([1])]}, "`candidates` needs one array for each of 5 prompts, got 1"),
        ({"candidates": [np.array([], dtype=int)] * 5}, "Row 0 has no candidates: its array holds 0 items"),
    ],
)
def test_arguments_that_do_not_fit(model, processor, prompts, trie, arguments, message):
    with pytest.raises(ValueError, match=message):
        rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=5, **arguments)


@pytest.mark.parametrize("name", ["candidates", "excluded"])
@pytest.mark.parametrize("item", [-1, 12])
def test_indices_outside_the_catalog(model, processor, prompts, trie, name, item):
    arrays = [np.array([0, item]), *[np.array([0])] * 4]
    with pytest.raises(ValueError, match=f"Row 0 names item {item}; catalog indices lie between 0 and 11"):
        rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=1, **{name: arrays})


def test_no_exclusions_as_an_empty_list(model, processor, prompts, trie):
    expected = rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=3)
    ranking = rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=3, excluded=[[]] * 5)
    assert (ranking.items == expected.items).all()


def test_many_beams_are_read_in_several_forwards(model, processor, prompts, trie, monkeypatch):
    expected = rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=12, method="beam")
    monkeypatch.setattr(search_module, "_MOST_COLUMNS", 2)
    widths = []
    forward = model.model.forward
    monkeypatch.setattr(
        model.model, "forward", lambda **inputs: widths.append(inputs["input_ids"].shape[1]) or forward(**inputs)
    )
    ranking = rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=12, method="beam")
    assert (ranking.items == expected.items).all()
    assert max(widths[1:]) == 2  # after the prompts


def test_titles_of_another_tokenizer(model, processor, prompts):
    trie = build_trie(title_tokens([[1], [100_000]]), processor.prompt.end_of_turn_id)
    with pytest.raises(ValueError, match="The titles hold token 100000, but the model's vocabulary has"):
        rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=1)


def test_candidates(model, processor, prompts, trie, method):
    """Only candidates are ranked, of which the seen ones are left out too."""
    candidates = [np.array([1, 2, 4, 5, 9])] * 5
    excluded = [np.array([2])] * 5
    ranking = rank_catalog(
        model, trie, prompts, processor.prompt.pad_id, k=12, candidates=candidates, excluded=excluded, **method
    )
    for items, scores, prompt in zip(ranking.items, ranking.scores, prompts, strict=True):
        expected = brute_force(model, processor.title_tokens, processor.prompt.end_of_turn_id, prompt)
        assert sorted(items[:4].tolist()) == [1, 4, 5, 9]
        assert (items[4:] == -1).all()
        np.testing.assert_allclose(scores[:4], expected[items[:4]], atol=1e-4)
    assert ranking.certified.all()


def test_all_candidates_seen(model, processor, prompts, trie):
    with pytest.raises(ValueError, match="Row 0 has no item left to recommend: all 2 candidates are excluded"):
        rank_catalog(
            model, trie, prompts, processor.prompt.pad_id, k=1,
            candidates=[np.array([1, 2])] * 5, excluded=[np.array([1, 2, 3])] * 5,
        )  # fmt: skip


def test_scores_of_the_whole_catalog(model, processor, prompts, trie):
    scores = score_catalog(model, trie, prompts, processor.prompt.pad_id, batch_size=2)
    for row, prompt in enumerate(prompts):
        expected = brute_force(model, processor.title_tokens, processor.prompt.end_of_turn_id, prompt)
        np.testing.assert_allclose(scores[row], expected, atol=1e-4)


def test_length_penalty_ranks_what_was_found_by_score_per_token(model, processor, prompts, trie):
    plain = rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=12, method="all")
    ranking = rank_catalog(
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
    assert not ranking.certified.any()


def test_exact_reads_less_than_all(model, processor, prompts, trie):
    exact = rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=1)
    everything = rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=1, method="all")
    assert (exact.num_read < everything.num_read).all()
    longest = max(prompt.prompt_length for prompt in prompts)
    assert (exact.num_columns >= longest + exact.num_read).all()
    assert exact.scores == pytest.approx(everything.scores, abs=1e-4)


def test_too_long_for_the_context(model, processor, prompts, trie):
    model.config.text_config.max_position_embeddings = 40
    with pytest.raises(
        ValueError, match=r"takes \d+ tokens with a title, but the model reads at most 40.*max_history"
    ):
        rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=5)


def test_small_chunks_of_logits_change_nothing(model, processor, prompts, trie, monkeypatch):
    expected = rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=6)
    monkeypatch.setattr(tree_reader_module, "_LOGITS_AT_ONCE", 3 * model.lm_head.weight.shape[0])
    chunked = rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=6)
    assert (chunked.items == expected.items).all()
    np.testing.assert_allclose(chunked.scores, expected.scores, rtol=1e-6)


def test_nothing_left(model, processor, prompts, trie):
    excluded = [np.arange(12) if row == 2 else np.array([], dtype=int) for row in range(5)]
    with pytest.raises(ValueError, match="Row 2 has no item left"):
        rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=3, excluded=excluded)


def test_nan_scores(model, processor, prompts, trie):
    with torch.no_grad():
        model.lm_head.weight[:] = math.nan
    with pytest.raises(FloatingPointError, match="not numbers"):
        rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=3)


def test_single_item_catalog(model, tokenizer, processor):
    from patchrec_hf import BOOK_PROMPT, PatchRecommender, PatchRecProcessor

    lonely = PatchRecProcessor(tokenizer, Catalog.from_titles({3: "Emma"}), BOOK_PROMPT)
    assert [item.item_id for item in PatchRecommender(model, lonely).recommend(["Poems"], k=1)] == [3]
