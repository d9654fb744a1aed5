"""Ids: arrays of one kind, and the numbers that stand for texts."""

import numpy as np
import pytest

from patchrec_hf.runtime.ids import as_ids, id_numbers, is_text, nearest_texts


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([3, 1], np.int64), (np.array([3, 1], np.int32), np.int64), (["3", "1"], object), (np.array(["3", "1"]), object)],
)
def test_ids_keep_their_values(values, dtype):
    ids = as_ids(values)
    assert ids.dtype == dtype
    assert ids.tolist() == list(np.asarray(values).tolist())
    assert is_text(ids) == (dtype is object)


def test_object_arrays_hold_ids_of_any_kind():
    assert as_ids(np.array([1, 2], dtype=object)).tolist() == [1, 2]
    assert as_ids(np.array(["a", "b"], dtype=object)).tolist() == ["a", "b"]
    assert as_ids([np.int32(5), 6]).tolist() == [5, 6]
    assert as_ids([np.str_("a"), "b"]).tolist() == ["a", "b"]


@pytest.mark.parametrize("values", [[1, True], [True, False], [1.0], [None], [b"a"], np.array([True])])
def test_other_values_are_no_ids(values):
    with pytest.raises(TypeError, match="An item id must be a whole number or a text, got"):
        as_ids(values)


def test_texts_have_numbers_that_never_change():
    """The numbers are in checkpoints, so they must be the same on every machine and in every version."""
    numbers = id_numbers(as_ids(["B-17", "é", ""]))
    assert numbers.tolist() == [2406869111367462424, 3394012004367669963, -5426141060434712860]
    assert id_numbers(as_ids([5, 3])).tolist() == [5, 3]


def test_nearest_texts():
    assert nearest_texts("es-0001", ["XX-1", "ES-0010", "ES-0001"]) == ["ES-0001", "ES-0010"]
    assert nearest_texts("zzz", ["ES-0001"]) == []
    many = [f"ES-{number:05d}" for number in range(5_000)]
    assert nearest_texts("ES-4999", many)[0] == "ES-04999"
