"""Streamed rows are the rows that would be kept."""

import polars as pl
import pytest
from datasets import Dataset, IterableDataset
from sixty_users import COLUMNS, CUTS
from torch.utils.data import DataLoader

from patchrec_hf import leave_one_out_split, load_recommendation_data
from patchrec_hf.data import preparation


@pytest.mark.parametrize("targets_per_row", [1, 3])
def test_streamed_rows_are_the_same_rows(log, monkeypatch, tmp_path, targets_per_row):
    monkeypatch.setattr(preparation, "_GROUP_SIZE", 100)  # several row groups
    settings = {"split": CUTS, "columns": COLUMNS, "cache_dir": tmp_path, "targets_per_row": targets_per_row}
    kept, _ = load_recommendation_data(log, 5, **settings)
    streamed, _ = load_recommendation_data(log, 5, **settings, streaming=True)
    assert isinstance(streamed["train"], IterableDataset)
    assert streamed["train"].num_shards == 5
    assert list(streamed["train"]) == kept["train"].to_list()
    assert streamed["train"].features == kept["train"].features
    for split in ("validation", "test"):
        assert isinstance(streamed[split], Dataset)
        assert streamed[split].to_list() == kept[split].to_list()


def test_workers_stream(log, monkeypatch, tmp_path):
    """They are forks of a process that has used polars, and hang where they use it too."""
    monkeypatch.setattr(preparation, "_GROUP_SIZE", 100)  # several row groups
    settings = {"split": CUTS, "columns": COLUMNS, "cache_dir": tmp_path}
    streamed, _ = load_recommendation_data(log, 5, **settings, streaming=True)
    alone, helped = (
        [row for batch in DataLoader(streamed["train"], batch_size=4, collate_fn=list, **workers) for row in batch]
        for workers in ({}, {"num_workers": 2, "multiprocessing_context": "fork"})
    )
    assert len(alone) > 100
    assert sorted(map(str, alone)) == sorted(map(str, helped))


@pytest.mark.slow
def test_the_sample_streams(tmp_path):
    kept, _ = load_recommendation_data("sample", 10)
    streamed, catalog = load_recommendation_data("sample", 10, streaming=True, cache_dir=tmp_path)
    assert next(iter(streamed["train"])) == kept["train"][0]
    assert len(catalog) == 448


def test_streamed_rows_have_times_where_the_kept_ones_have(tmp_path):
    rows = [(user, place, 5 * place + user, place) for user in range(3) for place in range(20)]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "position"], orient="row")
    items = pl.DataFrame({"item_id": range(20), "title": [f"Book {item}" for item in range(20)]})
    contradicting = pl.when(pl.col("position") == 7).then(0).otherwise(pl.col("timestamp")).alias("timestamp")
    for name, interactions, has_times in (
        ("timed", table.with_columns(pl.col("timestamp").cast(pl.Int32)), True),
        ("positions", table.drop("timestamp"), False),
        ("contradicting", table.with_columns(contradicting), False),
    ):
        directory = tmp_path / name
        directory.mkdir()
        interactions.write_parquet(directory / "interactions.parquet")
        items.write_parquet(directory / "items.parquet")
        settings = {"split": leave_one_out_split, "cache_dir": tmp_path / "cache"}
        kept, _ = load_recommendation_data(directory, 5, **settings)
        streamed, _ = load_recommendation_data(directory, 5, **settings, streaming=True)
        assert list(streamed["train"]) == kept["train"].to_list()
        assert streamed["train"].features == kept["train"].features
        assert ("timestamps" in kept["train"].column_names) == has_times
        assert kept["train"].column_names == kept["test"].column_names == streamed["test"].column_names
