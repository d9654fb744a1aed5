"""Example rows, made of split interactions."""

from datetime import datetime
from unittest.mock import patch

import polars as pl
import pytest
from datasets import Dataset, concatenate_datasets
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import HISTORIES, catalog_of, frame, interactions_of, rows_of, split_interactions
from tiers import scaled

from patchrec_hf.data.examples import make_rows, rows_to_interactions
from patchrec_hf.data.interactions import order_interactions
from patchrec_hf.data.rows import check_rows
from patchrec_hf.data.splits import SPLITS, temporal_split
from patchrec_hf.runtime.catalog import Catalog


def test_make_examples_by_hand():
    catalog = catalog_of(*range(10, 15), *range(20, 24), 30)
    datasets = make_rows(split_interactions(HISTORIES), catalog, min_history=1)
    assert list(datasets) == ["train", "validation", "test"]
    assert rows_of(datasets["train"]) == [
        (1, [20, 21, 22], [2]),
        (3, [10, 11], [1]),
        (3, [10, 11, 12], [2]),
    ]
    assert rows_of(datasets["validation"]) == [(1, [20, 21], [1]), (3, [10, 11, 12, 13], [3])]
    assert rows_of(datasets["test"]) == [(1, [20, 21, 22, 23], [3]), (3, [10, 11, 12, 13, 14], [4])]
    assert datasets["test"].column_names == ["user_id", "item_ids", "target_positions"]


def test_make_examples_keeps_the_latest_of_a_long_history():
    catalog = catalog_of(*range(10, 15), *range(20, 24), 30)
    datasets = make_rows(split_interactions(HISTORIES), catalog, max_history=2, min_history=1)
    assert rows_of(datasets["train"]) == [
        (1, [20, 21, 22], [2]),
        (3, [10, 11], [1]),
        (3, [10, 11, 12], [2]),
    ]
    assert rows_of(datasets["test"]) == [(1, [21, 22, 23], [2]), (3, [12, 13, 14], [2])]


def test_make_examples_leaves_out_short_histories():
    """They are counted before the cut at `max_history`."""
    catalog = catalog_of(*range(10, 15), *range(20, 24), 30)
    datasets = make_rows(split_interactions(HISTORIES), catalog, max_history=1, min_history=2)
    assert rows_of(datasets["train"]) == [(1, [21, 22], [1]), (3, [11, 12], [1])]
    assert rows_of(datasets["validation"]) == [(3, [12, 13], [1])]
    assert rows_of(datasets["test"]) == [(1, [22, 23], [1]), (3, [13, 14], [1])]


def test_blocks_by_hand():
    """Positions 1 to 4 and 5 to 8 of a user, from windows that start four items earlier; 4 is not trained on."""
    splits = ["train"] * 4 + ["validation"] + ["train"] * 4 + ["test"]
    histories = {1: [(item, split) for item, split in enumerate(splits)], 2: [(20, "train"), (21, "train")]}
    datasets = make_rows(
        split_interactions(histories), catalog_of(*range(10), 20, 21), max_history=4, min_history=1, targets_per_row=4
    )
    assert rows_of(datasets["train"]) == [
        (1, [0, 1, 2, 3], [1, 2, 3]),  # positions 1 to 4
        (1, [1, 2, 3, 4, 5, 6, 7, 8], [4, 5, 6, 7]),  # positions 5 to 8
        (2, [20, 21], [1]),
    ]
    assert rows_of(datasets["validation"]) == [(1, [0, 1, 2, 3, 4], [4])]
    assert rows_of(datasets["test"]) == [(1, [5, 6, 7, 8, 9], [4])]


