"""Which scores count as equal."""

import numpy as np
import pytest

from patchrec_hf.runtime.score_ties import model_tie_width, tie_width


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_neighbors_of_a_dtype_are_equal_and_a_thousandth_is_not(dtype):
    score = dtype(-7.3)
    next_one = np.nextafter(score, dtype(0))
    assert 0 < next_one - score <= tie_width(score)
    if dtype is not np.float16:
        assert tie_width(score) < 0.001 * abs(score)


def test_whole_numbers_are_exact():
    assert tie_width(np.array([10**9])).tolist() == [0]


def test_scores_near_zero_are_compared_by_the_size_of_their_parts():
    assert tie_width(np.array([0.0])).tolist() == [0]
    assert model_tie_width(np.array([0.0])) == tie_width(np.float32(1))


def test_infinite_scores_have_no_width():
    assert model_tie_width([-np.inf, np.inf]).tolist() == tie_width(np.array([-np.inf, np.inf])).tolist() == [0, 0]
