"""Every splitter: no history holds what is not earlier than its target."""

from functools import partial

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import interactions_of
from tiers import scaled

from patchrec_hf import Catalog
from patchrec_hf.data.examples import make_rows
from patchrec_hf.data.interactions import order_interactions
from patchrec_hf.data.splits import SPLITS, cut_times, leave_one_out_split, temporal_split, user_ratio_split


SPLITTERS = [
    partial(temporal_split, cuts=(0.5, 0.75)),
    leave_one_out_split,
    partial(user_ratio_split, cuts=(0.5, 0.75)),
]


def table(times_of_users):
    """Item ids are numbered over all rows, so each tells its user and its place in the file."""
    rows = [(user, time) for user, times in enumerate(times_of_users) for time in times]
    return pl.DataFrame(
        {"user_id": [u for u, _ in rows], "item_id": range(len(rows)), "timestamp": [t for _, t in rows]},
        schema_overrides={"timestamp": pl.Int64},
    )


@settings(max_examples=scaled(40))
@given(
    st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=25), min_size=2, max_size=5),
    st.sampled_from(SPLITTERS),
    st.sampled_from(["stable", "release"]),
    st.integers(1, 6),
    st.integers(1, 4),
)
def test_histories_hold_only_what_is_earlier(times_of_users, split, ties, max_history, targets_per_row):
    raw = table(times_of_users)
    try:
        interactions = split(order_interactions(raw, ties))
        catalog = Catalog.from_titles({item: f"t{item}" for item in raw["item_id"]})
        datasets = make_rows(interactions, catalog, max_history, 1, min(targets_per_row, max_history))
    except ValueError as error:
        assert "empty" in str(error) or "no interaction with at least" in str(error)  # noqa: PT017
        return
    time_of = dict(zip(raw["item_id"], raw["timestamp"], strict=True))
    user_of = dict(zip(raw["item_id"], raw["user_id"], strict=True))
    place_of = dict(zip(interactions["item_id"], interactions["position"], strict=True))
    split_of = dict(zip(interactions["item_id"], interactions["split"], strict=True))
    targets = []
    for name, rows in datasets.items():
        for row in rows:
            items = row["item_ids"]
            assert {user_of[item] for item in items} == {row["user_id"]}
            for position in row["target_positions"]:
                target = items[position]
                targets.append(target)
                assert split_of[target] == name
                for earlier in items[:position]:
                    # At the target's own time there are only ties, which stand before it in the user's order.
                    assert time_of[earlier] <= time_of[target]
                    assert place_of[earlier] < place_of[target]
                    if time_of[earlier] == time_of[target] and ties == "stable":
                        assert earlier < target
    assert sorted(targets) == sorted(item for item, place in place_of.items() if place >= 1)


@settings(max_examples=scaled(40))
@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=25), min_size=1, max_size=5))
def test_the_temporal_split_learns_nothing_of_the_future(times_of_users):
    ordered = order_interactions(table(times_of_users))
    try:
        split = temporal_split(ordered, cuts=(0.5, 0.75))
    except ValueError as error:
        assert "empty" in str(error)  # noqa: PT017
        return
    first, second = cut_times(ordered, cuts=(0.5, 0.75))
    times = {name: split.filter(pl.col("split") == name)["timestamp"] for name in SPLITS}
    assert times["train"].max() == first < times["validation"].min()
    assert times["validation"].max() == second < times["test"].min()


def test_cut_times_by_hand():
    """Of ten times, those at places int(5.0) - 1 and int(7.5) - 1."""
    ordered = order_interactions(table([[9, 1, 2, 3, 0], [4, 5, 8, 7, 6]]))
    assert cut_times(ordered, cuts=(0.5, 0.75)) == (4, 6)


def test_leave_one_out_by_hand():
    split = leave_one_out_split(order_interactions(table([[3, 1, 2, 4], [1, 2], [5]])))
    assert split.select("user_id", "timestamp", "split").rows() == [
        (0, 1, "train"),
        (0, 2, "train"),
        (0, 3, "validation"),
        (0, 4, "test"),
        (1, 1, "train"),
        (1, 2, "train"),
        (2, 5, "train"),
    ]


