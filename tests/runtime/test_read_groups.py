"""Groups of users: they cost least, and never more than users one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchrec_hf.runtime.read_groups import ReadCost, read_groups


def groups_of(queries, keys, *cost):
    return [group.tolist() for group in read_groups(np.array(queries), np.array(keys), ReadCost(*cost))]


@pytest.mark.parametrize(
    ("queries", "expected"),
    [
        ([64, 64, 64], [[0, 1, 2]]),
        # Padding 40 to 64 twice costs 48, and another forward costs 32. Padding 60 to 64 costs 4.
        ([40, 64, 60, 40], [[1, 2], [0, 3]]),
        ([1, 64], [[1], [0]]),
        ([1, 2, 1], [[0, 1, 2]]),
        ([7], [[0]]),
        ([], []),
    ],
)
def test_by_hand(queries, expected):
    assert groups_of(queries, [0] * len(queries), 32, 1000) == expected


def test_users_with_many_keys_are_read_apart():
    """Each position of both costs 1 + 0.1 with 100 keys, and 1 + 2 with 2000: alone 11 + 30, together 60."""
    assert groups_of([10, 10], [100, 2000], 15, 1000) == [[1], [0]]
    assert groups_of([10, 10], [100, 2000], 25, 1000) == [[0, 1]]


def cost_of(groups, queries, keys, cost):
    return sum(
        cost.positions_per_forward
        + len(group) * max(queries[i] for i in group) * (1 + max(keys[i] for i in group) / cost.keys_per_position)
        for group in groups
    )


@given(
    users=st.lists(st.tuples(st.integers(1, 80), st.integers(1, 3000)), min_size=1, max_size=9),
    positions=st.integers(0, 100),
)
def test_never_more_than_one_by_one_or_all_at_once(users, positions):
    queries, keys = map(list, zip(*users, strict=True))
    cost = ReadCost(positions, 500)
    groups = groups_of(queries, keys, positions, 500)
    everyone = list(range(len(users)))
    assert sorted(user for group in groups for user in group) == everyone
    least = cost_of(groups, queries, keys, cost)
    assert least <= cost_of([[user] for user in everyone], queries, keys, cost) + 1e-6
    assert least <= cost_of([everyone], queries, keys, cost) + 1e-6
