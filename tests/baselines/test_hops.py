"""Sums of hops, by hand and against dense matrices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from tiers import scaled

from patchrec_hf.baselines import hops
from patchrec_hf.baselines.hops import normalized_rows, reranked, scaled_rows, strongest, sum_of_hops


def matrix(rows):
    return sparse.csr_array(np.array(rows, dtype=np.float32))


def test_rows_become_probabilities():
    probabilities, sums = normalized_rows(matrix([[1, 3, 0], [0, 0, 0], [0, 0, 5]]))
    np.testing.assert_allclose(probabilities.toarray(), [[0.25, 0.75, 0], [0, 0, 0], [0, 0, 1]])
    assert sums.tolist() == [4, 0, 5]


def test_two_hops_by_hand():
    """0 → 1 → 2, and 1 → 0: the way back from 0 to 0 does not count, and 1 does not lead to itself."""
    steps = matrix([[0, 1, 0], [0.5, 0, 0.5], [0, 0, 0]])
    np.testing.assert_allclose(sum_of_hops(steps, 1, 0.5, 9).toarray(), steps.toarray())
    np.testing.assert_allclose(sum_of_hops(steps, 2, 0.5, 9).toarray(), [[0, 1, 0.25], [0.5, 0, 0.5], [0, 0, 0]])


def test_a_repeated_item_counts_in_the_first_hop():
    np.testing.assert_allclose(sum_of_hops(matrix([[0.5, 0.5], [0, 0]]), 2, 1.0, 9).toarray(), [[0.5, 0.75], [0, 0]])


@settings(max_examples=scaled(30), deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.sampled_from([0.0, 0.3, 1.0]))
def test_equals_dense_powers(seed, num_hops, weight):
    generator = np.random.default_rng(seed)
    dense = generator.random((7, 7)) * (generator.random((7, 7)) < 0.5)
    expected, term = dense.copy(), dense
    for hop in range(1, num_hops):
        term = (term @ dense) * (1 - np.eye(7))
        expected += weight**hop * term
    np.testing.assert_allclose(sum_of_hops(matrix(dense), num_hops, weight, 7).toarray(), expected, rtol=1e-4)


def test_blocks_change_nothing(monkeypatch):
    dense = np.random.default_rng(0).random((9, 9))
    whole = sum_of_hops(matrix(dense), 3, 0.5, 4).toarray()
    monkeypatch.setattr(hops, "_PRODUCTS_PER_BLOCK", 1)
    np.testing.assert_array_equal(sum_of_hops(matrix(dense), 3, 0.5, 4).toarray(), whole)


def test_each_term_keeps_its_largest_entries(monkeypatch):
    steps = matrix([[0, 0.6, 0.4, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]])
    assert sum_of_hops(steps, 1, 1.0, 1).toarray()[0] == pytest.approx([0, 0.6, 0, 0])
    monkeypatch.setattr(hops, "HOP_NEIGHBORS", 1)  # 2 is not followed
    assert sum_of_hops(steps, 2, 1.0, 9).toarray()[0] == pytest.approx([0, 0.6, 0.4, 0.6])


def test_the_first_of_equals_stays():
    assert strongest(matrix([[1, 2, 2, 2], [0, 3, 0, 0]]), 2).toarray().tolist() == [[0, 2, 2, 0], [0, 3, 0, 0]]


def test_titles_change_scores_only_where_there_are_some():
    scores, titles = matrix([[0, 1, 2], [0, 0, 3]]), matrix([[0, 0.5, 0], [1, 0, 0]])
    assert reranked(scores, titles, 4.0).toarray().tolist() == [[0, 3, 2], [0, 0, 3]]
    assert reranked(scores, titles, 0.0) is scores


def test_rows_are_scaled():
    assert scaled_rows(matrix([[1, 2], [0, 3]]), np.array([2.0, 0.5])).toarray().tolist() == [[2, 4], [0, 1.5]]
