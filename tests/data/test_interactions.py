"""Tests of the data: interactions, splits, example rows, loading, and the popularity baseline."""

import os
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from patchrec_hf.baselines.popularity import Popularity
from patchrec_hf.data.examples import examples_to_interactions, make_examples
from patchrec_hf.data.interactions import order_interactions, read_directory
from patchrec_hf.data.loading import load_recommendation_data
from patchrec_hf.data.splits import SPLITS, temporal_split
from patchrec_hf.evaluation.targets import score_targets
from patchrec_hf.runtime.catalog import Catalog


GOODREADS_DIR = os.environ.get("PATCHREC_GOODREADS_DIR")
ML100K_DIR = os.environ.get("PATCHREC_ML100K_DIR")


def catalog_of(*item_ids):
    return Catalog.from_titles({item_id: f"title {item_id}" for item_id in item_ids})


def interactions_of(*rows, order="timestamp"):
    return pl.DataFrame(rows, schema=["user_id", "item_id", order], orient="row")


def split_interactions(histories):
    """`{user: [(item, split), …]}` as ordered interactions."""
    rows = [
        (user, item, position, split)
        for user, history in histories.items()
        for position, (item, split) in enumerate(history)
    ]
    return order_interactions(pl.DataFrame(rows, schema=["user_id", "item_id", "position", "split"], orient="row"))


def test_order_interactions_by_timestamp():
    ordered = order_interactions(
        interactions_of((2, 20, 5), (1, 10, 9), (2, 21, 1), (1, 11, 3), (1, 12, 6), (2, 22, 3))
    )
    assert ordered.select("user_id", "item_id", "position").rows() == [
        (1, 11, 0),
        (1, 12, 1),
        (1, 10, 2),
        (2, 21, 0),
        (2, 22, 1),
        (2, 20, 2),
    ]
    assert ordered["timestamp"].to_list() == [3, 6, 9, 1, 3, 5]
    assert ordered.schema["user_id"] == ordered.schema["item_id"] == ordered.schema["position"] == pl.Int64


def test_order_interactions_keeps_the_order_of_ties():
    rng = np.random.default_rng(0)
    users, times = rng.integers(0, 3, 300), rng.integers(0, 4, 300)
    frame = pl.DataFrame({"user_id": users, "item_id": np.arange(300), "timestamp": times})
    expected = sorted(range(300), key=lambda row: (users[row], times[row]))
    assert order_interactions(frame)["item_id"].to_list() == expected


def test_order_interactions_counts_positions_from_zero():
    """A given position says the order; with both, it wins over the time."""
    frame = interactions_of((1, 10, 7), (1, 11, 5), (2, 12, 3), (1, 13, 12), order="position")
    ordered = order_interactions(frame.with_columns(timestamp=pl.lit(0)))
    assert ordered.select("item_id", "position").rows() == [(11, 0), (10, 1), (13, 2), (12, 0)]
    assert order_interactions(ordered).equals(ordered)


@pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp"])
def test_order_interactions_names_the_missing_column(column):
    with pytest.raises(ValueError, match=f"no column '{column}'"):
        order_interactions(interactions_of((1, 10, 5)).drop(column))


@pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp"])
def test_order_interactions_refuses_nulls(column):
    frame = interactions_of((1, 10, 5), (1, 11, 6), (2, 12, 7))
    holed = frame.with_columns(pl.when(pl.int_range(pl.len()) > 0).then(pl.col(column)).alias(column))
    with pytest.raises(ValueError, match=f"'{column}' of the interactions holds 1 nulls"):
        order_interactions(holed)


def test_order_interactions_refuses_an_empty_table():
    with pytest.raises(ValueError, match="There are no interactions"):
        order_interactions(interactions_of((1, 10, 5)).clear())


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


HISTORIES = {
    3: [(10, "train"), (11, "train"), (12, "train"), (13, "validation"), (14, "test")],
    1: [(20, "train"), (21, "validation"), (22, "train"), (23, "test")],
    2: [(30, "test")],
}


def rows_of(dataset):
    return [(row["user_id"], row["item_ids"], row["target_positions"]) for row in dataset]