@pytest.mark.slow
@settings(max_examples=scaled(30))
@given(
    st.lists(st.lists(st.sampled_from(SPLITS), min_size=2, max_size=20), min_size=1, max_size=4),
    st.integers(1, 6),
    st.data(),
)
def test_blocks_hold_every_target_once_and_at_least_its_history(splits_of_users, max_history, data):
    """Split in any way, even with targets that do not follow each other."""
    size = data.draw(st.integers(1, max_history))
    splits_of_users = [*splits_of_users, [split for split in SPLITS for _ in range(3)]]
    histories = {
        user: [(100 * user + place, split) for place, split in enumerate(splits)]
        for user, splits in enumerate(splits_of_users)
    }
    catalog = catalog_of(*(item for history in histories.values() for item, _ in history))
    kwargs = {"max_history": max_history, "min_history": 1}
    one = make_rows(split_interactions(histories), catalog, **kwargs)
    blocks = make_rows(split_interactions(histories), catalog, **kwargs, targets_per_row=size)
    assert rows_of(blocks["validation"]) == rows_of(one["validation"])
    assert rows_of(blocks["test"]) == rows_of(one["test"])
    expected = {row["item_ids"][-1]: row["item_ids"][:-1] for row in one["train"]}
    seen = []
    for row in blocks["train"]:
        items, targets = row["item_ids"], row["target_positions"]
        assert targets[-1] == len(items) - 1
        assert targets[-1] - targets[0] < size
        assert targets[0] <= max_history
        for position in targets:
            history = expected[items[position]]
            assert items[:position][-len(history) :] == history
            seen.append(items[position])
    assert seen == list(expected)


@pytest.mark.parametrize("targets_per_row", [0, 5, "4", 2.0, None])
def test_targets_per_row_out_of_range(targets_per_row):
    with pytest.raises(ValueError, match=rf"between 1 and `max_history` \(4\), got {targets_per_row!r}"):
        make_rows(split_interactions(HISTORIES), catalog_of(10), 4, targets_per_row=targets_per_row)


def test_make_examples_needs_one_earlier_item():
    """Even if none is asked for: the first of a history has nothing to be predicted from."""
    catalog = catalog_of(*range(10, 15), *range(20, 24), 30)
    none, one = (make_rows(split_interactions(HISTORIES), catalog, min_history=min_history) for min_history in (0, 1))
    assert {split: rows_of(none[split]) for split in SPLITS} == {split: rows_of(one[split]) for split in SPLITS}


def test_make_examples_names_the_unknown_item():
    with pytest.raises(KeyError, match="Item id 14 is not in the catalog"):
        make_rows(split_interactions(HISTORIES), catalog_of(*range(10, 14), *range(20, 24), 30))


def test_make_examples_needs_a_split():
    with pytest.raises(ValueError, match="no column 'split'"):
        make_rows(split_interactions(HISTORIES).drop("split"), catalog_of(10))


def test_make_examples_refuses_a_negative_number_of_earlier_items():
    with pytest.raises(ValueError, match="`min_history` must be at least 0, got -3"):
        make_rows(split_interactions(HISTORIES), catalog_of(10), min_history=-3)


@pytest.mark.parametrize("empty", SPLITS)
def test_make_examples_names_the_split_without_examples(empty):
    """Missing from the table, or only with histories that are too short."""
    others = [split for split in SPLITS if split != empty]
    long = [(item, others[item % 2]) for item in range(6)]
    for histories in ({1: long}, {1: long, 2: [(6, empty)] * 2}):
        with pytest.raises(ValueError, match=f"split '{empty}' has no interaction with at least 2 earlier ones"):
            make_rows(split_interactions(histories), catalog_of(*range(7)), min_history=2)


@pytest.mark.slow
@settings(max_examples=scaled(30))
@given(
    st.lists(st.lists(st.integers(0, 25), min_size=3, max_size=12), min_size=1, max_size=6),
    st.integers(1, 8),
    st.integers(0, 2),
)
def test_rows_hold_nothing_at_or_after_their_target(times_of_users, max_history, min_history):
    """Each interaction is an item of its own, so that a row says exactly what it has seen."""
    rows = [(user, time) for user, times in enumerate(times_of_users) for time in times]
    # Somebody who is active all the time fills every split.
    rows += [(99, time) for time in range(26)]
    frame = interactions_of(*[(user, item, time) for item, (user, time) in enumerate(rows)])
    ordered = temporal_split(order_interactions(frame), cuts=(0.5, 0.8))
    datasets = make_rows(ordered, catalog_of(*range(len(rows))), max_history, min_history)
    known = {row["item_id"]: row for row in ordered.rows(named=True)}
    targets = []
    for split, dataset in datasets.items():
        for row in dataset:
            *history, target = row["item_ids"]
            targets.append(target)
            assert row["target_positions"] == [len(history)]
            assert known[target]["split"] == split
            assert 1 <= len(history) <= max_history
            assert {known[item]["user_id"] for item in row["item_ids"]} == {row["user_id"]}
            positions = [known[item]["position"] for item in row["item_ids"]]
            assert positions == list(range(positions[0], positions[0] + len(positions)))
            assert len(history) == min(max_history, known[target]["position"])
            assert all(rows[item][1] <= rows[target][1] for item in history)
    predicted = [item for item, row in known.items() if row["position"] >= max(1, min_history)]
    assert sorted(targets) == sorted(predicted)


