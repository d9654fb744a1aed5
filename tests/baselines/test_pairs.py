"""Pairs, counted by hand. test_co_visitation.py compares them with a loop over all pairs."""

import numpy as np
from datasets import Dataset

from patchrec_hf import Catalog
from patchrec_hf.baselines.pairs import FlatTargets, count_pairs


CATALOG = Catalog.from_titles({10: "a", 11: "b", 12: "c"})
ROWS = Dataset.from_list(
    [
        {"user_id": 0, "item_ids": [10, 11, 12], "target_positions": [1, 2]},
        {"user_id": 1, "item_ids": [12, 12, 10], "target_positions": [2]},
    ]
)


def test_targets_are_flat():
    flat = FlatTargets.from_rows(ROWS, CATALOG)
    assert flat.items.tolist() == [0, 1, 2, 2, 2, 0]
    assert flat.indices.tolist() == [1, 2, 5]
    assert flat.num_before.tolist() == [1, 2, 2]
    assert flat.popularity.tolist() == [1, 1, 1]  # the first 10 and both 12 of the second row are no targets


def test_pairs_have_both_directions():
    pairs = count_pairs(FlatTargets.from_rows(ROWS, CATALOG), window=2)
    # 10 → 11 (1), 11 → 12 (1), 10 → 12 (1/2), and of the second row 12 → 10 (1 + 1/2).
    assert pairs.offsets.tolist() == [0, 2, 4, 6]
    assert pairs.targets.tolist() == [1, 2, 0, 2, 0, 1]
    assert pairs.forward.tolist() == [1, 0.5, 0, 1, 1.5, 0]
    assert pairs.backward.tolist() == [0, 1.5, 1, 0, 0.5, 1]


def test_scores_leave_out_zeros():
    pairs = count_pairs(FlatTargets.from_rows(ROWS, CATALOG), window=1)
    offsets, targets, values = pairs.scores(np.array([1.0, 4.0, 16.0]), 0.0, 0.5, 0.25)
    # 10 → 11 (1), 11 → 12 (1) and 12 → 10 (1)
    assert (offsets.tolist(), targets.tolist()) == ([0, 1, 2, 3], [1, 2, 0])
    np.testing.assert_allclose(values, [1 / 4**0.25, 1 / 2 / 2, 1 / 4])
