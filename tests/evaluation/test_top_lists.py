"""The best items of each target, as the columns of a report."""

import numpy as np
import polars as pl
from datasets import Dataset

from patchrec_hf import Catalog
from patchrec_hf.evaluation.report import result_dtype
from patchrec_hf.evaluation.top_lists import ItemUsers, fill_top, log_probs_of, places_of, top_columns


CATALOG = Catalog.from_titles({10: "a", 20: "b", 30: "c"})
ROWS = Dataset.from_list(
    [
        {"user_id": 1, "item_ids": [10, 20, 20], "target_positions": [1, 2]},
        {"user_id": 2, "item_ids": [20, 99], "target_positions": [1]},  # 99 is not in the catalog
    ]
)


def test_users_count_once():
    users = ItemUsers.from_rows(ROWS, CATALOG)
    assert users.counts.tolist() == [1, 2, 0]
    assert users.num_users == 2
    means = users.means([np.array([0, 1, 1]), np.array([], dtype=np.int64), np.array([2])])
    np.testing.assert_array_equal(means, [5 / 3, np.nan, 0])
    assert users.means([]).tolist() == []


def test_users_count_once_whatever_the_times():
    """User 1 chose item 20 on two days, and is one user."""
    times = [[0, 86_400, 2 * 86_400], [0, 86_400]]
    users = ItemUsers.from_rows(ROWS.add_column("timestamps", times), CATALOG)
    assert users.counts.tolist() == [1, 2, 0]
    assert users.num_users == 2


def test_columns_by_hand():
    results = np.empty(2, result_dtype(list_length=2, has_log_probs=True))
    best, log_probs = np.array([[2, 0], [1, -1]]), np.log([[0.25, 0.25, 0.5], [0.25, 0.5, 0.25]])
    items = np.array([0, 2])
    places = places_of(best, items)
    assert places.tolist() == [2, np.inf]
    fill_top(results, best, places, *log_probs_of(log_probs, best, items))
    results["history_users"] = [1.5, np.nan]
    columns = pl.DataFrame(top_columns(results, CATALOG, ItemUsers.from_rows(ROWS, CATALOG))).to_dict(as_series=False)
    assert columns["top_ids"] == [[30, 10], [20]]
    assert columns["top_place"] == [2, None]
    assert columns["top_users"] == [[0, 1], [2]]
    assert columns["history_users"] == [1.5, None]
    np.testing.assert_allclose(np.exp(np.concatenate(columns["top_log_probs"])), [0.5, 0.25, 0.5])
    np.testing.assert_allclose(np.exp(columns["log_prob"]), [0.25, 0.25])


def test_longer_rankings_are_cut_and_shorter_ones_filled():
    results = np.empty(1, result_dtype(list_length=2))
    fill_top(results, np.array([[2, 1, 0]]), np.array([3.0]))
    assert results["top_items"].tolist() == [[2, 1]]
    assert results["top_place"].tolist() == [0]
    fill_top(results, np.array([[2]]), np.array([1.0]))
    assert results["top_items"].tolist() == [[2, -1]]


def test_ids_that_are_texts():
    catalog = Catalog.from_titles({"x": "a", "y": "b"})
    results = np.empty(2, result_dtype(list_length=2))
    fill_top(results, np.array([[1, 0], [-1, -1]]), np.array([1.0, np.inf]))
    columns = top_columns(results, catalog, None)
    assert [column.name for column in columns] == ["top_ids", "top_place"]
    assert columns[0].to_list() == [["y", "x"], []]
