"""The checks of example rows, before anything is trained or ranked."""

from contextlib import nullcontext
from unittest.mock import patch

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, concatenate_datasets
from hypothesis import given
from hypothesis import strategies as st

from patchrec_hf.data import rows as rows_module
from patchrec_hf.data.rows import check_rows, check_targets, plain_rows, read_columns, read_frame, rows_checksum


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


TIMED = {**ROW, "timestamps": [5, 5, 8, 9]}


def test_timestamps_pass_with_or_without_equal_times():
    check_rows(Dataset.from_list([TIMED, {**TIMED, "timestamps": [-7, 0, 0, 3]}]))
    # A row may begin before the previous one ends, and the rows may be a part of more of them.
    check_rows(Dataset.from_list([TIMED, TIMED]).select([1]))
    # A bad row that is not among the chosen ones does not matter.
    check_rows(Dataset.from_list([TIMED, {**TIMED, "timestamps": [9, 8, 7, 6]}]).select([0, 0]))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (None, r"Row of user 7 has no timestamps for 4 items.*remove_columns\('timestamps'\).* It is row 2"),
        ([], r"Row of user 7 has 0 timestamps for 4 items.* It is row 2"),
        ([5, 6, 7], r"Row of user 7 has 3 timestamps for 4 items.* It is row 2"),
        ([5, 6, None, 8], r"must be whole numbers \(seconds since 1970 UTC\), got \[5, 6, None, 8\]"),
        ([5, 6, 4, 8], r"must ascend.*item 2 has 4 after 6.* It is row 2"),
    ],
)
@pytest.mark.parametrize("rows_at_a_time", [1, 10_000])
def test_the_first_row_with_bad_timestamps_is_named(monkeypatch, times, message, rows_at_a_time):
    monkeypatch.setattr(rows_module, "CHUNK_ROWS", rows_at_a_time)
    dataset = Dataset.from_list([TIMED, TIMED, {**TIMED, "timestamps": times}])
    with pytest.raises(ValueError, match=message):
        check_rows(dataset)
    if times is not None:
        with pytest.raises(ValueError, match=message.split(".* It is")[0]):
            check_targets({**TIMED, "timestamps": times})


def test_all_splits_are_no_rows():
    splits = DatasetDict({"train": Dataset.from_dict({}), "test": Dataset.from_dict({})})
    with pytest.raises(TypeError, match=r"got `DatasetDict`\. Pass one of its splits, \['train', 'test'\]\."):
        check_rows(splits)


def test_timestamps_of_another_kind_are_refused():
    for times in ([1.5, 2.5, 3.5, 4.5], list("abcd")):
        with pytest.raises(TypeError, match=r"`timestamps` must hold lists of whole numbers \(seconds since 1970 UTC"):
            check_rows(Dataset.from_list([{**ROW, "timestamps": times}]))
    with pytest.raises(ValueError, match="must be whole numbers"):
        check_targets({**ROW, "timestamps": [1.5, 2.5, 3.5, 4.5]})


def test_joined_rows_of_which_only_some_have_timestamps():
    with pytest.raises(ValueError, match=r"has no timestamps for 4 items.*It is row 1"):
        check_rows(concatenate_datasets([Dataset.from_list([TIMED]), Dataset.from_list([ROW])]))


def test_a_checksum_reads_timestamps_if_the_model_does():
    timed, plain = Dataset.from_list([TIMED, TIMED]), Dataset.from_list([ROW, ROW])
    assert rows_checksum(timed) == rows_checksum(plain)
    later = Dataset.from_list([TIMED, {**TIMED, "timestamps": [time + 1 for time in TIMED["timestamps"]]}])
    assert rows_checksum(later) == rows_checksum(timed)
    assert rows_checksum(later, reads_times=True) != rows_checksum(timed, reads_times=True)


@pytest.mark.slow
@given(st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=4), min_size=1, max_size=6), st.integers(1, 3))
def test_whole_columns_and_single_rows_are_checked_alike(times, rows_at_a_time):
    rows = [
        {"user_id": 1, "item_ids": list(range(len(part))), "target_positions": [1], "timestamps": part}
        for part in times
    ]
    is_good = all(part == sorted(part) for part in times)
    outcome = nullcontext() if is_good else pytest.raises(ValueError, match="must ascend")
    with patch("patchrec_hf.data.rows.CHUNK_ROWS", rows_at_a_time), outcome:
        check_rows(Dataset.from_list(rows))


def test_rows_of_a_shuffled_data_set_are_read_in_its_order():
    lists = [[f"item {number}"] * (number + 1) for number in range(50)]
    rows = Dataset.from_dict({"user_id": list(range(50)), "item_ids": lists, "target_positions": [[0]] * 50})
    order = np.random.default_rng(0).permutation(50)
    shuffled = rows.select(order)
    expected = [lists[number] for number in order]
    assert read_frame(shuffled, "item_ids")["item_ids"].to_list() == expected
    (part,) = read_columns(shuffled, "user_id", "item_ids")
    assert part["user_id"].to_list() == order.tolist()
    assert part["item_ids"].to_list() == expected
    assert read_frame(shuffled.select([]), "item_ids")["item_ids"].to_list() == []


@pytest.mark.parametrize("form", ["polars", "arrow", "torch", "numpy", "pandas"])
def test_formats_are_undone(rows, form):
    formed = plain_rows(rows.with_format(form))
    assert formed[0] == rows[0]
    assert plain_rows(rows.with_format(form, columns=["item_ids"]))[0] == rows[0]
    stream = plain_rows(rows.to_iterable_dataset().with_format(form))
    assert next(iter(stream)) == rows[0]


def test_functions_that_make_rows_stay(rows):
    made = rows.with_transform(lambda batch: {**batch, "user_id": [0] * len(batch["user_id"])})
    assert plain_rows(made)[3]["user_id"] == 0
    assert plain_rows("no rows") == "no rows"
