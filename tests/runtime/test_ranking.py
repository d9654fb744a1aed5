"""Rankings of the catalog: what they hold, and which arguments they take."""

import numpy as np
import pytest
from brute_force import brute_force
from item_parts import item_model, item_processor, scores_by_hand
from rankers import rank, score
from tiers import first_fast
from tiny_parts import title_tokens

import patchrec_hf.runtime.item_scorer as item_scorer_module
import patchrec_hf.runtime.read_groups as read_groups_module
from patchrec_hf import Catalog, CatalogRanker, RankingConfig
from patchrec_hf.runtime.lazy_sequence import LazySequence
from patchrec_hf.runtime.ranking import default_method
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


def counted(model, run):
    """Calls `run`. Returns its result, the number of positions that the model read, with padding, and of forwards."""
    sizes = []
    hook = model.model.register_forward_pre_hook(
        lambda _, inputs, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    try:
        return run(), sum(sizes), len(sizes)
    finally:
        hook.remove()


# Some users have all items to choose from, and some only one or two.
UNEQUAL = [np.arange(12), np.array([3]), np.arange(0, 12, 2), np.array([7, 8]), np.arange(12)]


@pytest.mark.parametrize("positions_per_forward", first_fast([0, 4, 32, 1000]))
@pytest.mark.parametrize("batch_size", first_fast([2, 4, 5]))
@pytest.mark.parametrize("settings", first_fast([{}, {"max_title_tokens": 3}, {"method": "beam"}]))
def test_a_batch_of_unequal_users_reads_no_more_than_one_by_one(
    model, processor, prompts, trie, monkeypatch, positions_per_forward, batch_size, settings
):
    """A forward costs as much as some positions. Where it costs nothing, no position is padding."""
    monkeypatch.setattr(read_groups_module, "_POSITIONS_PER_FORWARD", positions_per_forward)
    monkeypatch.setattr(read_groups_module, "_KEYS_PER_WIDTH", 10**9)  # count positions only

    def run(batch_size):
        return rank(
            model, trie, prompts, processor.prompt.pad_id, UNEQUAL, k=2, batch_size=batch_size, **settings
        )  # fmt: skip

    alone, positions_alone, forwards_alone = counted(model, lambda: run(1))
    together, positions, forwards = counted(model, lambda: run(batch_size))
    assert (together.items == alone.items).all()
    np.testing.assert_allclose(together.scores, alone.scores, atol=1e-5)
    for name in ("is_exact", "tokens_read", "kv_length"):
        assert (getattr(together, name) == getattr(alone, name)).all(), name
    assert forwards <= forwards_alone
    assert positions + positions_per_forward * forwards <= positions_alone + positions_per_forward * forwards_alone
    if positions_per_forward == 0:
        assert positions == positions_alone
    if positions_per_forward == 1000:
        assert forwards < forwards_alone


@pytest.mark.parametrize("batch_size", first_fast([1, 2, 8]))
def test_prompts_are_made_once_when_there_is_room(model, processor, prompts, trie, method, batch_size):
    made = []

    def make(row):
        made.append(row)
        return prompts[row]

    seen = []
    hook = model.model.register_forward_pre_hook(lambda *_: seen.append(len(made)))
    lazy = rank(model, trie, LazySequence(5, make), processor.prompt.pad_id, k=3, batch_size=batch_size, **method)
    hook.remove()
    assert made == [0, 1, 2, 3, 4]
    assert seen[0] == min(batch_size, 5)  # the model reads before the other prompts are made
    expected = rank(model, trie, prompts, processor.prompt.pad_id, k=3, batch_size=batch_size, **method)
    assert (lazy.items == expected.items).all()
    np.testing.assert_allclose(lazy.scores, expected.scores, atol=1e-6)


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
        (
            {"method": "best"},
            "must be one of 'exact', 'beam', 'all', 'item', 'fusion', 'diverse', got 'best'",
        ),
        ({"num_beams": 10}, "`num_beams` belongs to `method='beam'`, got `method='exact'`"),
        ({"length_penalty": float("nan")}, "`length_penalty` must be a finite number, got nan"),
        ({"length_penalty": 900.0}, r"a number that titles of \d+ tokens can be raised to, got 900.0. Usual values"),
        ({"length_penalty": -900.0}, r"a number that titles of \d+ tokens can be raised to, got -900.0"),
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
    with pytest.raises(
        ValueError, match=r"no item left to recommend: all 2 candidates are excluded.*exclude_seen=False"
    ):
        rank(
            model, trie, prompts, processor.prompt.pad_id, k=1,
            candidates=[np.array([1, 2])] * 5, excluded=[np.array([1, 2, 3])] * 5,
        )  # fmt: skip


def test_scores_of_the_whole_catalog(model, processor, prompts, trie):
    scores = score(model, trie, prompts, processor.prompt.pad_id, batch_size=2)
    for row, prompt in enumerate(prompts):
        expected = brute_force(model, processor.title_tokens, processor.prompt.end_of_turn_id, prompt)
        np.testing.assert_allclose(scores[row], expected, atol=1e-4)


def test_length_penalty_ranks_by_score_per_token(model, processor, prompts, trie, method):
    plain = rank(model, trie, prompts, processor.prompt.pad_id, k=12, method="all")
    ranking = rank(model, trie, prompts, processor.prompt.pad_id, k=12, length_penalty=1.0, **method)
    num_tokens = processor.title_tokens.lengths + 1
    for items, scores, plain_items, plain_scores in zip(
        ranking.items, ranking.scores, plain.items, plain.scores, strict=True
    ):
        by_item = dict(zip(plain_items.tolist(), plain_scores.tolist(), strict=True))
        expected = [by_item[item] / num_tokens[item] for item in items.tolist()]
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        assert (np.diff(scores) <= 0).all()
    assert ranking.is_exact.all()


def test_scores_of_the_whole_catalog_by_length(model, processor, prompts, trie):
    config = RankingConfig(k=1, length_penalty=0.5)
    scores = CatalogRanker.from_trie(model, trie, processor.prompt.pad_id, config).score(prompts)
    sums = score(model, trie, prompts, processor.prompt.pad_id)
    np.testing.assert_allclose(scores, sums / np.sqrt(processor.title_tokens.lengths + 1), rtol=1e-5)


def test_a_bounded_search_by_length_is_certified_where_it_is_exact(model, processor, prompts, trie):
    expected = rank(model, trie, prompts, processor.prompt.pad_id, k=3, length_penalty=1.0)
    shares = []
    for max_title_tokens in (0, 4, 1000):
        ranking = rank(
            model, trie, prompts, processor.prompt.pad_id, k=3, length_penalty=1.0, max_title_tokens=max_title_tokens
        )
        assert (ranking.items[ranking.is_exact] == expected.items[ranking.is_exact]).all()
        shares.append(ranking.is_exact.mean())
    assert shares[0] < shares[-1] == 1


def test_too_long_for_the_context(model, processor, prompts, trie):
    model.config.text_config.max_position_embeddings = 40
    message = r"row 0 takes \d+ tokens with a title, but the model reads at most 40.*max_history"
    with pytest.raises(ValueError, match=message):
        rank(model, trie, prompts, processor.prompt.pad_id, k=5)


def test_a_prompt_that_is_too_long_is_named(model, processor, trie):
    """A list is checked before the model reads anything; a lazy sequence, when its prompt is made."""
    prompts = [processor.encode(np.arange(3)) for _ in range(3)]
    prompts.insert(2, processor.encode(np.arange(8)))
    model.config.text_config.max_position_embeddings = prompts[0].prompt_length + trie.max_depth

    def run(prompts):
        with pytest.raises(ValueError, match=r"The prompt of row 2 takes \d+ tokens with a title"):
            rank(model, trie, prompts, processor.prompt.pad_id, k=5, batch_size=1)

    assert counted(model, lambda: run(prompts))[2] == 0
    assert counted(model, lambda: run(LazySequence(4, prompts.__getitem__)))[2] > 0


def test_a_title_that_is_too_long_is_named(model, processor):
    titled = processor.with_catalog(processor.catalog.with_items({99: "A long title " * 40}))
    prompt = titled.encode(np.arange(3))
    model.config.text_config.max_position_embeddings = prompt.prompt_length + titled.trie.max_depth - 1
    with pytest.raises(ValueError, match=r"longest title \(item 99, 'A long title .*…'\)\. Shorten it, or leave"):
        CatalogRanker(model, titled, RankingConfig(k=5)).rank([prompt])
    with pytest.raises(ValueError, match=r"Most of them are the longest title\. Shorten it"):
        rank(model, titled.trie, [prompt], titled.prompt.pad_id, k=5)


def test_nothing_left(model, processor, prompts, trie):
    excluded = [np.arange(12) if row == 2 else np.array([], dtype=int) for row in range(5)]
    with pytest.raises(ValueError, match="Row 2 has no item left"):
        rank(model, trie, prompts, processor.prompt.pad_id, k=3, excluded=excluded)


def test_single_item_catalog(model, tokenizer):
    from patchrec_hf import BOOK_PROMPT, PatchRecommender, PatchRecProcessor

    lonely = PatchRecProcessor(tokenizer, Catalog.from_titles({3: "Emma"}), BOOK_PROMPT)
    assert [item.item_id for item in PatchRecommender(model, lonely).recommend(["Poems"], k=1)] == [3]


def test_a_configuration_of_another_kind(model, processor):
    with pytest.raises(TypeError, match="must be a `RankingConfig`"):
        CatalogRanker(model, processor, {"k": 3})


@pytest.mark.parametrize("at_once", [1, 2, 4096])
def test_lazy_prompts_of_the_item_head(head, processor, monkeypatch, at_once):
    monkeypatch.setattr(item_scorer_module, "PROMPTS_AT_ONCE", at_once)
    writes, made = item_processor(processor), []
    prompts = [writes.encode(np.array(history)) for history in HISTORIES]

    def make(row):
        made.append(row)
        return prompts[row]

    ranker = CatalogRanker(head, writes, RankingConfig(k=12, method="item", batch_size=2))
    lazy, expected = ranker.rank(LazySequence(5, make)), ranker.rank(prompts)
    assert made == [0, 1, 2, 3, 4]
    assert (lazy.items == expected.items).all()
    assert lazy.kv_length.tolist() == [prompt.history_end + 1 for prompt in prompts]
    np.testing.assert_allclose(lazy.scores, expected.scores, atol=1e-4)


HISTORIES = [[0, 1], [0, 1, 5, 2], [7], [3, 3, 10, 4, 4], [0, 1, 5, 9]]


@pytest.fixture
def head():
    return item_model(residual_size=6)


@pytest.fixture
def items_ranked(head, processor):
    """Ranks by the item head. Returns the ranking, and the scores by brute force."""

    def run(candidates=None, excluded=None, **settings):
        writes = item_processor(processor)
        prompts = [writes.encode(np.array(history)) for history in HISTORIES]
        ranker = CatalogRanker(head, writes, RankingConfig(method="item", **settings))
        expected = np.stack([scores_by_hand(head, writes, prompt) for prompt in prompts])
        return ranker.rank(prompts, candidates, excluded), ranker.score(prompts), expected, prompts

    return run


@pytest.mark.parametrize("batch_size", [1, 2, 8])
@pytest.mark.parametrize("synchronize", [False, True])
def test_items_are_ranked_by_their_scores(items_ranked, batch_size, synchronize):
    ranking, scores, expected, prompts = items_ranked(k=12, batch_size=batch_size, synchronize=synchronize)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=2e-4)
    assert ranking.items.tolist() == np.argsort(-expected, axis=1, kind="stable").tolist()
    np.testing.assert_allclose(ranking.scores, np.take_along_axis(scores, ranking.items, axis=1), rtol=1e-5)
    assert ranking.is_exact.all()
    assert not ranking.tokens_read.any()
    assert ranking.kv_length.tolist() == [prompt.history_end + 1 for prompt in prompts]


