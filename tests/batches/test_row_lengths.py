"""Lengths of rows, counted from the lengths of titles."""

import numpy as np
import pytest
from conftest import ITEM_IDS
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from patchrec_hf import ItemPatchLayout, PatchDataCollator, SessionPatchLayout, TextLayout
from patchrec_hf.batches.row_lengths import frame_length, longest_first, row_lengths


histories = st.lists(st.sampled_from(ITEM_IDS), min_size=2, max_size=14)


@pytest.mark.parametrize("layout", [TextLayout(), ItemPatchLayout(2), SessionPatchLayout(3)])
@settings(max_examples=25)
@given(st.lists(histories, min_size=1, max_size=5), st.integers(40, 130))
def test_no_row_that_is_too_long_is_missed(processor, layout, items, limit):
    """Every row whose encoding is longer than the limit is among the suspects, and the first one is the longest."""
    rows = Dataset.from_list([{"user_id": 0, "item_ids": one, "target_positions": [len(one) - 1]} for one in items])
    encoded = PatchDataCollator(processor, layout).encode_rows(list(rows))
    lengths = np.array([len(one.input_ids) for one in encoded])
    suspects = longest_first(rows, processor, layout, limit)
    assert set(np.flatnonzero(lengths > limit)) <= set(suspects.tolist())
    assert lengths[suspects].tolist() == sorted(lengths[suspects], reverse=True)


def test_the_longest_target_counts(processor):
    """One window predicts all targets, so the bound is its history with the longest of the titles."""
    rows = Dataset.from_list([{"user_id": 0, "item_ids": [10, 20, 11, 12], "target_positions": [1, 3]}])
    titles = processor.title_tokens.lengths[[0, 10, 1]]
    longest = frame_length(processor) + titles.sum() + 2 + titles[1] + 1
    assert longest_first(rows, processor, TextLayout(), longest - 1).tolist() == [0]
    assert longest_first(rows, processor, TextLayout(), longest).tolist() == []
    assert row_lengths(rows, processor, TextLayout()).tolist() == [titles.sum() + 2]


def test_a_frame_is_what_surrounds_a_history(processor):
    prompt = processor.encode(np.array([0]), layout=ItemPatchLayout(0))
    assert frame_length(processor) == prompt.prompt_length - 1