def test_make_examples_by_hand():
    catalog = catalog_of(*range(10, 15), *range(20, 24), 30)
    datasets = make_examples(split_interactions(HISTORIES), catalog, min_history=1)
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
    datasets = make_examples(split_interactions(HISTORIES), catalog, max_history=2, min_history=1)
    assert rows_of(datasets["train"]) == [
        (1, [20, 21, 22], [2]),
        (3, [10, 11], [1]),
        (3, [10, 11, 12], [2]),
    ]
    assert rows_of(datasets["test"]) == [(1, [21, 22, 23], [2]), (3, [12, 13, 14], [2])]


def test_make_examples_leaves_out_short_histories():
    """They are counted before the cut at `max_history`."""
    catalog = catalog_of(*range(10, 15), *range(20, 24), 30)
    datasets = make_examples(split_interactions(HISTORIES), catalog, max_history=1, min_history=2)
    assert rows_of(datasets["train"]) == [(1, [21, 22], [1]), (3, [11, 12], [1])]
    assert rows_of(datasets["validation"]) == [(3, [12, 13], [1])]
    assert rows_of(datasets["test"]) == [(1, [22, 23], [1]), (3, [13, 14], [1])]


def test_blocks_by_hand():
    """Positions 1 to 4 and 5 to 8 of a user, from windows that start four items earlier; 4 is not trained on."""
    splits = ["train"] * 4 + ["validation"] + ["train"] * 4 + ["test"]
    histories = {1: [(item, split) for item, split in enumerate(splits)], 2: [(20, "train"), (21, "train")]}
    datasets = make_examples(
        split_interactions(histories), catalog_of(*range(10), 20, 21), max_history=4, min_history=1, targets_per_row=4
    )
    assert rows_of(datasets["train"]) == [
        (1, [0, 1, 2, 3], [1, 2, 3]),  # positions 1 to 4
        (1, [1, 2, 3, 4, 5, 6, 7, 8], [4, 5, 6, 7]),  # positions 5 to 8
        (2, [20, 21], [1]),
    ]
    assert rows_of(datasets["validation"]) == [(1, [0, 1, 2, 3, 4], [4])]
    assert rows_of(datasets["test"]) == [(1, [5, 6, 7, 8, 9], [4])]


@settings(max_examples=30)
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
    one = make_examples(split_interactions(histories), catalog, **kwargs)
    blocks = make_examples(split_interactions(histories), catalog, **kwargs, targets_per_row=size)
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
        make_examples(split_interactions(HISTORIES), catalog_of(10), 4, targets_per_row=targets_per_row)


def test_make_examples_needs_one_earlier_item():
    """Even if none is asked for: the first of a history has nothing to be predicted from."""
    catalog = catalog_of(*range(10, 15), *range(20, 24), 30)
    none, one = (
        make_examples(split_interactions(HISTORIES), catalog, min_history=min_history) for min_history in (0, 1)
    )
    assert {split: rows_of(none[split]) for split in SPLITS} == {split: rows_of(one[split]) for split in SPLITS}


def test_make_examples_names_the_unknown_item():
    with pytest.raises(KeyError, match="Item id 14 is not in the catalog"):
        make_examples(split_interactions(HISTORIES), catalog_of(*range(10, 14), *range(20, 24), 30))


def test_make_examples_needs_a_split():
    with pytest.raises(ValueError, match="no column 'split'"):
        make_examples(split_interactions(HISTORIES).drop("split"), catalog_of(10))


def test_make_examples_refuses_a_negative_number_of_earlier_items():
    with pytest.raises(ValueError, match="`min_history` must be at least 0, got -3"):
        make_examples(split_interactions(HISTORIES), catalog_of(10), min_history=-3)


@pytest.mark.parametrize("empty", SPLITS)
def test_make_examples_names_the_split_without_examples(empty):
    """Missing from the table, or only with histories that are too short."""
    others = [split for split in SPLITS if split != empty]
    long = [(item, others[item % 2]) for item in range(6)]
    for histories in ({1: long}, {1: long, 2: [(6, empty)] * 2}):
        with pytest.raises(ValueError, match=f"split '{empty}' has no interaction with at least 2 earlier ones"):
            make_examples(split_interactions(histories), catalog_of(*range(7)), min_history=2)


@settings(max_examples=30)
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
    datasets = make_examples(ordered, catalog_of(*range(len(rows))), max_history, min_history)
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


