"""Title similarity, by hand and against dense arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_parts import title_tokens

from patchrec_hf.runtime import title_similarity as module
from patchrec_hf.runtime.title_similarity import log_shares, title_similarity


def dense_of(table):
    dense = np.zeros((table.num_items, table.num_items))
    dense[np.repeat(np.arange(table.num_items), np.diff(table.offsets)), table.targets] = table.values
    return dense


def test_by_hand():
    """Token 1 stands in two of three titles, tokens 2, 3 and 4 in one each."""
    table = title_similarity(title_tokens([[1, 2], [1, 3], [4, 4]]), np.array([7, 8, 9]))
    common, rare = np.log(3 / 2), np.log(3)
    cosine = common**2 / (common**2 + rare**2)
    expected = np.zeros((3, 3))
    expected[0, 1] = expected[1, 0] = cosine**3
    np.testing.assert_allclose(dense_of(table), expected, rtol=1e-6)
    assert table.item_ids.tolist() == [7, 8, 9]
    assert (table.decay, table.num_history_items) == (0.8, 10)


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), min_size=1, max_size=12),
    st.sampled_from([1, 30, 2**22]),
)
def test_equals_dense_arrays(titles, pairs_per_block):
    vectors = np.zeros((len(titles), 10))
    for row, title in enumerate(titles):
        vectors[row, title] = 1
    counts = vectors.sum(axis=0)
    vectors *= np.log(len(titles) / np.maximum(counts, 1))
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    vectors[:, counts > max(0.1 * len(titles), 2)] = 0
    expected = np.maximum(vectors @ vectors.T, 0) ** 3
    np.fill_diagonal(expected, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PAIRS_PER_BLOCK", pairs_per_block)
        found = dense_of(title_similarity(title_tokens(titles), np.arange(len(titles))))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_only_the_most_similar_titles_are_kept():
    titles = [[1, 2, 3], [1, 2, 8], [1, 9, 10], *([token] for token in range(11, 31))]
    whole = dense_of(title_similarity(title_tokens(titles), np.arange(len(titles))))
    assert np.count_nonzero(whole[0]) == 1  # token 1 stands in too many titles, token 2 in two
    titles = [[1, 2, 3], [1, 40, 8], [2, 3, 10], *([token] for token in range(11, 61))]
    table = title_similarity(title_tokens(titles), np.arange(len(titles)), max_neighbors=1)
    assert np.flatnonzero(dense_of(table)[0]).tolist() == [2]


def test_of_many_equal_titles_the_first_are_kept():
    titles = [*([[1, 2]] * 5), *([token] for token in range(11, 61))]
    table = title_similarity(title_tokens(titles), np.arange(len(titles)), max_neighbors=2)
    kept = dense_of(table)
    assert [np.flatnonzero(row).tolist() for row in kept[:5]] == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]


def test_shares_by_hand():
    scores = np.array([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(log_shares(scores), [[np.log(7501), np.log(2501), 0], [0, 0, 0]])


def test_features_of_new_items_are_zero():
    table = title_similarity(title_tokens([[1, 2], [1, 3], [4, 4]]), np.arange(3))
    features = log_shares(table.scores([np.array([0]), np.array([2])], 4))
    np.testing.assert_allclose(features, [[0, np.log(10001), 0, 0], [0, 0, 0, 0]])