@pytest.mark.slow
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=6),
    st.integers(4, 20),
    st.sampled_from([1, 3, 100]),
    st.randoms(),
)
def test_interactions_of_examples_are_those_they_were_made_of(lengths, max_history, rows_at_a_time, random):
    """Whatever the order of the rows; users with too few interactions have no rows."""
    users = [user for user, length in enumerate(lengths) for _ in range(length)]
    items = [random.randrange(1, 9) for _ in users]
    positions = [place for length in lengths for place in range(length)]
    train = pl.DataFrame({"user_id": users, "item_id": items, "position": positions, "split": ["train"] * len(users)})
    rest = pl.DataFrame(
        {
            "user_id": [99] * 8,
            "item_id": [1] * 8,
            "position": range(8),
            "split": ["train"] * 4 + ["validation", "test"] * 2,
        }
    )
    examples = make_rows(order_interactions(pl.concat([train, rest])), catalog_of(*range(1, 9)), max_history)
    with patch("patchrec_hf.data.rows.CHUNK_ROWS", rows_at_a_time):
        found = rows_to_interactions(examples["train"].shuffle(seed=random.randrange(99)))
    expected = [(user, item) for user, item in zip(users, items, strict=True) if lengths[user] > 3]
    assert sorted(found.rows()) == sorted([*expected, *[(99, 1)] * 4])


@pytest.mark.parametrize("last", [None, "tset"])
def test_unknown_splits_are_refused(last):
    interactions = order_interactions(frame(split=["train"] * 5 + ["validation"] * 2 + ["test", last]))
    with pytest.raises(ValueError, match="one of"):
        make_rows(interactions, Catalog.from_titles({i: f"b{i}" for i in range(9)}), min_history=1)


@pytest.mark.parametrize("max_history", [0, -1])
def test_max_history_must_be_positive(max_history):
    interactions = order_interactions(frame(split=["train"] * 5 + ["validation"] * 2 + ["test"] * 2))
    with pytest.raises(ValueError, match="max_history"):
        make_rows(interactions, Catalog.from_titles({i: f"b{i}" for i in range(9)}), max_history=max_history)


def timed(*rows):
    """`(user, item, time, split)` as ordered interactions."""
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "split"], orient="row")
    return order_interactions(table)


TIMES_BY_HAND = [
    (1, 10, 100, "train"),
    (1, 11, 100, "train"),
    (1, 12, 300, "train"),
    (1, 13, 400, "validation"),
    (1, 14, 500, "test"),
    (2, 20, 150, "train"),
    (2, 21, 450, "validation"),
    (2, 22, 550, "test"),
]


def test_rows_keep_the_times_of_their_items():
    catalog = catalog_of(*range(10, 15), *range(20, 23))
    datasets = make_rows(timed(*TIMES_BY_HAND), catalog, max_history=2, min_history=1, targets_per_row=2)
    assert datasets["test"].column_names == ["user_id", "item_ids", "target_positions", "timestamps"]
    assert datasets["train"].to_list() == [
        {"user_id": 1, "item_ids": [10, 11, 12], "target_positions": [1, 2], "timestamps": [100, 100, 300]}
    ]
    assert datasets["test"]["timestamps"][:] == [[300, 400, 500], [150, 450, 550]]
    assert datasets["train"].features["timestamps"] == datasets["train"].features["target_positions"]
    for dataset in datasets.values():
        check_rows(dataset)


def test_times_of_any_whole_type_are_kept_as_int64():
    for kind in (pl.Int32, pl.UInt64):
        interactions = timed(*TIMES_BY_HAND).with_columns(pl.col("timestamp").cast(kind))
        rows = make_rows(interactions, catalog_of(*range(10, 15), *range(20, 23)), min_history=1)
        assert rows["train"].features["timestamps"] == rows["train"].features["target_positions"]


def test_times_that_contradict_the_positions_are_left_out(monkeypatch):
    warnings = []
    monkeypatch.setattr("patchrec_hf.data.interactions.logger.warning_once", warnings.append)
    interactions = order_interactions(
        frame(split=["train"] * 5 + ["validation"] * 2 + ["test"] * 2, timestamp=[1, 2, 3, 2, 5, 6, 7, 8, 9])
    )
    rows = make_rows(interactions, catalog_of(*range(9)), min_history=1)
    assert rows["train"].column_names == ["user_id", "item_ids", "target_positions"]
    assert len(warnings) == 1
    assert "1 interactions have an earlier `timestamp` than the one before them" in warnings[0]