@pytest.fixture
def directory(tmp_path):
    # Item ids in no order, no dense user ids, and the rows not sorted by time.
    rows = [(user, 100 - item, 10 * item + user) for item in range(10) for user in (40, 7)][::-1]
    interactions_of(*rows).write_parquet(tmp_path / "interactions.parquet")
    items = pl.DataFrame({"item_id": range(100, 90, -1), "title": [f"t{item}" for item in range(10)]})
    items.write_parquet(tmp_path / "items.parquet")
    return tmp_path


@pytest.mark.parametrize("as_type", [str, lambda path: path])
def test_read_directory(directory, as_type):
    interactions, catalog = read_directory(as_type(directory))
    assert interactions["user_id"].to_list() == [7] * 10 + [40] * 10
    assert interactions["item_id"].to_list() == list(range(100, 90, -1)) * 2
    assert interactions["position"].to_list() == list(range(10)) * 2
    assert catalog.titles[:2] == ("t0", "t1")


@pytest.mark.parametrize("name", ["interactions.parquet", "items.parquet"])
def test_read_directory_names_the_missing_file(directory, name):
    (directory / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"holds no {name}"):
        read_directory(directory)


def test_read_directory_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file, directory or public data set .*nowhere"):
        load_recommendation_data(tmp_path / "nowhere")


def test_read_directory_checks_the_interactions(directory):
    interactions_of((1, 100, 5)).drop("timestamp").write_parquet(directory / "interactions.parquet")
    with pytest.raises(ValueError, match="no column 'timestamp'"):
        read_directory(directory)


def test_load_splits_a_directory_in_time(directory):
    """Of 20 interactions 19 are train at a cut of 0.96, and none is left between it and 0.98."""
    with pytest.raises(ValueError, match=r"leaves \['validation'\] empty"):
        load_recommendation_data(directory)


def test_load_keeps_the_split_of_a_directory(directory):
    split = pl.when(pl.col("timestamp") < 70).then(pl.lit("train")).when(pl.col("timestamp") < 100)
    frame = pl.read_parquet(directory / "interactions.parquet")
    # Categories, as the paper's Goodreads is stored.
    named = split.then(pl.lit("validation")).otherwise(pl.lit("test")).cast(pl.Categorical).alias("split")
    frame.with_columns(named).write_parquet(directory / "interactions.parquet")
    datasets, catalog = load_recommendation_data(directory, max_history=4, min_history=5)
    assert rows_of(datasets["train"]) == [
        (7, [99, 98, 97, 96, 95], [4]),
        (7, [98, 97, 96, 95, 94], [4]),
    ]
    # User 7 (times 7, 17, …, 97) and user 40 (times 40, 50, …, 130).
    assert [row["user_id"] for row in datasets["validation"]] == [7, 7, 7, 40]
    assert [row["user_id"] for row in datasets["test"]] == [40, 40, 40, 40]
    assert len(catalog) == 10


def test_load_the_sample():
    datasets, catalog = load_recommendation_data("sample")
    sizes = {split: dataset.num_rows for split, dataset in datasets.items()}
    assert list(sizes) == list(SPLITS)
    # The shares are 48 : 1 : 1, but for ties and for the readers' first three books, which are mostly train.
    total = sum(sizes.values())
    assert sizes["train"] / total == pytest.approx(0.96, abs=0.01)
    assert sizes["validation"] / total == pytest.approx(0.02, abs=0.005)
    assert sizes["test"] / total == pytest.approx(0.02, abs=0.005)
    rows = rows_of(datasets["test"])
    assert all(3 <= len(item_ids) - 1 <= 100 and targets == [len(item_ids) - 1] for _, item_ids, targets in rows)
    # Nobody reads a book twice, so no target stands in its own history.
    assert all(item_ids[-1] not in item_ids[:-1] for _, item_ids, _ in rows)
    assert catalog.indices_of([item for _, item_ids, _ in rows for item in item_ids]).max() < len(catalog)


def test_load_the_sample_with_short_histories():
    datasets, _ = load_recommendation_data("sample", max_history=5, min_history=30)
    assert {len(item_ids) for _, item_ids, _ in rows_of(datasets["validation"])} == {6}


@pytest.mark.skipif(not GOODREADS_DIR, reason="set PATCHREC_GOODREADS_DIR to a directory with the paper's Goodreads")
def test_goodreads_has_the_papers_test_examples():
    datasets, _ = load_recommendation_data(GOODREADS_DIR)
    assert datasets["test"].num_rows == 3248