def test_ranked_items_are_candidates_that_are_not_excluded(items_ranked):
    candidates = [np.array(items) for items in ([2, 3, 11, 8], [5], range(12), [9, 0, 1], range(4, 10))]
    excluded = [np.array(items, dtype=np.int64) for items in ([3], [], range(11), [9], [4, 11])]
    ranking, _, expected, _ = items_ranked(candidates, excluded, k=4, batch_size=2)
    for row, scores in enumerate(expected):
        allowed = sorted(set(candidates[row].tolist()) - set(excluded[row].tolist()), key=lambda item: -scores[item])
        assert ranking.items[row].tolist() == [*allowed, -1, -1, -1, -1][:4]
        assert np.isneginf(ranking.scores[row]).tolist() == [item < 0 for item in ranking.items[row]]


def test_equal_scores_are_in_catalog_order(processor):
    """Without training, both items called "Poems" have one vector."""
    model, writes = item_model(trained=False), item_processor(processor)
    ranker = CatalogRanker(model, writes, RankingConfig(k=12, method="item"))
    prompts = [writes.encode(np.array(history)) for history in HISTORIES]
    ranking, scores = ranker.rank(prompts), ranker.score(prompts)
    np.testing.assert_array_equal(scores[:, 4], scores[:, 5])
    for items in ranking.items.tolist():
        assert items.index(5) == items.index(4) + 1


