"""The moments of asking, as whole seconds."""

from datetime import datetime

import numpy as np
import pytest

from patchrec_hf.runtime.moments import as_moments, days_of


def test_one_moment_for_all_or_one_for_each():
    for times in (86_400, np.int64(86_400)):
        assert as_moments(times, 3).tolist() == [86_400] * 3
    assert as_moments([5, 6], 2).tolist() == [5, 6]
    assert as_moments(np.array([5, 6], dtype=np.int32), 2).dtype == np.int64
    assert as_moments([], 0).shape == (0,)


@pytest.mark.parametrize(
    "times", [1.5, "2020-01-01", [5, None], [5.0, 6.0], True, [[5], [5, 6]], datetime(2020, 1, 1)]
)
def test_moments_that_are_no_whole_numbers(times):
    with pytest.raises(
        TypeError, match=r"`times` must be whole numbers, in seconds since 1970 UTC, got .*`int\(time.time\(\)\)`"
    ):
        as_moments(times, 2)


@pytest.mark.parametrize("times", [[5], [5, 6, 7], [[5, 6]]])
def test_other_than_one_moment_for_each_history(times):
    with pytest.raises(ValueError, match="one moment for all 2 histories or one for each"):
        as_moments(times, 2)


def test_milliseconds_are_found():
    with pytest.raises(ValueError, match=r"1700000000000 is beyond the year 3000.*divide it by 1000"):
        as_moments(1_700_000_000_000, 1)


def test_days_begin_at_midnight_also_before_1970():
    assert days_of(np.array([0, 86_399, 86_400, -1, -86_400, -86_401])).tolist() == [0, 0, 1, -1, -1, -2]
