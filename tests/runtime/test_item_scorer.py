"""The item scorer: nested or not, every prompt gets the scores of a forward of its own."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import ITEM_IDS
from hypothesis import given, settings
from hypothesis import strategies as st
from item_parts import item_model, item_processor, scores_by_hand
from tiers import scaled

from patchrec_hf import DropLayout, ItemPatchLayout, RandomPatchLayout, SessionPatchLayout, TextLayout
from patchrec_hf.runtime import best_items, best_products, item_scorer
from patchrec_hf.runtime import item_scorer as item_scorer_module
from patchrec_hf.runtime.allowed_items import ItemSet
from patchrec_hf.runtime.item_scorer import ItemScorer, nested_prompts, prompt_blocks
from patchrec_hf.runtime.title_tokens import tokenize_titles


LAYOUTS = {
    "patches": ItemPatchLayout(0),
    "item": ItemPatchLayout(2),
    "text": TextLayout(),
    "session": SessionPatchLayout(2),
    "random": RandomPatchLayout(0.5),
    "drop": DropLayout(0.4),
}


@pytest.fixture(scope="module")
def head_model():
    return item_model(residual_size=6)


def score(scorer, prompts, batch_size=3, nest=True):
    scores = np.full((len(prompts), len(scorer.processor.catalog)), np.nan, dtype=np.float32)
    for part in scorer.score(prompts, batch_size, nest):
        assert np.isnan(scores[part.rows]).all()  # each prompt once
        scores[part.rows] = part.scores
    return scores


def count_rows(model, run):
    """Calls `run`, and returns its result and the number of sequences of each forward."""
    sizes = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    try:
        return run(), sizes
    finally:
        hook.remove()


@pytest.mark.slow
@settings(max_examples=scaled(40))
@given(
    histories=st.lists(
        st.lists(st.integers(0, 3) | st.integers(0, len(ITEM_IDS) - 1), min_size=1, max_size=8),
        min_size=1,
        max_size=9,
    ),
    layout=st.sampled_from(list(LAYOUTS)),
    batch_size=st.integers(1, 4),
    separate=st.booleans(),
)
def test_every_prompt_has_the_scores_of_its_own_forward(
    head_model, processor, histories, layout, batch_size, separate
):
    processor = item_processor(processor, LAYOUTS[layout], separate_patches=separate)
    prompts = [processor.encode(np.array(history), seed=(0,)) for history in histories]
    scorer = ItemScorer(head_model, processor)
    expected = np.stack([scores_by_hand(head_model, processor, prompt) for prompt in prompts])
    for nest in (True, False):
        np.testing.assert_allclose(score(scorer, prompts, batch_size, nest), expected, rtol=1e-4, atol=2e-4)


def naive_groups(sequences):
    """The fewest groups in which each is the beginning of the next, by brute force over pairs of neighbors."""
    order = sorted(range(len(sequences)), key=lambda row: sequences[row])
    starts = [
        here
        for place, here in enumerate(order)
        if place == 0 or sequences[here][: len(sequences[order[place - 1]])] != sequences[order[place - 1]]
    ]
    return len(starts)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=10))
def test_groups_are_chains_of_beginnings(processor, histories):
    processor = item_processor(processor)
    prompts = []
    for history in histories:
        prompt = processor.encode(np.array(history))
        ids = prompt.input_ids[: prompt.history_end + 1]
        prompts.append(replace(prompt, input_ids=ids, prompt_length=len(ids)))
    groups = nested_prompts(prompts)
    assert sorted(row for rows in groups for row in rows) == list(range(len(histories)))
    for rows in groups:
        for shorter, longer in pairwise(rows):
            assert histories[longer][: len(histories[shorter])] == histories[shorter]
    assert len(groups) == naive_groups(histories)


def test_one_forward_reads_every_beginning_of_a_history(head_model, processor):
    processor = item_processor(processor)
    history = np.array([0, 5, 2, 7, 3, 8])
    prompts = [processor.encode(history[:length]) for length in (2, 6, 1, 4)] + [processor.encode(np.array([5, 0]))]
    scorer = ItemScorer(head_model, processor)
    nested, sizes = count_rows(head_model, lambda: score(scorer, prompts, batch_size=8))
    assert sizes == [2]
    alone, sizes = count_rows(head_model, lambda: score(scorer, prompts, batch_size=2, nest=False))
    assert sizes == [2, 2, 1]
    np.testing.assert_allclose(nested, alone, rtol=1e-4, atol=1e-4)


def test_blocks_of_prompts_are_bounded_by_number_and_by_tokens(processor, monkeypatch):
    prompts = [processor.encode(np.arange(length)) for length in (2, 8, 8, 2, 2, 2, 2)]
    monkeypatch.setattr(item_scorer_module, "PROMPTS_AT_ONCE", 3)
    blocks = list(prompt_blocks(prompts))
    assert [first for first, _ in blocks] == [0, 3, 6]
    assert [id(prompt) for _, block in blocks for prompt in block] == [*map(id, prompts)]
    sizes = [len(prompt.input_ids) + len(prompt.patch_token_ids) for prompt in prompts]
    monkeypatch.setattr(item_scorer_module, "TOKENS_AT_ONCE", sizes[1])
    assert [len(block) for _, block in prompt_blocks(prompts)] == [2, 1, 2, 2]
    assert list(prompt_blocks([])) == []


def test_a_patch_that_begins_like_another_one_is_not_it(head_model, processor):
    """A new item with the title of an old one has no residual: the old one's patch is more than the new one's."""
    processor = item_processor(processor)
    processor = processor.with_catalog(processor.catalog.with_items({99: "Emma"}))
    prompts = [processor.encode(np.array(history)) for history in ([3, 12], [3, 0], [3, 0, 5])]
    expected = np.stack([scores_by_hand(head_model, processor, prompt) for prompt in prompts])
    assert np.abs(expected[0] - expected[1]).max() > 0.1
    np.testing.assert_allclose(score(ItemScorer(head_model, processor), prompts), expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("at_once", [1, 64, 2**23])
@pytest.mark.parametrize("title_similarity", [False, True])
def test_the_best_items_are_those_of_all_scores(processor, monkeypatch, at_once, title_similarity):
    """Of the whole catalog without some items, and of few candidates; whatever number of products is in memory."""
    for module in (best_items, best_products):
        monkeypatch.setattr(module, "_NUMBERS_AT_ONCE" if module is best_items else "_PRODUCTS_AT_ONCE", at_once)
    model, processor = item_model(title_similarity=title_similarity), item_processor(processor)
    histories = [[0, 5, 2], [7, 3], [1], [4, 4, 9], [10, 11], [6, 2]]
    prompts = [processor.encode(np.array(history)) for history in histories]
    sets = [ItemSet(np.array(items), is_rest) for items, is_rest in [
        ([0, 2, 5], True), ([3, 7], False), ([1], True), ([0, 1, 2, 6, 8], False), ([4], False), ([11], True),
    ]]  # fmt: skip
    scorer, k = ItemScorer(model, processor), 4
    expected = np.stack([scores_by_hand(model, processor, prompt) for prompt in prompts])
    np.testing.assert_allclose(score(scorer, prompts), expected, rtol=1e-4, atol=5e-4)
    done = []
    for rows, items, scores in scorer.best(prompts, k, sets, batch_size=3):
        done += rows.tolist()
        for row, found, values in zip(rows.tolist(), items.tolist(), scores, strict=True):
            allowed = np.flatnonzero(sets[row].holds(np.arange(12)))
            best = allowed[np.argsort(-expected[row, allowed], kind="stable")][:k].tolist()
            assert found == best + [-1] * (k - len(best))
            np.testing.assert_allclose(values[: len(best)], expected[row, best], rtol=1e-4, atol=5e-4)
            assert np.isneginf(values[len(best) :]).all()
    assert sorted(done) == list(range(6))


def test_seen_items_get_the_seen_weight_once(processor):
    model, processor = item_model(trained=False, title_similarity=False), item_processor(processor)
    prompts = [processor.encode(np.array([4, 2, 4])), processor.encode(np.array([7] * 3 + [1] * 8))]
    before = score(ItemScorer(model, processor), prompts)
    with torch.no_grad():
        model.item_head.feature_weights.weight.fill_(0.3)
    added = score(ItemScorer(model, processor), prompts) - before
    expected = np.zeros((2, 12))
    expected[0, [4, 2]] = 3
    expected[1, 1] = 3  # item 7 is further back than `max_history`
    np.testing.assert_allclose(added, expected, atol=1e-5)


def test_similar_titles_add_to_scores(processor):
    """Scaled by the second weight, and also for a history that holds a title outside the catalog."""
    model, processor = item_model(title_similarity=True), item_processor(processor)
    titles = processor.title_tokens.extended(tokenize_titles(["Four Poems"], processor.tokenizer))
    prompts = [processor.encode(np.array(history), titles=titles) for history in ([6, 2], [6, 2, 12], [12, 8], [0])]
    expected = np.stack([scores_by_hand(model, processor, prompt) for prompt in prompts])
    scores = score(ItemScorer(model, processor), prompts)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=5e-4)
    with torch.no_grad():
        model.item_head.feature_weights.weight[1] = 0
    changed = np.abs(score(ItemScorer(model, processor), prompts) - scores) > 1e-3
    assert changed.any()
    assert not changed.all()


def test_item_vectors_are_computed_once(head_model, processor, monkeypatch):
    calls = []
    vectors_of = item_scorer.padded_item_vectors
    monkeypatch.setattr(item_scorer, "padded_item_vectors", lambda *args: calls.append(args) or vectors_of(*args))
    processor = item_processor(processor)
    scorer = ItemScorer(head_model, processor)
    assert calls == []
    prompts = [processor.encode(np.array([item, 3])) for item in range(5)]
    score(scorer, prompts, batch_size=1)
    score(scorer, prompts)
    assert len(calls) == 1
    assert scorer.item_vectors.shape == (12, 33)
    assert not scorer.item_vectors.requires_grad


@pytest.mark.parametrize(
    ("where", "message"),
    [("residual", "item with catalog index 7 is not finite"), ("user", "The item head's scores hold nan")],
)
def test_scores_that_are_not_numbers(processor, where, message):
    model, processor = item_model(), item_processor(processor)
    with torch.no_grad():
        parts = {"residual": model.model.item_residual.weight, "user": model.item_head.user_vectors.weight}
        parts[where][7, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=message):
        score(ItemScorer(model, processor), [processor.encode(np.array([1, 2]))])


def test_a_head_is_needed(model, processor):
    with pytest.raises(ValueError, match=r"`method='item'` needs a model with an item head"):
        ItemScorer(model, processor)
    with pytest.raises(ValueError, match="but the processor writes them for 0"):
        ItemScorer(item_model(), processor)


def test_layouts_that_leave_out_the_newest_item(head_model, processor):
    processor = item_processor(processor)

    prompt = processor.encode(np.array([1, 2, 3]), layout=lambda num_items, seed: [("item_patch", 0, num_items - 1)])
    with pytest.raises(ValueError, match="layout left out the newest item"):
        score(ItemScorer(head_model, processor), [processor.encode(np.array([1, 2])), prompt])


def test_longer_than_the_models_context(processor):
    """What stands after the history is not read, and so does not count."""
    model, processor = item_model(), item_processor(processor)
    prompt = processor.encode(np.array([1, 2, 3]))
    model.config.text_config.max_position_embeddings = prompt.history_end + 1
    assert np.isfinite(score(ItemScorer(model, processor), [prompt])).all()
    model.config.text_config.max_position_embeddings = prompt.history_end
    with pytest.raises(ValueError, match=rf"takes {prompt.history_end + 1} tokens, .* at most {prompt.history_end}\."):
        score(ItemScorer(model, processor), [prompt])
