"""Titles in the order of their tokens."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_parts import title_tokens

from patchrec_hf.runtime import title_order
from patchrec_hf.runtime.title_order import is_prefix_of_another, num_prefix_titles, shared_lengths, sort_titles
from patchrec_hf.runtime.title_tokens import TitleTokens


token_lists = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=15)


def num_shared(one, other):
    return next(
        (place for place, pair in enumerate(zip(one, other, strict=False)) if len(set(pair)) > 1),
        min(len(one), len(other)),
    )


def test_by_hand():
    titles = title_tokens([[5, 6], [5], [7], [5, 6, 1], [5]])
    order = sort_titles(titles)
    assert order.tolist() == [1, 4, 0, 3, 2]
    assert order.dtype == np.int64
    ordered = titles.select(order)
    assert [ordered[place].tolist() for place in range(5)] == [[5], [5], [5, 6], [5, 6, 1], [7]]
    assert shared_lengths(ordered).tolist() == [1, 1, 2, 0]
    assert shared_lengths(ordered.ended(9)).tolist() == [2, 1, 2, 0]
    assert is_prefix_of_another(ordered).tolist() == [True, True, True, False, False]


@given(token_lists)
def test_order_is_that_of_lists(titles):
    expected = sorted(range(len(titles)), key=titles.__getitem__)  # stable, and a list follows the lists that begin it
    assert sort_titles(title_tokens(titles)).tolist() == expected


@given(token_lists, st.integers(1, 6))
def test_neighbors_are_compared_token_by_token_in_blocks_of_any_size(titles, tokens_at_once):
    expected = [num_shared(one, other) for one, other in pairwise(titles)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(title_order, "_TOKENS_AT_ONCE", tokens_at_once)
        assert shared_lengths(title_tokens(titles)).tolist() == expected


def test_no_titles():
    none = TitleTokens(np.empty(0, dtype=np.int64), np.zeros(1, dtype=np.int64))
    assert sort_titles(none).tolist() == []
    assert num_prefix_titles(none) == 0


@pytest.mark.parametrize(
    ("titles", "expected"),
    [
        ([[1], [2]], 0),
        ([[1], [1, 2]], 1),
        ([[1], [1]], 0),
        ([[1], [1], [1, 2], [1, 2]], 2),
        ([[1], [1, 2], [1, 2, 3], [1, 3], [2, 1]], 2),
        ([[1, 2], [1], [1, 1, 9], [1, 2, 0]], 2),
    ],
)
def test_num_prefix_titles(titles, expected):
    assert num_prefix_titles(title_tokens(titles)) == expected


@given(token_lists)
def test_num_prefix_titles_equals_all_pairs(titles):
    expected = sum(
        any(len(other) > len(title) and other[: len(title)] == title for other in titles) for title in titles
    )
    assert num_prefix_titles(title_tokens(titles)) == expected
