"""Rankings by an index: with a flat one, they are the rankings of the whole catalog, whatever is left out."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from item_indexes import VectorScorer, all_scores, best_by_hand, count_searches, random_users, random_vectors
from item_parts import table_of

import patchrec_hf.runtime.index_ranking as index_ranking_module
from patchrec_hf.runtime.allowed_items import AllowedRows, ItemSet
from patchrec_hf.runtime.index_ranking import IndexRanker
from patchrec_hf.runtime.index_settings import IndexSettings
from patchrec_hf.runtime.item_index import ItemIndex


pytest.importorskip("faiss", reason="an item index needs the extra `index`")


@pytest.fixture(autouse=True)
def searched_to_the_end(monkeypatch):
    count_searches(monkeypatch)


@st.composite
def cases(draw, whole_numbers=False):
    num_items, num_users = draw(st.integers(2, 60)), draw(st.integers(1, 4))
    items = st.integers(0, num_items - 1)

    def lists(least, most):
        drawn = (draw(st.lists(items, min_size=least, max_size=most)) for _ in range(num_users))
        return [np.array(items, dtype=np.int64) for items in drawn]

    excluded = lists(0, draw(st.sampled_from([min(3, num_items - 1), num_items - 1]))) if draw(st.booleans()) else None
    candidates = lists(1, 8) if draw(st.booleans()) else None
    if candidates is not None and excluded is not None:  # something is left
        excluded = [np.setdiff1d(items, some[:1]) for items, some in zip(excluded, candidates, strict=True)]
    neighbors = None
    if not whole_numbers and draw(st.booleans()):
        neighbors = table_of(np.eye(num_items, k=1) + np.eye(num_items, k=-5), np.arange(num_items))
    vectors = random_vectors(
        num_items, seed=draw(st.integers(0, 99)), num_distinct=draw(st.sampled_from([None, 1, 5]))
    )
    users = random_users(num_users, seed=draw(st.integers(0, 99)))
    if whole_numbers:
        vectors, users = np.round(3 * vectors), users.round()
    scorer = VectorScorer(
        vectors,
        draw(st.sampled_from([0.0, 3.0, -3.0])),
        draw(st.sampled_from([0.0, 2.0, -2.0])),
        neighbors,
        draw(st.sampled_from([np.arange(num_items), np.arange(num_items) // 3, np.zeros(num_items, dtype=np.int64)])),
    )
    return scorer, users, lists(1, 6), draw(st.integers(1, num_items)), candidates, excluded, draw(st.booleans())


def rounding_of(scorer, users, histories):
    """
    By how much scores may differ at one place of a user's lists, `(n, 1)`, if these are made of sums in another order.
    A sum of n products differs from the true one by n / 2 roundings of its longest possible value, and each feature
    that is added by half a rounding. Both lists may differ from the true one, by the scores of two items.
    """
    longest = float(scorer.item_vectors.norm(dim=1).max())
    products = users.norm(dim=1, keepdim=True).numpy() * longest
    features = sum(np.abs(addend.values).max(initial=0) for addend in scorer.features(histories))
    return 2 * np.finfo(np.float32).eps * (users.shape[1] * products + 2 * (products + features))


def check_lists(case, items, expected, rows=slice(None)):
    """At every place stands the expected item, or one whose score differs from its score by rounding alone."""
    scorer, users, histories, _, candidates, excluded, unique_titles = case
    allowed = AllowedRows(scorer.processor.trie, len(users), candidates, excluded)
    every, rounding = all_scores(scorer, users, histories), rounding_of(scorer, users, histories)
    for row in np.arange(len(users))[rows]:
        found, wanted = items[row][items[row] >= 0], expected[row][expected[row] >= 0]
        assert len(found) == len(wanted)
        is_other = found != wanted
        assert (np.abs(every[row, found] - every[row, wanted])[is_other] <= rounding[row]).all()
        assert len(np.unique(scorer.processor.trie.leaf_of_item[found] if unique_titles else found)) == len(found)
        assert allowed[row].holds(found).all()


@given(cases())
def test_a_flat_index_changes_nothing_but_the_order_of_sums(case):
    scorer, users, histories, k, candidates, excluded, unique_titles = case
    ranker = IndexRanker(scorer, ItemIndex.build(scorer.vectors_in_memory), k, unique_titles=unique_titles)
    allowed = AllowedRows(scorer.processor.trie, len(users), candidates, excluded)
    items, scores, is_exact = ranker.best(users, histories, allowed)
    assert is_exact.all()
    check_lists(case, items, best_by_hand(scorer, users, histories, k, candidates, excluded, unique_titles))
    every, rounding = all_scores(scorer, users, histories), rounding_of(scorer, users, histories)
    is_item = items >= 0
    assert (np.abs(scores - np.take_along_axis(every, items, axis=1)) <= rounding)[is_item].all()
    assert (scores[~is_item] == -np.inf).all()


@given(cases(whole_numbers=True))
def test_a_flat_index_changes_nothing_where_nothing_is_rounded(case):
    """Equal scores, of which whole numbers make many, are listed in catalog order."""
    scorer, users, histories, k, candidates, excluded, unique_titles = case
    ranker = IndexRanker(scorer, ItemIndex.build(scorer.vectors_in_memory), k, unique_titles=unique_titles)
    allowed = AllowedRows(scorer.processor.trie, len(users), candidates, excluded)
    items, scores, _ = ranker.best(users, histories, allowed)
    expected = best_by_hand(scorer, users, histories, k, candidates, excluded, unique_titles)
    assert items.tolist() == expected.tolist()
    every = np.take_along_axis(all_scores(scorer, users, histories), items, axis=1)
    assert scores.tolist() == np.where(items >= 0, every, -np.inf).tolist()


@given(cases(), st.sampled_from(["ivf", "ivfpq", "hnsw"]))
def test_an_approximate_index_keeps_the_rules(case, kind):
    scorer, users, histories, k, candidates, excluded, unique_titles = case
    num_items = len(scorer.vectors_in_memory)
    kind = "ivf" if kind == "ivfpq" and num_items < 16 else kind
    poor = {"ef_search": 1} if kind == "hnsw" else {"nlist": 1 + num_items // 8, "nprobe": 1}
    index = ItemIndex.build(scorer.vectors_in_memory, IndexSettings(kind, **poor))
    ranker = IndexRanker(scorer, index, k, unique_titles=unique_titles)
    allowed = AllowedRows(scorer.processor.trie, len(users), candidates, excluded)
    items, scores, is_exact = ranker.best(users, histories, allowed)
    expected = best_by_hand(scorer, users, histories, k, candidates, excluded, unique_titles)
    assert ((items >= 0).sum(axis=1) == (expected >= 0).sum(axis=1)).all()  # never fewer
    check_lists(case, items, expected, is_exact)
    every = all_scores(scorer, users, histories)
    for row, found in enumerate(items):
        kept = found[found >= 0]
        assert len(set(kept)) == len(kept)
        assert excluded is None or not set(kept) & set(excluded[row].tolist())
        np.testing.assert_allclose(scores[row, found >= 0], every[row, kept], rtol=1e-5, atol=1e-5)
    assert (scores[:, 1:] <= scores[:, :-1]).all()


@pytest.mark.parametrize("kind", ["ivf", "ivfpq", "hnsw"])
def test_items_of_large_biases_are_not_missed(kind):
    """The most popular item is everybody's best one, but lists, codes and links are made by all entries alike."""
    vectors, users = random_vectors(6_000, size=33), random_users(40, size=33)
    vectors[:, -1] = np.random.default_rng(2).exponential(size=6_000)  # as the logarithm of popularity
    vectors[4_321, -1] = 30
    scorer, nobody = VectorScorer(vectors), [np.empty(0, dtype=np.int64)] * 40
    index = ItemIndex.build(vectors, IndexSettings(kind), 8.0)
    items, _, is_exact = IndexRanker(scorer, index, 20).best(users, nobody, [ItemSet()] * 40)
    assert (items[:, 0] == 4_321).all()
    assert not is_exact.any()
    expected = best_by_hand(scorer, users, nobody, 20)
    assert np.mean([np.isin(best, found).mean() for best, found in zip(expected, items, strict=True)]) > 0.95


