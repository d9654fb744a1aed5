"""The popularity baseline."""

import os

import numpy as np
import polars as pl
import pytest
from datasets import Dataset
from small_data import catalog_of

from patchrec_hf.baselines.popularity import Popularity
from patchrec_hf.data.loading import load_recommendation_data
from patchrec_hf.evaluation.scorers import evaluate_scorer


GOODREADS_DIR = os.environ.get("PATCHREC_GOODREADS_DIR")


@pytest.mark.skipif(not GOODREADS_DIR, reason="set PATCHREC_GOODREADS_DIR to a directory with the paper's Goodreads")
@pytest.mark.parametrize(("exclude_seen", "expected"), [(True, 0.010), (False, 0.008)])
def test_popularity_on_goodreads(exclude_seen, expected):
    datasets, catalog = load_recommendation_data(GOODREADS_DIR)
    popularity = Popularity(catalog).fit(datasets["train"])
    report = evaluate_scorer(popularity, catalog, datasets["test"], exclude_seen=exclude_seen, show_progress=False)
    assert len(report.targets) == 3248
    assert report.metrics()["hr@20"] == pytest.approx(expected, abs=0.0005)


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


def test_popularity_is_saved_with_its_catalog(tmp_path):
    rows = Dataset.from_list([{"user_id": 1, "item_ids": [30, 10, 30], "target_positions": [2]}])
    catalog = catalog_of(30, 10, 20)
    Popularity(catalog).fit(rows).save_pretrained(tmp_path)
    assert Popularity.from_pretrained(tmp_path).score([[10]]).tolist() == [[2, 1, 0]]
    # New items of the catalog have not been counted, in whatever order it lists its items.
    catalog_of(40, 10, 20, 30).to_parquet(tmp_path / "catalog.parquet")
    assert Popularity.from_pretrained(tmp_path).score([[10]]).tolist() == [[0, 1, 0, 2]]
    catalog_of(10, 20).to_parquet(tmp_path / "catalog.parquet")
    with pytest.raises(KeyError, match="Item id 30"):
        Popularity.from_pretrained(tmp_path)


def test_popularity_that_was_not_fitted_is_not_saved(tmp_path):
    with pytest.raises(RuntimeError, match="call `fit` first"):
        Popularity(catalog_of(1, 2)).save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_newer_format_is_refused(tmp_path):
    Popularity(catalog_of(1, 2)).fit(
        Dataset.from_list([{"user_id": 1, "item_ids": [1, 2], "target_positions": [1]}])
    ).save_pretrained(tmp_path)
    table = pl.read_parquet(tmp_path / "popularity.parquet")
    table.write_parquet(tmp_path / "popularity.parquet", metadata={"format_version": "99"})
    with pytest.raises(ValueError, match=r"popularity\.parquet has format version 99"):
        Popularity.from_pretrained(tmp_path)
