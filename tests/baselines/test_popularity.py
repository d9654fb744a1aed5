"""The popularity baseline."""

import os

import numpy as np
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
