from collections import Counter
from importlib.util import find_spec

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchrec_hf.data.filters import Filters, FilterStep, apply_filters, choose_filters, report_steps


def table(rows):
    schema = {"user_id": pl.Int64, "item_id": pl.Int64, "timestamp": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


ALL_ITEMS = pl.Series(range(100))


def counts(steps):
    return [(step.users, step.items, step.interactions) for step in steps]


def test_one_pass_counts_users_and_items_of_the_same_table():
    """User 3 has three rows and item 9 has two users; after one pass user 3 is left with one row, and stays."""
    rows = [(1, 7, 0), (2, 7, 0), (3, 7, 0), (3, 8, 1), (3, 8, 2), (1, 9, 1), (2, 9, 1), (1, 5, 3), (2, 6, 3)]
    kept, steps, _ = apply_filters(table(rows), ALL_ITEMS, Filters(min_user_interactions=3, min_item_users=2))
    assert kept.rows() == [(1, 7, 0), (2, 7, 0), (3, 7, 0), (1, 9, 1), (2, 9, 1)]
    assert counts(steps) == [(3, 5, 9), (3, 2, 5)]


def test_k_core_goes_on_until_nothing_changes():
    rows = [(1, 7, 0), (2, 7, 0), (3, 7, 0), (3, 8, 1), (3, 8, 2), (1, 9, 1), (2, 9, 1), (1, 5, 3), (2, 6, 3)]
    filters = Filters(min_user_interactions=2, min_item_users=2, k_core=True)
    kept, steps, _ = apply_filters(table(rows), ALL_ITEMS, filters)
    assert kept.rows() == [(1, 7, 0), (2, 7, 0), (1, 9, 1), (2, 9, 1)]
    assert counts(steps) == [(3, 5, 9), (3, 2, 5), (2, 2, 4)]


def test_items_that_pass_and_lose_their_users():
    """
    Item 8 has two users, but neither has three interactions; item 9 has one user only. So item 8 passes, without
    interactions.
    """
    rows = [(1, 7, 0), (1, 6, 1), (1, 9, 2), (2, 7, 0), (2, 6, 1), (2, 7, 2), (3, 8, 0), (4, 8, 0)]
    minima = {"min_user_interactions": 3, "min_item_users": 2}
    kept, steps, items = apply_filters(table(rows), ALL_ITEMS, Filters(**minima))
    assert kept.rows() == [(1, 7, 0), (1, 6, 1), (2, 7, 0), (2, 6, 1), (2, 7, 2)]
    assert sorted(items) == [6, 7]
    again, steps, items = apply_filters(table(rows), ALL_ITEMS, Filters(**minima, keep_passing_items=True))
    assert again.equals(kept)
    assert sorted(items) == [6, 7, 8]
    assert steps[-1] == FilterStep(
        "users ≥ 3 interactions, items ≥ 2 users; items that stay without users: 1", users=2, items=2, interactions=5
    )
    core = Filters(min_user_interactions=2, min_item_users=2, k_core=True, keep_passing_items=True)
    kept, steps, items = apply_filters(table(rows), ALL_ITEMS, core)
    assert sorted(items) == sorted(kept["item_id"].unique()) == [6, 7]
    assert "stay" not in steps[-1].name


def test_items_pass_without_minima():
    rows = [(1, 7, 0), (2, 8, 0)]
    _, _, items = apply_filters(table(rows), ALL_ITEMS, Filters(keep_passing_items=True))
    assert sorted(items) == [7, 8]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=60),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_filters_keep_what_a_loop_would(rows, min_user_interactions, min_item_users):
    filters = Filters(min_user_interactions=min_user_interactions, min_item_users=min_item_users)
    expected = list(dict.fromkeys(rows))
    of_user = Counter(user for user, _, _ in expected)
    of_item = Counter(item for _, item in {(user, item) for user, item, _ in expected})
    expected = [
        row for row in expected if of_user[row[0]] >= min_user_interactions and of_item[row[1]] >= min_item_users
    ]
    if expected:
        kept, _, _ = apply_filters(table(rows), ALL_ITEMS, filters)
        assert kept.rows() == expected
    else:
        with pytest.raises(ValueError, match="leaves no interaction"):
            apply_filters(table(rows), ALL_ITEMS, filters)


def test_repeated_rows_may_stay():
    rows = [(1, 7, 0), (1, 7, 0), (1, 7, 5)]
    assert apply_filters(table(rows), ALL_ITEMS, Filters())[0].rows() == [(1, 7, 0), (1, 7, 5)]
    assert apply_filters(table(rows), ALL_ITEMS, Filters(drop_duplicates=False))[0].rows() == rows


