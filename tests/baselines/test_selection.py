"""Choosing on validation: the targets of rows, and where a baseline ranks them."""

import numpy as np
import pytest
from datasets import Dataset

from patchrec_hf import Catalog
from patchrec_hf.baselines.selection import cut_off, ranks_of_targets, single_targets, single_times


CATALOG = Catalog.from_titles({10: "a", 11: "b", 12: "c"})


class LatestOnly:
    """Scores items by how near they are to the latest one."""

    def __init__(self):
        self.num_histories = []

    def score(self, histories):
        self.num_histories.append(len(histories))
        return np.array([[-abs(item - history[-1]) for item in (10, 11, 12)] for history in histories], dtype=float)


def test_every_target_has_its_own_history():
    rows = [
        {"user_id": 1, "item_ids": [10, 11, 12], "target_positions": [1, 2]},
        {"user_id": 2, "item_ids": [12, 12, 10], "target_positions": [2]},
    ]
    histories, targets = single_targets(Dataset.from_list(rows), CATALOG)
    assert histories == [[10], [10, 11], [12, 12]]
    assert targets.tolist() == [1, 2, 0]


@pytest.mark.parametrize("at_once", [1, 2, 256])
def test_ranks_by_hand(monkeypatch, at_once):
    """After 10, 11 comes second; after 11, 12 and 10 share the second and third place; after 12, 10 comes last."""
    monkeypatch.setattr("patchrec_hf.baselines.selection.HISTORIES_PER_BATCH", at_once)
    scorer = LatestOnly()
    ranks = ranks_of_targets(scorer, [[10], [10, 11], [12, 12]], np.array([1, 2, 0]))
    assert ranks.tolist() == [2.0, 2.5, 3.0]
    assert max(scorer.num_histories) <= at_once
    assert sum(scorer.num_histories) == 3


def test_cut_off_of_a_metric():
    assert [cut_off(metric) for metric in ("hr@1", "ndcg@20", "mrr@100")] == [1, 20, 100]


@pytest.mark.parametrize("metric", ["ndcg", "ndcg@", "ndcg@0", "ndcg@2.5", "loss@20", "title_hr@20"])
def test_metrics_without_a_cut_off(metric):
    with pytest.raises(ValueError, match=f"must be hr@k, ndcg@k or mrr@k with a whole number k, got '{metric}'"):
        cut_off(metric)


class Recent:
    """Scores item 11 best in the morning of the first day, and item 12 later."""

    reads_times = True

    def score(self, histories, times=None):
        return np.array([[0, 2, 1] if time < 43_200 else [0, 1, 2] for time in times], dtype=float)


def test_each_target_is_ranked_at_its_own_time(monkeypatch):
    monkeypatch.setattr("patchrec_hf.baselines.selection.HISTORIES_PER_BATCH", 2)
    rows = [
        {"user_id": 1, "item_ids": [10, 11, 12], "target_positions": [1, 2], "timestamps": [5, 9, 43_200]},
        {"user_id": 2, "item_ids": [12, 11], "target_positions": [1], "timestamps": [7, 50_000]},
    ]
    dataset = Dataset.from_list(rows)
    times = single_times(dataset)
    assert times.tolist() == [9, 43_200, 50_000]
    assert single_times(dataset.remove_columns("timestamps")) is None
    assert ranks_of_targets(Recent(), *single_targets(dataset, CATALOG), times).tolist() == [1, 1, 2]
    with pytest.raises(ValueError, match="Recent reads the moment of asking"):
        ranks_of_targets(Recent(), *single_targets(dataset, CATALOG))