def test_interactions_of_rows_with_times_by_hand():
    """No row of user 1 before the target at 100 holds item 10, and no row of user 2 before 450 holds item 20."""
    catalog = catalog_of(*range(10, 15), *range(20, 23))
    splits = make_rows(timed(*TIMES_BY_HAND), catalog, max_history=3, min_history=1)
    assert sorted(rows_to_interactions(splits["train"]).rows()) == [
        (1, 10, 100, 100),
        (1, 11, 100, 100),
        (1, 12, 300, 300),
    ]
    joined = concatenate_datasets([splits["test"], splits["train"], splits["validation"]])
    found = rows_to_interactions(joined)
    assert found.columns == ["user_id", "item_id", "timestamp", "known_at"]
    assert sorted(found.rows()) == [
        (user, item, time, 450 if item == 20 else time) for user, item, time, _ in TIMES_BY_HAND
    ]


def test_interactions_of_overlapping_rows_count_once():
    """User 1 has item 10 twice at the time 5, as one row shows. Several rows predict the items 11 and 12."""
    rows = [
        {"user_id": 1, "item_ids": [10, 10, 11], "target_positions": [1, 2], "timestamps": [5, 5, 6]},
        {"user_id": 1, "item_ids": [10, 10, 11, 12], "target_positions": [1, 3], "timestamps": [5, 5, 6, 7]},
        {"user_id": 1, "item_ids": [10, 11, 12], "target_positions": [1, 2], "timestamps": [5, 6, 7]},
        {"user_id": 2, "item_ids": [10, 11], "target_positions": [1], "timestamps": [5, 6]},
    ]
    assert sorted(rows_to_interactions(Dataset.from_list(rows)).rows()) == [
        (1, 10, 5, 5),
        (1, 10, 5, 5),
        (1, 11, 6, 6),
        (1, 12, 7, 7),
        (2, 10, 5, 6),
        (2, 11, 6, 6),
    ]


@pytest.mark.slow
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 20), st.integers(1, 4), st.sampled_from(SPLITS)), min_size=1, max_size=9),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_all_splits_together_hold_each_interaction_once(histories, more_history, size, min_history):
    """Whichever rows name it. Those of a user without a target are in no row."""
    first = max(1, min_history)
    max_history = first + more_history
    size = min(size, max_history)
    # No interaction comes twice with the same time; so each can be told from the others.
    rows = [
        (user, item, time, split)
        for user, history in enumerate(histories)
        for time, item, split in {(time, item): (time, item, split) for time, item, split in history}.values()
    ]
    rows += [(99, 1, 30 + place, SPLITS[place // 4]) for place in range(12)]
    interactions = timed(*rows)
    splits = make_rows(interactions, catalog_of(1, 2, 3, 4), max_history, min_history, size)
    joined = concatenate_datasets(list(splits.values()))
    found = rows_to_interactions(joined).rows()
    assert len(found) == len(set(found))
    lengths = dict(interactions.group_by("user_id").len().rows())
    expected = [
        row[:3] for row in interactions.select("user_id", "item_id", "timestamp").rows() if lengths[row[0]] > first
    ]
    assert sorted(row[:3] for row in found) == sorted(expected)
    assert all(known_at >= time for _, _, time, known_at in found)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([1, 2, None, 4], "holds 1 nulls"),
        ([1.5, 2.0, 3.0, 4.0], r"must hold whole seconds since 1970 UTC, got Float64"),
        ([datetime(2020, 1, day) for day in (1, 2, 3, 4)], r"got Datetime.*dt\.epoch\('s'\)"),
    ],
)
def test_times_that_are_no_seconds(times, message):
    """Rows would hold other numbers: microseconds, or numbers that are cut."""
    catalog = Catalog.from_titles({item: f"title {item}" for item in range(4)})
    split = ["train", "train", "validation", "test"]
    interactions = pl.DataFrame(
        {"user_id": [1] * 4, "item_id": range(4), "position": range(4), "split": split, "timestamp": times}
    )
    with pytest.raises(ValueError, match=message):
        make_rows(interactions, catalog, min_history=1)
