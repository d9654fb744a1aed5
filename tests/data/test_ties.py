"""The order of ties in the authors' files, against the sort of NumPy that it was made with."""

import json
import os
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import run_process

from patchrec_hf.data import interactions
from patchrec_hf.data.interactions import order_interactions
from patchrec_hf.data.ties import release_order


# NumPy's own quicksort, in a process where it may not use the processor's sorting instructions.
NUMPYS_FORMER_SORT = """
import json, sys
import numpy as np
print(json.dumps([np.argsort(np.array(values), kind="quicksort").tolist() for values in json.load(sys.stdin)]))
"""


def sort_as_numpy_did(cases):
    from numpy._core._multiarray_umath import __cpu_dispatch__

    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(__cpu_dispatch__)}
    command = [sys.executable, "-W", "ignore", "-c", NUMPYS_FORMER_SORT]
    return json.loads(run_process(command, input=json.dumps(cases), env=environment, check=True).stdout)


def cases():
    rng = np.random.default_rng(0)
    for number in range(600):
        size = int(rng.integers(1, 300))
        values = rng.integers(0, rng.integers(1, size + 1), size)
        if number % 5 == 0:
            values = np.sort(values)
        elif number % 5 == 1:  # so uneven that the quicksort gives up in favour of a heapsort
            values = np.concatenate([np.arange(size), np.arange(size)[::-1]])
        yield values.tolist()


@pytest.mark.skipif(sys.platform == "darwin", reason="sorting instructions are not a choice at run time there")
def test_the_authors_order_is_numpys_former_one():
    tried = list(cases())
    expected = sort_as_numpy_did(tried)
    for values, order in zip(tried, expected, strict=True):
        assert release_order(np.array(values)).tolist() == order


def test_some_ties_turn_round():
    """Of 17 equal times, the median of three is moved before the last but one; 16 stay as they are."""
    assert release_order(np.zeros(16)).tolist() == list(range(16))
    assert release_order(np.zeros(17)).tolist() != list(range(17))


@given(st.lists(st.integers(0, 20), max_size=120))
def test_the_authors_order_sorts(values):
    order = release_order(np.array(values, dtype=np.int64))
    assert sorted(order.tolist()) == list(range(len(values)))
    assert [values[place] for place in order] == sorted(values)


def test_each_users_ties_are_ordered_apart():
    """Rows of two users alternate in the file; each user's own 20 rows are sorted as if they stood alone."""
    times = [5, 5, 5, 1] * 5
    rows = [(user, 100 * user + place, time) for place, time in enumerate(times) for user in (2, 1)]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    ordered = order_interactions(table, ties="release")
    order = release_order(np.array(times))
    assert ordered["item_id"].to_list() == [100 * user + place for user in (1, 2) for place in order]
    assert ordered["position"].to_list() == [*range(20), *range(20)]
    stable = order_interactions(table)
    assert ordered["item_id"].to_list() != stable["item_id"].to_list()
    assert ordered["timestamp"].to_list() == stable["timestamp"].to_list()


def test_ties_are_stable_or_the_authors():
    with pytest.raises(ValueError, match="`ties` must be 'stable' or 'release', got 'random'"):
        order_interactions(pl.DataFrame({"user_id": [1], "item_id": [1], "timestamp": [1]}), ties="random")


def test_positions_leave_no_ties():
    table = pl.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "timestamp": [3, 3], "position": [1, 0]})
    assert order_interactions(table)["item_id"].to_list() == [2, 1]
    with pytest.raises(ValueError, match=r"column `position` orders these interactions already. Leave `ties` out"):
        order_interactions(table, ties="release")


@pytest.mark.parametrize(
    ("times", "warns"),
    [
        ([(1, 5), (2, 1), (1, 5), (2, 3)], True),
        ([(1, 5), (2, 3), (1, 5), (2, 1)], False),  # user 2 is not in order of time
        ([(1, 5), (2, 3)], False),  # one interaction of each user
    ],
)
def test_rows_that_were_sorted_by_time(monkeypatch, times, warns):
    """The order of the raw file is lost in them, and with it the release's order."""
    said = []
    monkeypatch.setattr(interactions.logger, "warning_once", said.append)
    table = pl.DataFrame(
        [(user, 0, time) for user, time in times], schema=["user_id", "item_id", "timestamp"], orient="row"
    )
    order_interactions(table)
    assert said == []
    order_interactions(table, ties="release")
    assert len(said) == warns
    assert not warns or "each user's rows are in order of time already" in said[0]


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-(2**62), 2**62)), min_size=1, max_size=30))
def test_times_far_apart_are_sorted_too(rows):
    """Users and times that do not fit into one number."""
    table = pl.DataFrame(
        {"user_id": [u for u, _ in rows], "item_id": range(len(rows)), "timestamp": [t for _, t in rows]},
        schema_overrides={"timestamp": pl.Int64},
    )
    expected = sorted(range(len(rows)), key=lambda place: rows[place])
    assert order_interactions(table)["item_id"].to_list() == expected
