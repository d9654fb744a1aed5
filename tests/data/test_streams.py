"""Streamed rows are the rows that would be kept."""

import pytest
from datasets import Dataset, IterableDataset
from sixty_users import COLUMNS, CUTS
from torch.utils.data import DataLoader

from patchrec_hf import load_recommendation_data
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


def test_the_sample_streams(tmp_path):
    kept, _ = load_recommendation_data("sample", 10)
    streamed, catalog = load_recommendation_data("sample", 10, streaming=True, cache_dir=tmp_path)
    assert next(iter(streamed["train"])) == kept["train"][0]
    assert len(catalog) == 448
