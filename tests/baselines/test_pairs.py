"""Pairs, by hand."""

import numpy as np
from datasets import Dataset

from patchrec_hf import Catalog
from patchrec_hf.baselines.pairs import FlatTargets, Pairs, index_type
from patchrec_hf.data import rows as rows_module


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
    assert flat.num_before.tolist() == [0, 1, 2, 0, 0, 2]
    assert flat.popularity.tolist() == [1, 1, 1]  # the first 10 and both 12 of the second row are no targets
    assert (flat.items.dtype, flat.num_before.dtype) == (np.int32, np.int32)


def test_rows_are_read_in_chunks(monkeypatch):
    whole = FlatTargets.from_rows(ROWS, CATALOG)
    monkeypatch.setattr(rows_module, "CHUNK_ROWS", 1)
    chunked = FlatTargets.from_rows(ROWS, CATALOG)
    assert chunked.items.tolist() == whole.items.tolist()
    assert chunked.num_before.tolist() == whole.num_before.tolist()


def test_scores_leave_out_zeros():
    # 10 → 11 (1), 11 → 12 (1) and 12 → 10 (1); and of the last two items alone.
    targets, forward, backward = np.array([1, 2, 0, 2, 0, 1]), np.array([1.0, 0, 0, 1, 1, 0]), np.array([0.0, 1] * 3)
    popularity = np.array([1.0, 4.0, 16.0])
    pairs = Pairs(0, np.array([0, 2, 4, 6]), targets, forward, backward)
    offsets, found, values = pairs.scores(popularity, 0.0, 0.5, 0.25)
    assert (offsets.tolist(), found.tolist()) == ([0, 1, 2, 3], [1, 2, 0])
    np.testing.assert_allclose(values, [1 / 4**0.25, 1 / 2 / 2, 1 / 4])
    last = Pairs(1, np.array([0, 2, 4]), targets[2:], forward[2:], backward[2:])
    offsets, found, values = last.scores(popularity, 0.0, 0.5, 0.25)
    assert (offsets.tolist(), found.tolist()) == ([0, 1, 2], [2, 0])
    np.testing.assert_allclose(values, [1 / 2 / 2, 1 / 4])


def test_indices_have_32_bits_where_they_fit():
    assert index_type(2**31 - 1) is np.int32
    assert index_type(2**31) is np.int64