@pytest.mark.parametrize("name", ["min_user_interactions", "min_item_users"])
def test_minima_are_positive(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        Filters(**{name: 0})


def test_users_with_too_many_interactions():
    """User 3 has four rows, of which one is repeated. Without this user, item 8 has one user only."""
    rows = [(1, 7, 0), (1, 8, 1), (2, 7, 0), (2, 9, 1), (3, 8, 0), (3, 8, 0), (3, 7, 1), (3, 9, 2)]
    kept, steps, _ = apply_filters(table(rows), ALL_ITEMS, Filters(max_user_interactions=3))
    assert len(kept) == 7
    kept, steps, _ = apply_filters(table(rows), ALL_ITEMS, Filters(max_user_interactions=2))
    assert kept["user_id"].to_list() == [1, 1, 2, 2]
    assert [step.name for step in steps] == ["all", "without repeated rows", "users ≤ 2 interactions"]
    filters = Filters(max_user_interactions=2, min_item_users=2)
    kept, steps, _ = apply_filters(table(rows), ALL_ITEMS, filters)
    assert kept.rows() == [(1, 7, 0), (2, 7, 0)]
    assert counts(steps)[-2:] == [(2, 3, 4), (2, 1, 2)]


@pytest.mark.parametrize(
    ("kwargs", "error", "problem"),
    [
        (
            {"max_user_interactions": 4, "min_user_interactions": 5},
            ValueError,
            r"at least `min_user_interactions` \(5\)",
        ),
        ({"max_user_interactions": 0}, ValueError, "must be at least"),
        ({"where": "event == 'buy'"}, TypeError, "`where` must be an expression of polars.*got `str`"),
        ({"where": pl.Series([True])}, TypeError, "`where` must be an expression of polars.*got `Series`"),
        ({"where": {}}, ValueError, "`where` is an empty mapping"),
        ({"max_user_interactions": 3.5}, TypeError, "`max_user_interactions` must be a whole number, got 3.5"),
        ({"min_item_users": "3"}, TypeError, "`min_item_users` must be a whole number, got '3'"),
        ({"min_user_interactions": None}, TypeError, "`min_user_interactions` must be a whole number, got None"),
        ({"min_rating": float("nan")}, ValueError, "`min_rating` must be a finite number, got nan"),
        ({"min_rating": float("inf")}, ValueError, "`min_rating` must be a finite number, got inf"),
        ({"min_rating": "4"}, TypeError, "`min_rating` must be a number, got '4'"),
        ({"keep_passing_items": "no"}, TypeError, "`keep_passing_items` must be True or False, got 'no'"),
        ({"k_core": 5}, TypeError, "`k_core` must be True or False, got 5"),
        ({"where": {"tags": [["a"]]}}, TypeError, r"a list of values for each column, got \['a'\] within a list"),
        ({"where": {1: "buy"}}, TypeError, "keys of `where` must be names of columns, got 1"),
    ],
)
def test_filters_that_are_refused(kwargs, error, problem):
    with pytest.raises(error, match=problem):
        Filters(**kwargs)


@pytest.mark.skipif(find_spec("cloudpickle") is not None, reason="polars stores Python functions by cloudpickle")
def test_a_condition_without_a_key():
    with pytest.raises(ValueError, match=r"calls a Python function. Compute a column by that function"):
        Filters(where=pl.col("event").map_batches(lambda event: event == "buy", return_dtype=pl.Boolean))


def test_filters_are_compared_and_hashed():
    buy = pl.col("event") == "buy"
    assert Filters(where=buy) == Filters(where=pl.col("event") == "buy")
    assert Filters(where=buy) != Filters(where=pl.col("event") == "rent")
    assert Filters(where=buy) != Filters()
    assert Filters(where={"event": "buy"}) == Filters(where={"event": "buy"})
    assert Filters(where={"event": "buy"}) != Filters(where=buy)
    assert Filters() != 1
    for values in (["buy", "rent"], ("buy", "rent"), {"rent", "buy"}, pl.Series(["buy", "rent"]),
                   np.array(["buy", "rent"])):  # fmt: skip
        assert Filters(where={"event": values}) == Filters(where={"event": ["buy", "rent"]})
        assert Filters(where={"event": values}) != Filters(where={"event": ["buy", "view"]})
    given = ["buy"]
    filters = Filters(where={"event": given})
    given.append("rent")
    assert filters == Filters(where={"event": "buy"})
    assert hash(Filters(where=buy)) == hash(Filters(where=pl.col("event") == "buy"))
    assert hash(Filters(min_rating=3)) == hash(Filters(min_rating=3))


def test_a_mapping_is_a_condition():
    log = pl.DataFrame({"event": ["buy", "rent", "view", None], "is_bot": [False, True, False, False]})

    def kept(**where):
        return log.select(Filters(where=where).condition(log.schema, "The log").fill_null(False)).to_series().to_list()

    assert kept(event="buy") == [True, False, False, False]
    assert kept(event=["buy", "rent"]) == [True, True, False, False]
    assert kept(event={"buy", "view"}, is_bot=False) == [True, False, True, False]
    assert kept(event=["buy", None]) == [True, False, False, True]
    assert kept(event=None) == [False, False, False, True]


def test_filters_by_which_a_reader_leaves_out_rows_are_described():
    assert Filters().describe_reading() == "all"
    assert Filters(where={"event": ["buy", None], "is_bot": False}, min_rating=4).describe_reading() == (
        "where event is buy, missing and is_bot is False; rating of at least 4"
    )
    either = (pl.col("a") == 1) | (pl.col("b") == 2)
    (row,) = report_steps([FilterStep(Filters(where=either).describe_reading(), 1, 2, 3)]).splitlines()[2:]
    assert row.replace("\\|", "").count("|") == 5


def test_changes_of_the_default_filters():
    default = Filters(min_rating=5, k_core=True)
    assert choose_filters(None, default) is default
    assert choose_filters(Filters(), default) == Filters()
    assert choose_filters({"min_rating": 3}, default) == Filters(min_rating=3, k_core=True)
    with pytest.raises(ValueError, match=r"unknown key 'kcore'; did you mean 'k_core'\?"):
        choose_filters({"kcore": True}, default)
    with pytest.raises(TypeError, match=r"`filters` must be `Filters\(...\)` or a mapping, got `int`"):
        choose_filters(3, default)
