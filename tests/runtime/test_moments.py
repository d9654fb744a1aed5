"""The moments of asking, as whole seconds."""

from datetime import datetime

import numpy as np
import pytest

from patchrec_hf.runtime.moments import as_moments, days_of, parse_moment


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


BEGIN = 1_793_577_600  # 2026-11-02


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-02", BEGIN),
        ("2026-11-02T06:30", BEGIN + 6 * 3600 + 30 * 60),
        ("2026-11-02T01:00+01:00", BEGIN),
        ("20261102T0630", BEGIN + 6 * 3600 + 30 * 60),
        (str(BEGIN), BEGIN),
        ("90", 90),
        ("-90", -90),
        ("12345678", 12_345_678),  # no date: there is no month 56
    ],
)
def test_moments_are_dates_times_or_seconds(text, seconds):
    assert parse_moment(text) == seconds


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("monday", r"A moment is a date such as 2026-11-20.*got 'monday'"),
        (str(BEGIN * 1000), "in milliseconds, divide it by 1000"),
        ("20261120", r"20261120 looks like a date.* Write the date as 2026-11-20\."),
        ("202611200630", r"202611200630 looks like a date.* Write the date as 2026-11-20T06:30:00\."),
        ("20261120063015", r"looks like a date.* Write the date as 2026-11-20T06:30:15\."),
    ],
)
def test_moments_that_are_refused(text, problem):
    with pytest.raises(ValueError, match=problem):
        parse_moment(text)


def test_days_begin_at_midnight_also_before_1970():
    assert days_of(np.array([0, 86_399, 86_400, -1, -86_400, -86_401])).tolist() == [0, 0, 1, -1, -1, -2]
