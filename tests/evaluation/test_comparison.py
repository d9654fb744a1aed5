"""Two runs are compared on the same targets only."""

import numpy as np
import polars as pl
import pytest

from patchrec_hf.evaluation.comparison import check_same_targets, paired_differences


TARGETS = pl.DataFrame({"user_id": [1, 2, 3], "target_id": ["B-1", "B-2", None], "history_length": [5, 6, 7]})


def test_the_same_targets():
    check_same_targets(TARGETS, TARGETS)
    # The width of a whole number is not part of an id.
    check_same_targets(TARGETS, TARGETS.with_columns(pl.col("user_id").cast(pl.UInt32)))
    check_same_targets(TARGETS.head(0), TARGETS.head(0))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": [1, 2, 4]}, "number 3 differs: user 3, item None, history of 7 items; user 4, item None"),
        ({"user_id": [1, None, 3]}, "number 2 differs: user 2, item 'B-2', history of 6 items; user None, item 'B-2'"),
        ({"target_id": ["B-1", "B-2", "B-3"]}, "number 3 differs: user 3, item None, .*item 'B-3'"),
        ({"user_id": ["1", "2", "3"]}, "number 1 differs: user 1, .* user '1'"),
        ({"history_length": [5, 0, 0]}, "number 2 differs: .* 6 items; .* 0 items"),
    ],
)
def test_the_first_difference_is_named(columns, message):
    other = TARGETS.with_columns(**{name: pl.Series(values) for name, values in columns.items()})
    with pytest.raises(ValueError, match=message):
        check_same_targets(TARGETS, other)


def test_the_numbers_of_targets_are_named():
    with pytest.raises(ValueError, match=r"got 3 and 2 targets.* same `max_rows`"):
        check_same_targets(TARGETS, TARGETS.head(2))


def test_differences_by_hand():
    ours, theirs = {"hr@1": np.array([1.0, 1.0])}, {"hr@1": np.array([0.0, 0.5])}
    (row,) = paired_differences(ours, theirs, np.array([7, 7])).iter_rows(named=True)
    assert (row["metric"], row["this"], row["other"], row["difference"]) == ("hr@1", 1.0, 0.25, 0.75)
