"""Data sets that are filled up to whole batches."""

import pytest
from datasets import Dataset

from patchrec_hf.batches.filled import FilledDataset, FillerRow


@pytest.mark.parametrize(("rows_per_forward", "length"), [(1, 5), (2, 6), (4, 8), (5, 5), (8, 8)])
def test_whole_batches_are_filled_up_with_the_last_row(rows_per_forward, length):
    rows = Dataset.from_list([{"item_ids": [i, i + 1]} for i in range(5)])
    filled = FilledDataset(rows, rows_per_forward)
    assert len(filled) == length
    filled_rows = filled.__getitems__(list(range(length)))
    assert filled_rows[:5] == list(rows)
    assert filled_rows[5:] == [FillerRow(rows[4])] * (length - 5)
    assert filled[length - 1] == filled_rows[-1]
