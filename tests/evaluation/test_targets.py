"""Which items are ranked, after which histories, and how results become a report."""

import math

import numpy as np
import pytest
from datasets import Dataset

from patchrec_hf import Catalog
from patchrec_hf.evaluation.report import result_dtype
from patchrec_hf.evaluation.targets import find_targets, seen_items


CATALOG = Catalog.from_titles({10: "Emma", 20: "Poems", 30: "Ulysses", 40: "Nostromo"})


def rows_of(*rows):
    return Dataset.from_list([
        {"user_id": user, "item_ids": item_ids, "target_positions": positions} for user, item_ids, positions in rows
    ])  # fmt: skip


@pytest.fixture
def targets():
    """Two targets of user 7, a row without any, and one of user 8."""
    rows = rows_of((7, [10, 20, 30], [1, 2]), (9, [10, 20], []), (8, [40, 40, 10], [2]))
    return find_targets(rows, CATALOG, train_dataset=rows_of((1, [20, 30], [1])))


def test_targets_by_hand(targets):
    assert len(targets) == 3
    assert targets.rows.tolist() == [0, 0, 2]
    assert targets.user_ids.tolist() == [7, 7, 8]
    assert targets.ids.tolist() == [20, 30, 10]
    assert targets.items.tolist() == [1, 2, 0]
    assert targets.history_lengths.tolist() == [1, 2, 2]
    assert targets.is_cold.tolist() == [False, False, True]


def test_histories_end_before_the_target(targets):
    numbers = np.array([2, 1])
    assert targets.history_ids(numbers) == [[40, 40], [10, 20]]
    assert [items.tolist() for items in targets.history_items(numbers)] == [[3, 3], [0, 1]]


def test_what_was_seen_never_holds_the_target():
    histories = [np.array([3, 3, 0]), np.array([0, 1])]
    assert [items.tolist() for items in seen_items(histories, np.array([0, 2]))] == [[3], [0, 1]]


def test_other_targets_have_another_checksum(targets):
    other = find_targets(rows_of((7, [10, 20, 30], [1, 2]), (8, [40, 40, 20], [2])), CATALOG)
    assert targets.checksum() != other.checksum()
    assert targets.checksum()["num_targets"] == other.checksum()["num_targets"] == 3


def test_a_report_has_null_where_a_ranking_says_nothing(targets):
    results = np.array([(1.0, 1.0), (2.5, 2.0), (math.inf, math.inf)], dtype=result_dtype("item_rank", "title_rank"))
    report = targets.report(results, {"seed": 3}, depth=4)
    assert report.targets["item_rank"].to_list() == [1.0, 2.5, math.inf]
    assert report.targets["is_exact"].null_count() == report.targets["tokens_read"].null_count() == 3
    assert (report.depth, report.ks, report.settings["num_targets"], report.settings["seed"]) == (4, (4,), 3, 3)


def test_rankings_become_item_ids(targets):
    results = np.zeros(3, dtype=result_dtype("item_rank", "title_rank", ranking_length=2))
    results["item_rank"] = results["title_rank"] = 1
    results["ranked_items"] = [[3, 0], [1, -1], [2, 3]]
    assert targets.report(results, {}, depth=2).targets["ranked_ids"].to_list() == [[40, 10], [20, -1], [30, 40]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (rows_of((7, [10, 20], [1])).select([]), "is empty"),
        (rows_of((7, [10, 20], [1]), (7, [10, 20], [])).select([1]), "no target positions"),
        (rows_of((6, [10, 20], [1]), (7, [10, 20], [2])), "Row of user 7: target position 2 must lie between 1 and 1"),
        (rows_of((7, [10, 20, 30], [2, 1])), "must ascend"),
    ],
)
def test_data_sets_without_targets(rows, message):
    with pytest.raises((ValueError, TypeError), match=message):
        find_targets(rows, CATALOG)


def test_times_are_those_of_the_targets():
    rows = [
        {"user_id": 7, "item_ids": [10, 20, 30], "target_positions": [1, 2], "timestamps": [5, 6, 8]},
        {"user_id": 9, "item_ids": [10, 20], "target_positions": [], "timestamps": [1, 2]},
        {"user_id": 8, "item_ids": [40, 40, 10], "target_positions": [2], "timestamps": [3, 3, 4]},
    ]
    timed = find_targets(Dataset.from_list(rows), CATALOG)
    assert timed.times.tolist() == [6, 8, 4]
    assert timed.times.dtype == np.int64
    assert timed.checksum() == find_targets(Dataset.from_list(rows).remove_columns("timestamps"), CATALOG).checksum()


def test_rows_without_times_have_targets_without_times(targets):
    assert targets.times is None


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (None, "has no timestamps for 3 items"),
        ([1, 2], "has 2 timestamps for 3 items"),
        ([1, None, 3], "must be whole numbers"),
    ],
)
def test_targets_without_a_time_each_are_refused(times, message):
    row = {"user_id": 7, "item_ids": [10, 20, 30], "target_positions": [2], "timestamps": [5, 6, 8]}
    with pytest.raises(ValueError, match=f"Row of user 7.*{message}"):
        find_targets(Dataset.from_list([row, {**row, "timestamps": times}]), CATALOG)
