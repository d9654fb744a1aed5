"""Prepared data: what is made of raw data, and how it is kept."""

from functools import partial

import polars as pl
import pyarrow.parquet as pq
import pytest
from sixty_users import COLUMNS, CUTS, preparation_rows

from patchrec_hf import (
    Filters,
    PreparedData,
    leave_one_out_split,
    load_recommendation_data,
    prepare_data,
    temporal_split,
)
from patchrec_hf.data import preparation
from patchrec_hf.data.preparation import prepare, write_sequences
from patchrec_hf.data.raw import RawData


def test_an_interrupted_preparation_leaves_nothing(log, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "_write_by_users", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare_data(log, split=CUTS, columns=COLUMNS, cache_dir=tmp_path / "cache")
    monkeypatch.undo()
    assert len(prepare_data(log, split=CUTS, columns=COLUMNS, cache_dir=tmp_path / "cache").interactions) == 480


def test_prepared_data_is_saved_and_loaded(data, tmp_path):
    data.save(tmp_path / "saved")
    loaded = PreparedData.load(tmp_path / "saved")
    assert loaded.interactions.equals(data.interactions)
    assert loaded.items.equals(data.items)
    assert loaded.users.equals(data.users)
    assert (loaded.name, loaded.steps, loaded.license_terms) == (data.name, data.steps, data.license_terms)
    with pytest.raises(FileExistsError, match="is not empty"):
        data.save(tmp_path / "saved")
    examples, _ = load_recommendation_data(tmp_path / "saved", 5)
    assert {split: rows.to_list() for split, rows in examples.items()} == preparation_rows(data, max_history=5)
    others, _ = load_recommendation_data(tmp_path / "saved", 5, split=leave_one_out_split)
    assert len(others["test"]) == 60


def test_sequences_are_written_group_by_group(data, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "_GROUP_SIZE", 50)
    data.save(tmp_path / "saved")
    assert pq.read_metadata(tmp_path / "saved" / "interactions.parquet").num_row_groups > 3
    write_sequences(tmp_path / "saved" / "interactions.parquet", tmp_path / "sequences.parquet")
    found = pl.read_parquet(tmp_path / "sequences.parquet")
    names = [name for name in ("item_id", "timestamp", "split") if name in data.interactions.columns]
    rows = data.interactions.with_columns(pl.col("split").cast(pl.String))
    assert found.equals(rows.group_by("user_id", maintain_order=True).agg(*names))


def test_a_title_rule_that_leaves_nothing(log):
    with pytest.raises(ValueError, match="has an empty title"):
        prepare_data(log, split=CUTS, columns=COLUMNS, title_rule=lambda title: "")


def test_raw_data_is_prepared_by_hand():
    """Users are sorted by their ids, and items stay in the order of the table of items."""
    interactions = pl.DataFrame(
        {
            "user_id": ["bob", "ann", "ann", "bob"],
            "item_id": ["y", "x", "y", "z"],
            "timestamp": [2_500, 3_000, 1_000, 4_000],
        }
    )
    items = pl.DataFrame({"item_id": ["y", "x", "z", "w"], "title": ["Ink", "Pen", None, "Nib"]})
    raw = RawData(interactions, items, {"users": 2, "items": 3, "interactions": 4}, ticks_per_second=1000)
    split = partial(temporal_split, cuts=(0.4, 0.7))
    data = prepare("small", raw, Filters(drop_untitled=True), split, title_rule=str.upper)
    assert data.interactions.select("user_id", "item_id", "timestamp", "position", "split").rows() == [
        ("ann", "y", 1, 0, "train"),
        ("ann", "x", 3, 1, "test"),
        ("bob", "y", 2, 0, "validation"),
    ]
    assert data.items.rows() == [("y", "INK"), ("x", "PEN")]
    assert data.users.rows() == [("ann",), ("bob",)]
    assert [step.interactions for step in data.steps] == [4, 4, 3]
    everything = prepare("small", raw, Filters(drop_untitled=True), split, keeps_all_items=True)
    assert everything.catalog.titles == ("Ink", "Pen", "Nib")


def test_another_split_of_the_same_data(data):
    other = data.with_split(partial(temporal_split, cuts=(0.25, 0.5)))
    assert other.interactions.drop("split").equals(data.interactions.drop("split"))
    counts = dict(other.interactions["split"].value_counts().rows())
    assert counts == {"train": 120, "validation": 120, "test": 240}
