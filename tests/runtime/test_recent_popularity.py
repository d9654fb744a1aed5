"""Counts of the days before a moment, by hand and against a count of single interactions."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from small_data import catalog_of

from patchrec_hf.runtime import recent_popularity
from patchrec_hf.runtime.recent_popularity import RecentPopularity, check_window


DAY = 86_400
CATALOG = catalog_of(10, 20, 30)


def counted(*entries):
    """`(item, time)` or `(item, time, known_at)`."""
    items, times, known_at = (
        np.array(column) for column in zip(*((*entry, entry[-1])[:3] for entry in entries), strict=True)
    )
    return RecentPopularity.count(items, times, CATALOG.id_numbers, known_at)


def test_counts_by_hand():
    """Item 0 on the days 1, 1 and 3; item 2 on day 2; item 1 on day 1, which is known on day 3."""
    recent = counted((0, DAY), (2, 2 * DAY + 5), (0, 2 * DAY - 1), (0, 3 * DAY), (1, DAY + 7, 3 * DAY + 1))
    assert recent.days.tolist() == [1, 1, 2, 3]
    assert recent.known_days.tolist() == [1, 3, 2, 3]
    assert recent.items.tolist() == [0, 1, 2, 0]
    assert recent.counts.tolist() == [2, 1, 1, 1]
    assert recent.end_time == 4 * DAY
    assert repr(recent) == "RecentPopularity(3 items, 5 interactions, 1970-01-02 to 1970-01-04)"
    moments = np.array([4 * DAY, 2 * DAY - 1, 2 * DAY, 3 * DAY + 9, DAY, 9 * DAY])
    assert recent.counts_before(moments, 3).tolist() == [
        [3, 1, 1],  # the days 1 to 3
        [0, 0, 0],  # day 1 has not ended
        [2, 0, 0],  # day 1, on which item 1 is not known yet
        [2, 0, 1],
        [0, 0, 0],
        [0, 0, 0],  # the days 6 to 8
    ]
    assert recent.counts_before(np.array([4 * DAY]), 1, num_items=4).tolist() == [[1, 0, 0, 0]]
    assert recent.counts_before(np.empty(0, dtype=np.int64), 1).shape == (0, 3)
    assert recent.counts_before(moments, 3).dtype == np.float64


def test_a_moment_long_after_the_counted_days_warns_once(caplog):
    """The counts end with day 3. Two days before day 6 lie in them no more."""
    recent = counted((0, DAY), (2, 3 * DAY))
    recent_popularity.logger.warning_once.cache_clear()
    recent.counts_before(np.array([0, 5 * DAY + 9]), window=2)
    recent.counts_before(np.empty(0, dtype=np.int64), window=2)
    assert not caplog.records
    for day in (6, 700):
        assert not recent.counts_before(np.array([5 * DAY, day * DAY]), window=2)[1].any()
    (record,) = caplog.records
    assert "counts end with 1970-01-04 (UTC)" in record.message
    assert "more than 2 days later" in record.message
    assert "`Popularity(catalog, window=2)` on all interactions up to that moment" in record.message


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(-3, 9), st.integers(0, 3)), min_size=1, max_size=12),
    st.lists(st.integers(-4 * 3, 14 * 3), max_size=5),
    st.integers(1, 14),
)
def test_counts_are_those_of_single_interactions(entries, moments, window):
    """Times in thirds of a day."""
    third = DAY // 3
    entries = [(item, time * third, (time + later) * third) for item, time, later in entries]
    counts = counted(*entries).counts_before(np.array(moments, dtype=np.int64) * third, window)
    for row, moment in zip(counts, moments, strict=True):
        day = moment // 3
        expected = [
            sum(
                item == wanted and day - window <= time // DAY < day and known_at // DAY < day
                for item, time, known_at in entries
            )
            for wanted in range(3)
        ]
        assert row.tolist() == expected


def test_a_saved_file_is_read(tmp_path):
    recent = counted((0, DAY), (2, 2 * DAY, 5 * DAY), (0, DAY))
    recent.save(tmp_path / "new" / "recent.safetensors")
    again = RecentPopularity.load(tmp_path / "new" / "recent.safetensors")
    for name in ("days", "known_days", "items", "counts", "item_ids"):
        assert np.array_equal(getattr(again, name), getattr(recent, name))
    save_file({"days": recent.days}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors holds no recent popularity: it lacks `counts`"):
        RecentPopularity.load(tmp_path / "other.safetensors")
    save_file({"days": recent.days}, tmp_path / "newer.safetensors", {"format_version": "99"})
    with pytest.raises(ValueError, match=r"newer\.safetensors has format version 99"):
        RecentPopularity.load(tmp_path / "newer.safetensors")


def test_catalogs_are_compared():
    recent = counted((0, DAY))
    recent.check_catalog(catalog_of(10, 20, 30, 5))
    with pytest.raises(ValueError, match="lacks 1 of the 3 items of the recent popularity, such as item 30"):
        recent.check_catalog(catalog_of(10, 20))
    with pytest.raises(ValueError, match="index 0 in the recent popularity, but 1 in the catalog"):
        recent.check_catalog(catalog_of(20, 10, 30))
    with pytest.raises(ValueError, match="`num_items` must be at least 3, the counted items, got 2"):
        recent.counts_before(np.array([DAY]), 1, num_items=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"days": [2, 1]}, "`days` must ascend; entry 1 is"),
        ({"known_days": [1, 1]}, "`known_days` must not lie before `days`; entry 1 is"),
        ({"items": [0, 3]}, "`items` must be catalog indices from 0 to 2; entry 1 is"),
        ({"items": [-1, 2]}, "`items` must be catalog indices from 0 to 2; entry 0 is"),
        ({"counts": [0, 1]}, "`counts` must be at least 1; entry 0 is"),
        ({"counts": [1]}, "must be arrays of one length"),
        ({"days": [], "known_days": [], "items": [], "counts": []}, "must be arrays of one length, at least 1"),
    ],
)
def test_arrays_that_do_not_fit(changes, message):
    arrays = {name: np.array(values, dtype=np.int32) for name, values in changes.items()}
    with pytest.raises(ValueError, match=message):
        replace(counted((0, DAY), (2, 2 * DAY)), **arrays)


def test_arrays_of_another_type():
    with pytest.raises(TypeError, match=r"`items` must be an array of int32, got int64\. Convert it by `astype`"):
        replace(counted((0, DAY)), items=np.array([0]))


def test_times_in_milliseconds_are_refused():
    with pytest.raises(ValueError, match="beyond the year 3000"):
        counted((0, 1_700_000_000_000))


@pytest.mark.parametrize("window", [0, -7])
def test_a_window_below_one_day(window):
    with pytest.raises(ValueError, match=f"`window` must be at least 1 day, got {window}"):
        check_window(window)


@pytest.mark.parametrize("window", [True, 7.0, "7", None])
def test_a_window_that_is_no_whole_number(window):
    with pytest.raises(TypeError, match="must be a whole number of days, such as 7"):
        check_window(window)