class CountingIndex(ItemIndex):
    """Remembers how many items each search was asked for."""

    def search(self, users, num):
        self.widths = [*getattr(self, "widths", []), num]
        return super().search(users, num)


def test_a_neighborhood_that_was_seen_is_passed(monkeypatch):
    """The user's nearest items are all seen, so the first search finds none that may be recommended."""
    vectors = random_vectors(300)
    vectors[:, -1] = np.linspace(5, 0, 300)
    scorer, users = VectorScorer(vectors), torch.tensor([[0.0, 0, 0, 0, 0, 1]])
    seen = np.arange(40)
    for settings in (IndexSettings(), IndexSettings("hnsw", m=16, ef_construction=200, ef_search=300)):
        index = CountingIndex.build(vectors, settings)
        ranker = IndexRanker(scorer, index, 4, num_candidates=8)
        items, _, _ = ranker.best(users, [seen], [ItemSet(seen)])
        assert items.tolist() == [[40, 41, 42, 43]]
        assert index.widths == [8, 32, 128]
        # One item more than is asked for shows that no other one can be among them.
        monkeypatch.setattr(index_ranking_module, "_LEAST_EXTRA", 1)
        unbound = CountingIndex.build(vectors, settings)
        assert IndexRanker(scorer, unbound, 4).best(users, [seen], [ItemSet(seen)])[0].tolist() == items.tolist()
        # Four items, the next one, which shows whether they end in a tie, one more, and the exclusions.
        assert unbound.widths == [46]


