"""Times keep all of their digits."""

from datetime import UTC, date, datetime
from decimal import Decimal

import polars as pl
import pytest

from patchrec_hf.data.ticks import (
    EXPONENT,
    LATEST,
    NANOSECONDS,
    as_coarse_as_exact,
    read_dates,
    read_iso,
    read_numbers,
)


_HALF_AND_QUARTER = [1_700_000_000_500_000_000, 1_700_000_000_250_000_000]


@pytest.mark.parametrize(
    ("values", "ticks", "expected"),
    [
        ([3, None], 1, [3_000_000_000, None]),
        (["3", " 4 ", "x", None], 1, [3_000_000_000, 4_000_000_000, None, None]),
        (["1700000000.123456789", "1700000000.1234567891"], 1, [1_700_000_000_123_456_789] * 2),
        (["-1.5", "1."], 1, [-1_500_000_000, 1_000_000_000]),
        (["1.5"], 1_000, [1_500_000]),
        (["1700000000000000001"], 10**9, [1_700_000_000_000_000_001]),
        (["1.9"], 10**9, [1]),
        (["1.7e9"], 1, [1_700_000_000_000_000_000]),
        ([1.5, None, float("nan")], 1, [1_500_000_000, None, None]),
        ([-0.25], 1, [-250_000_000]),
        ([Decimal("1700000000.500"), Decimal("1700000000.250"), None], 1, [*_HALF_AND_QUARTER, None]),
        ([Decimal("-1.5"), Decimal("3.0")], 1, [-1_500_000_000, 3_000_000_000]),
        ([Decimal("1.5")], 1_000, [1_500_000]),
        ([Decimal("1700000000000000001")], 10**9, [1_700_000_000_000_000_001]),
    ],
)
def test_numbers_by_hand(values, ticks, expected):
    assert read_numbers(pl.Series(values), ticks).to_list() == expected


@pytest.mark.parametrize(
    "value", [10**12, "1000000000000", 1e12, "1e12", "1000000000000.5", "9" * 20, "9" * 20 + ".5", Decimal(10**20)]
)
def test_times_that_are_too_late_do_not_wrap(value):
    assert read_numbers(pl.Series([value]), 1)[0] > LATEST * NANOSECONDS


@pytest.mark.parametrize("kind", [pl.Int8, pl.UInt8, pl.Int32, pl.UInt64, pl.Int128, pl.UInt128, pl.Float32])
def test_numbers_of_every_type(kind):
    assert read_numbers(pl.Series([100, 3], dtype=kind), 1).to_list() == [100 * NANOSECONDS, 3 * NANOSECONDS]


@pytest.mark.parametrize("kind", [pl.UInt64, pl.Int128, pl.UInt128])
def test_whole_numbers_beyond_63_bits_are_too_late(kind):
    assert read_numbers(pl.Series([2**63 + 5], dtype=kind), 1)[0] > LATEST * NANOSECONDS


def test_neighboring_floats_stay_apart():
    first = 1_700_000_000.123
    second = pl.Series([first]).to_numpy().view("int64")[0] + 1
    later = pl.Series([second]).to_numpy().view("float64")[0]
    times = read_numbers(pl.Series([first, later]), 1)
    assert times[0] < times[1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([date(1970, 1, 2)], [86_400 * NANOSECONDS]),
        ([datetime(1970, 1, 1, 0, 0, 1)], [NANOSECONDS]),
        ([datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)], [NANOSECONDS]),
    ],
)
def test_dates_by_hand(values, expected):
    assert read_dates(pl.Series(values)).to_list() == expected
    assert read_dates(pl.Series([7], dtype=pl.Datetime("ns"))).to_list() == [7]
    assert read_dates(pl.Series([date(9999, 1, 1)]))[0] > LATEST * NANOSECONDS


def test_the_forms_of_iso_8601_that_are_read():
    texts = [
        "1970-01-02",
        "1970-01-01T00:00:01Z",
        "1970-01-01 00:00:01.5",
        "1970-01-01T02:00:01+02:00",
        "1970-01-01 00:01",
        "1970/01/01 00:00:00.000000001",
        None,
    ]
    seconds = [86_400, 1, 1.5, 1, 60, 1e-9]
    assert read_iso(pl.Series(texts)).to_list() == [*(int(one * NANOSECONDS) for one in seconds), None]
    fractions = ["1970-01-01 00:00:00.5", "1970-01-01 00:00:00.123456789", "2199-01-01 00:00:00.5"]
    assert read_iso(pl.Series(fractions)).to_list()[:2] == [500_000_000, 123_456_789]
    # Nothing behind an unreadable text is read, so that the first fault is the one that is reported.
    assert read_iso(pl.Series(["1970-01-02", "soon", "1970-01-01T00:00:01Z"])).to_list()[1] is None


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([2 * NANOSECONDS, -NANOSECONDS], ([2, -1], 1)),
        ([NANOSECONDS, 1_000_000], ([1_000, 1], 1_000)),
        ([1_001_000], ([1_001], 1_000_000)),
        ([NANOSECONDS + 1], ([NANOSECONDS + 1], NANOSECONDS)),
    ],
)
def test_the_coarsest_unit_that_loses_nothing(times, expected):
    coarse, ticks = as_coarse_as_exact(pl.Series(times))
    assert (coarse.to_list(), ticks) == expected


def test_numbers_in_scientific_notation():
    assert EXPONENT.fullmatch("1.7E+09")
    assert not EXPONENT.fullmatch("1.7")
