"""The popularity baseline."""

import os

import numpy as np
import polars as pl
import pytest
from datasets import Dataset, DatasetDict
from small_data import catalog_of

from patchrec_hf.baselines.popularity import Popularity
from patchrec_hf.baselines.saved import load_baseline
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


DAY = 86_400
TIMED = [
    # In no row before the user's target on day 3, so unknown until then.
    {"user_id": 1, "item_ids": [10, 20], "target_positions": [1], "timestamps": [DAY, 3 * DAY]},
    {"user_id": 1, "item_ids": [10, 20, 30], "target_positions": [2], "timestamps": [DAY, 3 * DAY, 4 * DAY]},
    {"user_id": 2, "item_ids": [30, 30], "target_positions": [1], "timestamps": [2 * DAY, 2 * DAY + 9]},
]
CATALOG = catalog_of(10, 20, 30, 40)


def windowed(window=2, rows=TIMED):
    return Popularity(CATALOG, window).fit(Dataset.from_list(rows))


def test_a_window_by_hand():
    popularity = windowed()
    assert popularity.reads_times
    assert not Popularity(CATALOG).reads_times
    moments = np.array([2 * DAY, 3 * DAY, 4 * DAY, 5 * DAY - 1, 5 * DAY])
    scores = popularity.score([[40]] * 5, moments)
    assert scores.tolist() == [[0, 0, 0, 0], [0, 0, 2, 0], [0, 1, 2, 0], [0, 1, 2, 0], [0, 1, 1, 0]]
    assert windowed(3).score([[40]], np.array([4 * DAY])).tolist() == [[1, 1, 2, 0]]
    assert popularity.counts.tolist() == [1, 1, 3, 0]


def test_log_probabilities_sum_to_one():
    popularity = windowed()
    log_probs = popularity.log_probs([[40], [10]], np.array([4 * DAY, 0]))
    np.testing.assert_allclose(np.exp(log_probs), [[1 / 7, 2 / 7, 3 / 7, 1 / 7], [1 / 4] * 4])
    everything = Popularity(CATALOG).fit(Dataset.from_list(TIMED)).log_probs([[40]])
    np.testing.assert_allclose(np.exp(everything), [[2 / 9, 2 / 9, 4 / 9, 1 / 9]])


def test_all_splits_are_counted_and_each_interaction_once():
    """The row of the validation split repeats what the training rows hold."""
    train, validation = (Dataset.from_list([TIMED[number]]) for number in (0, 1))
    splits = DatasetDict({"train": train, "validation": validation, "test": Dataset.from_list([TIMED[2]])})
    moments = np.arange(1, 7) * DAY
    for data in (splits, dict(splits)):
        popularity = Popularity(CATALOG, 2).fit(data)
        assert np.array_equal(popularity.score([[40]] * 6, moments), windowed().score([[40]] * 6, moments))
    with pytest.raises(TypeError, match=r"without a `window` counts the rows of one data set.*splits\['train'\]"):
        Popularity(CATALOG).fit(splits)


def test_recommendations_are_for_the_moment_of_asking():
    popularity = windowed(1)
    assert popularity.recommend([40], k=1, times=3 * DAY)[0].item_id == 30
    assert popularity.recommend([40], k=1, times=4 * DAY)[0].item_id == 20
    lists = popularity.recommend([[40], [40]], k=1, times=[4 * DAY, 3 * DAY + 1])
    assert [best.item_id for (best,) in lists] == [20, 30]
    # Without a moment: the day after the last counted one.
    assert popularity.next_moment == 5 * DAY
    assert popularity.recommend([40]) == popularity.recommend([40], times=5 * DAY)


def test_an_evaluation_asks_at_the_times_of_the_targets():
    popularity = windowed(1)
    test = [
        {"user_id": 5, "item_ids": [40, 30, 20], "target_positions": [1, 2], "timestamps": [0, 3 * DAY, 4 * DAY + 1]},
        {"user_id": 6, "item_ids": [40, 30], "target_positions": [1], "timestamps": [0, 4 * DAY]},
    ]
    report = evaluate_scorer(popularity, CATALOG, Dataset.from_list(test), show_progress=False)
    assert report.targets["item_rank"].to_list() == [1, 1, 3]


def test_what_a_window_lacks_is_named():
    untimed = Dataset.from_list(TIMED).remove_columns("timestamps")
    with pytest.raises(ValueError, match="counts the latest days, but the rows have no column `timestamps`"):
        Popularity(CATALOG, 7).fit(untimed)
    with pytest.raises(ValueError, match=r"the rows of 'test' have no column `timestamps`.*`make_rows` add it"):
        Popularity(CATALOG, 7).fit({"train": Dataset.from_list(TIMED), "test": untimed})
    with pytest.raises(ValueError, match=r"`Popularity` with `window=2` reads the moment of asking.*Pass `times`"):
        windowed().score([[10]])
    with pytest.raises(ValueError, match=r"Popularity reads the moment of asking.*column `timestamps` of its rows"):
        evaluate_scorer(windowed(), CATALOG, untimed)
    with pytest.raises(ValueError, match="one moment for all 1 histories or one for each"):
        windowed().score([[10]], np.array([1, 2]))
    with pytest.raises(ValueError, match="`window` must be at least 1 day, got 0"):
        Popularity(CATALOG, 0)
    for popularity in (Popularity(CATALOG), Popularity(CATALOG, 7)):
        with pytest.raises(RuntimeError, match="has no counts by day"):
            _ = popularity.recent


def test_a_window_is_saved(tmp_path):
    windowed().save_pretrained(tmp_path)
    again = load_baseline(tmp_path)
    moments = np.arange(1, 7) * DAY
    assert again.window == 2
    assert np.array_equal(again.score([[40]] * 6, moments), windowed().score([[40]] * 6, moments))
    assert again.next_moment == 5 * DAY
    catalog_of(10, 20, 30, 40, 50).to_parquet(tmp_path / "catalog.parquet")
    assert Popularity.from_pretrained(tmp_path).score([[50]], np.array([4 * DAY])).tolist() == [[0, 1, 2, 0, 0]]
    catalog_of(20, 10, 30, 40).to_parquet(tmp_path / "catalog.parquet")
    with pytest.raises(ValueError, match="has the index 0 in the recent popularity, but 1 in the catalog"):
        Popularity.from_pretrained(tmp_path)