def test_user_ratio_by_hand():
    """Ten interactions are cut after 8 and 9, five after 4 and 4."""
    split = user_ratio_split(order_interactions(table([range(10), range(5)])))
    expected = ["train"] * 8 + ["validation", "test"] + ["train"] * 4 + ["test"]
    assert split["split"].to_list() == expected


@pytest.mark.parametrize("split", [leave_one_out_split, user_ratio_split])
def test_splits_that_leak_say_so(split, monkeypatch):
    said = []
    monkeypatch.setattr("patchrec_hf.data.splits.logger.warning_once", said.append)
    split(order_interactions(table([range(10)])))
    assert said == [said[0]]
    assert "leaks the future" in said[0]
    assert "`temporal_split` does not" in said[0]


@pytest.mark.parametrize("split", [temporal_split, user_ratio_split])
@pytest.mark.parametrize("cuts", [(0.9, 0.8), (0.8, 0.8), (0, 0.5), (0.5, 1.0)])
def test_cuts_ascend(split, cuts):
    with pytest.raises(ValueError, match="`cuts` must ascend between 0 and 1"):
        split(order_interactions(table([range(10)])), cuts=cuts)


def test_splits_that_are_empty():
    with pytest.raises(ValueError, match=r"leaves \['test', 'validation'\] empty: no user has three"):
        leave_one_out_split(order_interactions(table([[1, 2], [3]])))
    with pytest.raises(ValueError, match=r"leaves \['train', 'validation'\] empty: histories are too short"):
        user_ratio_split(order_interactions(table([[1], [3]])))


def test_temporal_split_by_hand():
    # Ten interactions in order of time: five train, two validation, three test.
    times = [50, 10, 90, 30, 70, 20, 100, 40, 80, 60]
    ordered = order_interactions(interactions_of(*[(time % 3, time, time) for time in times]))
    split = temporal_split(ordered, cuts=(0.5, 0.7))
    assert dict(split.select("timestamp", "split").rows()) == {
        **dict.fromkeys([10, 20, 30, 40, 50], "train"),
        **dict.fromkeys([60, 70], "validation"),
        **dict.fromkeys([80, 90, 100], "test"),
    }
    assert split.drop("split").equals(ordered)


def test_temporal_split_gives_ties_at_a_cut_to_the_earlier_split():
    times = [1, 2, 3, 4, 5, 5, 6, 6, 7, 8]
    split = temporal_split(order_interactions(interactions_of(*[(1, 1, time) for time in times])), cuts=(0.5, 0.7))
    # The fifth is at time 5 and the seventh at time 6.
    assert split["split"].to_list() == ["train"] * 6 + ["validation"] * 2 + ["test"] * 2


def test_temporal_split_defaults_to_the_papers_shares():
    rows = [(time % 7, time, time) for time in range(50)]
    split = temporal_split(order_interactions(interactions_of(*rows)))
    assert split.sort("timestamp")["split"].to_list() == ["train"] * 48 + ["validation"] + ["test"]


@pytest.mark.parametrize(
    ("times", "empty"),
    [
        ([1, 2, 3, 4, 5, 5, 5, 6, 7, 8], r"\['validation'\]"),
        ([1, 2, 3, 4, 5, 6, 8, 8, 8, 8], r"\['test'\]"),
        ([1] * 10, r"\['test', 'validation'\]"),
    ],
)
def test_temporal_split_names_the_empty_splits(times, empty):
    ordered = order_interactions(interactions_of(*[(1, 1, time) for time in times]))
    with pytest.raises(ValueError, match=f"leaves {empty} empty"):
        temporal_split(ordered, cuts=(0.5, 0.7))


def test_temporal_split_needs_times():
    ordered = order_interactions(interactions_of((1, 10, 0), order="position"))
    with pytest.raises(ValueError, match="needs the column 'timestamp'"):
        temporal_split(ordered)