def test_rankings_by_items_need_a_head_and_a_processor(model, head, processor, trie):
    config = RankingConfig(k=3, method="item")
    with pytest.raises(ValueError, match="needs a model with an item head"):
        CatalogRanker(model, processor, config)
    with pytest.raises(ValueError, match=r"'item' needs the items of a processor: use `CatalogRanker\("):
        CatalogRanker.from_trie(head, trie, processor.prompt.pad_id, config)
    ranker = CatalogRanker(head, item_processor(processor), config)
    for run in (ranker.rank, ranker.score):
        with pytest.raises(ValueError, match="nothing to rank"):
            run([])
    with pytest.raises(ValueError, match="`num_beams` belongs to `method='beam'`, got `method='item'`"):
        RankingConfig(method="item", num_beams=40)
    with pytest.raises(ValueError, match="`length_penalty` belongs to methods that rank by titles"):
        RankingConfig(method="item", length_penalty=1.0)
    with pytest.raises(ValueError, match="`max_title_tokens` belongs to `method='exact'`"):
        RankingConfig(method="item", max_title_tokens=5)


def test_the_head_decides_how_a_model_ranks(model, head, processor):
    assert (default_method(model, processor), default_method(head, processor)) == ("exact", "item")


def test_a_model_with_a_head_still_ranks_by_titles(head, processor):
    """The head adds nothing to the scores of titles, but residuals are a part of the prompt."""
    writes = item_processor(processor)
    prompts = [writes.encode(np.array(history)) for history in HISTORIES]
    ranking = CatalogRanker(head, writes, RankingConfig(k=12)).rank(prompts)
    for prompt, items, scores in zip(prompts, ranking.items, ranking.scores, strict=True):
        expected = brute_force(head, writes.title_tokens, writes.prompt.end_of_turn_id, prompt)
        np.testing.assert_allclose(scores, expected[items], atol=1e-4)
