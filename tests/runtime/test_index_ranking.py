"""Rankings by an index: with a flat one, they are the rankings of the whole catalog, whatever is left out."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from item_indexes import VectorScorer, all_scores, best_by_hand, random_users, random_vectors
from item_parts import table_of

import patchrec_hf.runtime.index_ranking as index_ranking_module
from patchrec_hf.runtime.allowed_items import AllowedRows, ItemSet
from patchrec_hf.runtime.index_ranking import IndexRanker, _Pairs
from patchrec_hf.runtime.index_settings import IndexSettings
from patchrec_hf.runtime.item_index import ItemIndex


pytest.importorskip("faiss", reason="an item index needs the extra `index`")


@pytest.fixture(autouse=True)
def searched_to_the_end(monkeypatch):
    """Small catalogs are searched too, instead of being scored as a whole."""
    monkeypatch.setattr(index_ranking_module, "_LARGEST_SHARE", 1.0)
    monkeypatch.setattr(index_ranking_module, "_LEAST_EXTRA", 0)


@st.composite
def cases(draw):
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
    if draw(st.booleans()):
        neighbors = table_of(np.eye(num_items, k=1) + np.eye(num_items, k=-5), np.arange(num_items))
    scorer = VectorScorer(
        random_vectors(num_items, seed=draw(st.integers(0, 99)), num_distinct=draw(st.sampled_from([None, 1, 5]))),
        draw(st.sampled_from([0.0, 3.0, -3.0])),
        draw(st.sampled_from([0.0, 2.0, -2.0])),
        neighbors,
        draw(st.sampled_from([np.arange(num_items), np.arange(num_items) // 3, np.zeros(num_items, dtype=np.int64)])),
    )
    users = random_users(num_users, seed=draw(st.integers(0, 99)))
    return scorer, users, lists(1, 6), draw(st.integers(1, num_items)), candidates, excluded, draw(st.booleans())


@given(cases())
def test_a_flat_index_changes_nothing(case):
    scorer, users, histories, k, candidates, excluded, unique_titles = case
    index = ItemIndex.build(scorer.vectors_in_memory)
    ranker = IndexRanker(scorer, index, k, unique_titles=unique_titles)
    allowed = AllowedRows(scorer.processor.trie, len(users), candidates, excluded)
    items, scores, is_exact = ranker.best(users, histories, allowed, candidates is not None)
    expected = best_by_hand(scorer, users, histories, k, candidates, excluded, unique_titles)
    assert is_exact.all()
    every = all_scores(scorer, users, histories)
    rows, places = np.nonzero(items >= 0)
    # Two items may swap places only where their scores are all but equal.
    assert ((items >= 0) == (expected >= 0)).all()
    np.testing.assert_allclose(
        every[rows, items[rows, places]], every[rows, expected[rows, places]], rtol=1e-5, atol=1e-5
    )
    assert len(set(zip(rows.tolist(), items[rows, places].tolist(), strict=True))) == len(rows)
    np.testing.assert_allclose(scores[rows, places], every[rows, items[rows, places]], rtol=1e-5, atol=1e-5)
    assert (scores[items < 0] == -np.inf).all()


@given(cases())
def test_an_approximate_index_keeps_the_rules(case):
    scorer, users, histories, k, candidates, excluded, unique_titles = case
    index = ItemIndex.build(scorer.vectors_in_memory, IndexSettings("ivf", nlist=1 + scorer.item_vectors.shape[0] // 8,
                                                                   nprobe=1))  # fmt: skip
    ranker = IndexRanker(scorer, index, k, unique_titles=unique_titles)
    allowed = AllowedRows(scorer.processor.trie, len(users), candidates, excluded)
    items, scores, is_exact = ranker.best(users, histories, allowed)
    expected = best_by_hand(scorer, users, histories, k, candidates, excluded, unique_titles)
    assert ((items >= 0).sum(axis=1) == (expected >= 0).sum(axis=1)).all()  # never fewer
    assert (items[is_exact] == expected[is_exact]).all()
    every = all_scores(scorer, users, histories)
    for row, found in enumerate(items):
        kept = found[found >= 0]
        assert len(set(kept)) == len(kept)
        assert excluded is None or not set(kept) & set(excluded[row].tolist())
        np.testing.assert_allclose(scores[row, found >= 0], every[row, kept], rtol=1e-5, atol=1e-5)
    assert (np.diff(scores, axis=1)[items[:, 1:] >= 0] <= 0).all()


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
        unbound = CountingIndex.build(vectors, settings)
        with monkeypatch.context() as patches:
            patches.setattr(index_ranking_module, "_LEAST_EXTRA", 10)
            found, _, _ = IndexRanker(scorer, unbound, 4).best(users, [seen], [ItemSet(seen)])
        assert found.tolist() == items.tolist()
        assert unbound.widths == [5 + 10 + 40]  # the exclusions are expected


def test_candidates_are_scored_without_a_search_whatever_their_share():
    """An index that misses most items misses none of the candidates."""
    vectors = random_vectors(60, seed=3)
    scorer, users = VectorScorer(vectors), random_users(2, seed=5)
    index = CountingIndex.build(vectors, IndexSettings("ivf", nlist=20, nprobe=1))
    histories = [np.array([0]), np.array([1])]
    for size in (1, 29, 30, 31, 59, 60):
        candidates = [np.arange(size), np.arange(60 - size, 60)]
        allowed = AllowedRows(scorer.processor.trie, 2, candidates)
        items, _, is_exact = IndexRanker(scorer, index, 5).best(users, histories, allowed, are_candidates=True)
        assert (items == best_by_hand(scorer, users, histories, 5, candidates)).all()
        assert is_exact.all()
    assert getattr(index, "widths", []) == []


def test_long_exclusions_of_many_users_are_not_copied():
    """512 users who share 400,000 excluded items: keys of all of them together would take 1.6 GB."""
    scorer = VectorScorer(random_vectors(20))
    ranker = IndexRanker(scorer, ItemIndex.build(scorer.vectors_in_memory), 3)
    shared = ItemSet(np.arange(10, 400_010))
    pairs = _Pairs(np.repeat(np.arange(512), 20), np.tile(np.arange(20), 512))
    tracemalloc.start()
    kept, scores = ranker._keep(pairs, np.zeros(len(pairs.rows), dtype=np.float32), [shared] * 512)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (kept.items.reshape(512, 10) == np.arange(10)).all()
    assert (kept.rows == np.repeat(np.arange(512), 10)).all()
    assert len(scores) == 5120
    assert peak < 10e6


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
