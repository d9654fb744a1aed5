"""How many items of a growing history remain, and the checks of its timestamps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchrec_hf.runtime.history_growth import checked_block_size, joined_times, num_held


@given(st.integers(1, 12), st.data())
def test_many_items_at_once_leave_as_many_as_one_by_one(max_history, data):
    block_size = data.draw(st.integers(0, max_history - 1))
    length = data.draw(st.integers(1, max_history))
    num_new = data.draw(st.integers(0, 40))
    expected = length
    for _ in range(num_new):
        expected = expected + 1 if expected < max_history else max_history - block_size
    held = num_held(length, num_new, max_history, block_size)
    assert held == expected
    assert 1 <= held <= max_history


def test_by_hand():
    assert [num_held(10, new, 10, 4) for new in range(8)] == [10, 6, 7, 8, 9, 10, 6, 7]
    assert num_held(10, 1_000_000, 10, 0) == 10


def test_block_sizes():
    assert [checked_block_size(None, max_history) for max_history in (1, 2, 3, 100)] == [0, 1, 1, 50]
    assert checked_block_size(0, 5) == 0
    for wrong in (5, -1, 1.0, True, "2"):
        with pytest.raises(ValueError, match="`block_size` must be a whole number from 0 to 4"):
            checked_block_size(wrong, 5)


def test_times():
    old, new = np.array([1, 5]), np.array([5, 9])
    assert joined_times(None, None, 0) is None
    assert joined_times(old, new, 0).tolist() == [1, 5, 5, 9]
    for before, after, message in (
        (old, None, "the new items of row 3 have none"),
        (None, new, "was started without timestamps"),
        (old, np.array([4]), "row 3 go back: the newest item of the state has 5, and the first new one has 4"),
        (old, np.array([9, 7]), "must ascend, got 9 before 7 in row 3"),
    ):
        with pytest.raises(ValueError, match=message):
            joined_times(before, after, 3)
