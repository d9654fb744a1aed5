"""Sets of items that may be recommended."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_parts import title_tokens

from patchrec_hf.runtime import allowed_items
from patchrec_hf.runtime.allowed_items import AllowedRows, ItemSet, keep_allowed
from patchrec_hf.runtime.trie import build_trie


TITLES = [[1], [1, 2], [3], [4], [3], [5], [6, 1], [6]]
TRIE = build_trie(title_tokens(TITLES), end_of_turn_id=9)
PARTIAL = build_trie(title_tokens(TITLES), end_of_turn_id=9, complete_prefixes=False)  # without the items 0 and 7
indices = st.lists(st.integers(0, 7), max_size=10).map(lambda items: np.array(items, dtype=np.int64))


def items_of(allowed, trie=TRIE):
    items = np.sort(trie.items)
    return items[allowed.holds(items)].tolist()


def test_only_the_fewer_items_are_listed():
    few = ItemSet.from_mask(np.array([False, True, False, False]))
    many = ItemSet.from_mask(np.array([False, True, True, True]))
    assert (few.listed.tolist(), few.is_rest, few.size(4)) == ([1], False, 1)
    assert (many.listed.tolist(), many.is_rest, many.size(4)) == ([0], True, 3)
    part = ItemSet.from_mask(np.array([True, True, False, True]), np.array([True, True, True, False]))
    assert (part.listed.tolist(), part.is_rest, part.size(3)) == ([2], True, 2)
    assert few.holds(np.array([[0, 1], [3, 1]])).tolist() == [[False, True], [False, True]]
    assert many.holds(np.array([0, 3, 2])).tolist() == [False, True, True]
    assert ItemSet().holds(np.array([5])).tolist() == [True]


@given(st.lists(st.booleans(), min_size=8, max_size=8), indices)
def test_items_are_taken_out(mask, left_out):
    allowed = ItemSet.from_mask(np.array(mask)).without(np.unique(left_out))
    expected = [item for item in range(8) if mask[item] and item not in left_out]
    assert items_of(allowed) == expected
    assert allowed.size(8) == len(expected)
    scores = np.arange(8.0)
    keep_allowed(scores, allowed)
    assert scores.tolist() == [item if item in expected else -np.inf for item in range(8)]


@given(candidates=indices | st.none(), excluded=indices | st.none(), is_long=st.booleans(), is_partial=st.booleans())
def test_rows_hold_the_candidates_that_are_not_excluded(candidates, excluded, is_long, is_partial):
    trie = PARTIAL if is_partial else TRIE
    expected = [
        item
        for item in sorted(trie.items.tolist())
        if (candidates is None or item in candidates) and (excluded is None or item not in excluded)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(allowed_items, "_LONG_SHARE", 100 if is_long else 0)
        rows = AllowedRows(
            trie, 1, None if candidates is None else [candidates], None if excluded is None else [excluded]
        )
        if expected:
            rows.check()
            assert items_of(rows[0], trie) == expected
        else:
            with pytest.raises(ValueError, match="Row 0 has no"):
                rows.check()


def test_rows_that_share_an_array_share_a_set():
    shared, other = np.array([2, 3]), np.array([5])
    rows = AllowedRows(TRIE, 4, [shared, shared, other, ItemSet(np.array([4]), is_rest=False)])
    assert rows[0] is rows[1]
    assert [items_of(rows[row]) for row in (2, 1, 3)] == [[5], [2, 3], [4]]


@pytest.mark.parametrize(
    ("candidates", "excluded", "message"),
    [
        ([np.array([1, 8])], None, "Row 0 names item 8; catalog indices lie between 0 and 7"),
        (None, [np.array([-1])], "Row 0 names item -1; catalog indices lie between 0 and 7"),
        ([np.array([0])], None, "Row 0 has no candidates: its array holds 1 items, none of which can be ranked"),
        ([ItemSet(np.empty(0, dtype=np.int64), is_rest=False)], None, "Row 0 has no candidates: its array holds 0"),
        ([np.array([1, 2])], [np.array([2, 1])], "no item left to recommend: all 2 candidates are excluded"),
        ([np.array([1])] * 2, None, "`candidates` needs one array for each of 1 prompts, got 2"),
        (None, [], "`excluded` needs one array for each of 1 prompts, got 0"),
    ],
)
def test_rows_that_cannot_be_ranked(candidates, excluded, message):
    with pytest.raises(ValueError, match=message):
        AllowedRows(PARTIAL, 1, candidates, excluded).check()


def test_a_loop_over_the_rows_ends():
    assert [items_of(some) for some in AllowedRows(TRIE, 2, None, [np.array([0]), np.arange(7)])] == [
        [*range(1, 8)],
        [7],
    ]
    with pytest.raises(IndexError, match="There are 2 rows, and no row 2"):
        AllowedRows(TRIE, 2)[2]