def test_long_lists_of_excluded_items_take_no_memory_of_their_own():
    """Many users share a list of most of the catalog, which is not copied for each of them."""
    num_items, num_users = 20_000, 300
    vectors = random_vectors(num_items)
    vectors[:, -1] = np.linspace(500, 0, num_items)
    scorer, users = VectorScorer(vectors), torch.tensor([[0.0, 0, 0, 0, 0, 1]] * num_users)
    left_out = np.arange(2, num_items - 100)
    ranker = IndexRanker(scorer, ItemIndex.build(vectors), 1, num_candidates=8)
    tracemalloc.start()
    try:
        items, _, is_exact = ranker.best(users, [np.arange(1)] * num_users, [ItemSet(left_out)] * num_users)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (items == 0).all()
    assert is_exact.all()
    assert peak < num_users * left_out.nbytes / 4


def test_features_lift_items_that_the_index_does_not_propose():
    vectors = random_vectors(100)
    vectors[:, -1] = np.linspace(5, 0, 100)
    users, history = torch.tensor([[0.0, 0, 0, 0, 0, 1]]), np.array([90])
    neighbors = table_of(np.eye(100, k=7), np.arange(100))  # item 90 recommends item 97
    scorer = VectorScorer(vectors, 20.0, 20.0, neighbors)
    items, _, _ = IndexRanker(scorer, ItemIndex.build(vectors), 3).best(users, [history], [ItemSet()])
    assert items.tolist() == [[97, 90, 0]]


def test_only_users_whose_lists_are_open_are_searched_again():
    vectors = random_vectors(300)
    vectors[:, -1] = np.linspace(5, 0, 300)
    scorer, users = VectorScorer(vectors), torch.tensor([[0.0, 0, 0, 0, 0, 1]] * 3)
    index = CountingIndex.build(vectors)
    excluded = [np.arange(0), np.arange(20), np.arange(299)]
    ranker = IndexRanker(scorer, index, 2, num_candidates=4)
    items, _, is_exact = ranker.best(users, [np.arange(1)] * 3, [ItemSet(some) for some in excluded])
    assert items.tolist() == [[0, 1], [20, 21], [299, -1]]
    assert index.widths == [4, 16, 64, 256]
    assert is_exact.all()


def test_bad_numbers_are_named():
    scorer, users = VectorScorer(random_vectors(20)), random_users(2)
    index = ItemIndex.build(scorer.vectors_in_memory)
    users[1, 2] = float("nan")
    with pytest.raises(FloatingPointError, match="user vectors hold nan"):
        IndexRanker(scorer, index, 2).best(users, [np.arange(2)] * 2, [ItemSet()] * 2)
