from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchrec_hf.data.filters import Filters, apply_filters


def table(rows):
    schema = {"user_id": pl.Int64, "item_id": pl.Int64, "timestamp": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


ALL_ITEMS = pl.Series(range(100))


def counts(steps):
    return [(step.users, step.items, step.interactions) for step in steps]


def test_one_pass_counts_users_and_items_of_the_same_table():
    """User 3 has three rows and item 9 has two users; after one pass user 3 is left with one row, and stays."""
    rows = [(1, 7, 0), (2, 7, 0), (3, 7, 0), (3, 8, 1), (3, 8, 2), (1, 9, 1), (2, 9, 1), (1, 5, 3), (2, 6, 3)]
    kept, steps = apply_filters(table(rows), ALL_ITEMS, Filters(min_user_interactions=3, min_item_users=2))
    assert kept.rows() == [(1, 7, 0), (2, 7, 0), (3, 7, 0), (1, 9, 1), (2, 9, 1)]
    assert counts(steps) == [(3, 5, 9), (3, 2, 5)]


def test_k_core_goes_on_until_nothing_changes():
    rows = [(1, 7, 0), (2, 7, 0), (3, 7, 0), (3, 8, 1), (3, 8, 2), (1, 9, 1), (2, 9, 1), (1, 5, 3), (2, 6, 3)]
    filters = Filters(min_user_interactions=2, min_item_users=2, k_core=True)
    kept, steps = apply_filters(table(rows), ALL_ITEMS, filters)
    assert kept.rows() == [(1, 7, 0), (2, 7, 0), (1, 9, 1), (2, 9, 1)]
    assert counts(steps) == [(3, 5, 9), (3, 2, 5), (2, 2, 4)]


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
        kept, _ = apply_filters(table(rows), ALL_ITEMS, filters)
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
