"""Interactions: their checks, their order, and directories that hold them."""

import numpy as np
import polars as pl
import pytest
from small_data import frame, interactions_of, write_directory

from patchrec_hf.data.interactions import order_interactions, read_directory


@pytest.fixture
def directory(tmp_path):
    return write_directory(tmp_path)


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


@pytest.mark.parametrize("as_type", [str, lambda path: path])
def test_read_directory(directory, as_type):
    interactions, items = read_directory(as_type(directory))
    assert interactions["user_id"].to_list() == [7] * 10 + [40] * 10
    assert interactions["item_id"].to_list() == list(range(100, 90, -1)) * 2
    assert interactions["position"].to_list() == list(range(10)) * 2
    assert items["title"].to_list()[:2] == ["t0", "t1"]


@pytest.mark.parametrize("name", ["interactions.parquet", "items.parquet"])
def test_read_directory_names_the_missing_file(directory, name):
    (directory / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"holds no {name}"):
        read_directory(directory)


def test_read_directory_checks_the_interactions(directory):
    interactions_of((1, 100, 5)).drop("timestamp").write_parquet(directory / "interactions.parquet")
    with pytest.raises(ValueError, match="no column 'timestamp'"):
        read_directory(directory)


@pytest.mark.parametrize("timestamps", [[None, *range(8)], [float("nan"), *map(float, range(8))]])
def test_timestamps_beside_positions_are_checked_too(timestamps):
    with pytest.raises(ValueError, match="'timestamp'"):
        order_interactions(frame(timestamp=timestamps))


def test_user_ids_are_whole_numbers():
    with pytest.raises(ValueError, match="'user_id' of the interactions must hold whole numbers"):
        order_interactions(frame().with_columns(pl.col("user_id") + 0.5))
