"""The checks of example rows, before anything is trained or ranked."""

import pytest
from datasets import Dataset

from patchrec_hf.data.rows import check_rows


ROW = {"user_id": 7, "item_ids": [10, 11, 12, 13], "target_positions": [1, 3]}


def rows_with(**changes):
    """Two good rows, and then one with changes."""
    return Dataset.from_list([ROW, ROW, {**ROW, **changes}])


def test_good_rows_pass():
    check_rows(rows_with(target_positions=[3]))
    check_rows(rows_with(target_positions=[1, 2, 3]), max_history=3)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([], r"Row 2 \(user 7\) has the target positions \[\]"),
        ([0, 1], r"position 0 must lie between 1 and 3.* It is row 2 of the data set"),
        ([4], r"position 4 must lie between 1 and 3.* It is row 2 of the data set"),
        ([3, 1], r"\[3, 1\] must ascend.* It is row 2 of the data set"),
    ],
)
def test_the_first_bad_row_is_named(targets, message):
    with pytest.raises(ValueError, match=message):
        check_rows(rows_with(target_positions=targets))


def test_targets_share_one_window():
    check_rows(rows_with(), max_history=3)
    with pytest.raises(ValueError, match=r"at 1 to 3, must lie less than `max_history` \(2\) apart"):
        check_rows(rows_with(), max_history=2)


def test_columns_are_named():
    with pytest.raises(ValueError, match="needs `user_id`, `item_ids` and `target_positions`"):
        check_rows(rows_with().remove_columns("item_ids"))
    with pytest.raises(ValueError, match="is empty"):
        check_rows(rows_with().select([]))
    with pytest.raises(TypeError, match="`item_ids` must hold lists of whole numbers"):
        check_rows(Dataset.from_list([{**ROW, "item_ids": [1.5, 2.5, 3.5, 4.5]}]))
    with pytest.raises(TypeError, match="`user_id` must hold whole numbers or texts"):
        check_rows(Dataset.from_list([{**ROW, "user_id": 7.5}]))
    check_rows(Dataset.from_list([{**ROW, "user_id": "seven", "item_ids": list("abcd")}]))