@pytest.mark.skipif(not GOODREADS_DIR, reason="set PATCHREC_GOODREADS_DIR to a directory with the paper's Goodreads")
@pytest.mark.parametrize(("exclude_seen", "expected"), [(True, 0.010), (False, 0.008)])
def test_popularity_on_goodreads(exclude_seen, expected):
    datasets, catalog = load_recommendation_data(GOODREADS_DIR)
    popularity = Popularity(catalog).fit(datasets["train"])
    report = score_targets(popularity, catalog, datasets["test"], exclude_seen=exclude_seen, show_progress=False)
    assert len(report.examples) == 3248
    assert report.metrics()["hr@20"] == pytest.approx(expected, abs=0.0005)


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
    examples = make_examples(order_interactions(pl.concat([train, rest])), catalog_of(*range(1, 9)), max_history)
    with patch("patchrec_hf.data.examples._ROWS_AT_A_TIME", rows_at_a_time):
        found = examples_to_interactions(examples["train"].shuffle(seed=random.randrange(99)))
    expected = [(user, item) for user, item in zip(users, items, strict=True) if lengths[user] > 3]
    assert sorted(found.rows()) == sorted([*expected, *[(99, 1)] * 4])


def test_popularity_by_hand():
    catalog = catalog_of(30, 10, 20, 40)
    rows = [
        {"user_id": 1, "item_ids": [30, 20, 30, 10], "target_positions": [3]},
        {"user_id": 1, "item_ids": [30, 20, 30], "target_positions": [2]},
        {"user_id": 2, "item_ids": [10, 20, 20, 10], "target_positions": [1, 3]},
    ]
    popularity = Popularity(catalog)
    assert popularity.fit(Dataset.from_list(rows)) is popularity
    # Of the first user, both targets and what stands before the first of them; of the second, 10, 20 and 10.
    scores = popularity.score([[30, 40], [10]])
    assert scores.tolist() == [[2, 3, 2, 0], [2, 3, 2, 0]]
    assert scores.dtype == np.float64
    assert popularity.score([]).shape == (0, 4)


def test_popularity_is_fitted_anew():
    popularity = Popularity(catalog_of(1, 2))
    first, second = (
        Dataset.from_list([{"user_id": 1, "item_ids": [1, item], "target_positions": [1]}]) for item in (1, 2)
    )
    assert popularity.fit(first).fit(second).score([[1]]).tolist() == [[1, 1]]


def test_popularity_refuses_an_unknown_item():
    dataset = Dataset.from_list([{"user_id": 1, "item_ids": [1, 5], "target_positions": [1]}])
    with pytest.raises(KeyError, match="Item id 5"):
        Popularity(catalog_of(1, 2)).fit(dataset)


def frame(**columns):
    return pl.DataFrame({"user_id": [1] * 9, "item_id": list(range(9)), "position": list(range(9)), **columns})


@pytest.mark.parametrize("timestamps", [[None, *range(8)], [float("nan"), *map(float, range(8))]])
def test_timestamps_beside_positions_are_checked_too(timestamps):
    with pytest.raises(ValueError, match="'timestamp'"):
        order_interactions(frame(timestamp=timestamps))


def test_user_ids_are_whole_numbers():
    with pytest.raises(ValueError, match="'user_id' of the interactions must hold whole numbers"):
        order_interactions(frame().with_columns(pl.col("user_id") + 0.5))


@pytest.mark.parametrize("last", [None, "tset"])
def test_unknown_splits_are_refused(last):
    interactions = order_interactions(frame(split=["train"] * 5 + ["validation"] * 2 + ["test", last]))
    with pytest.raises(ValueError, match="one of"):
        make_examples(interactions, Catalog.from_titles({i: f"b{i}" for i in range(9)}), min_history=1)


@pytest.mark.parametrize("max_history", [0, -1])
def test_max_history_must_be_positive(max_history):
    interactions = order_interactions(frame(split=["train"] * 5 + ["validation"] * 2 + ["test"] * 2))
    with pytest.raises(ValueError, match="max_history"):
        make_examples(interactions, Catalog.from_titles({i: f"b{i}" for i in range(9)}), max_history=max_history)
