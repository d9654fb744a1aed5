"""Id columns: how ids are kept, and which texts are numbers."""

import polars as pl
import pyarrow as pa
import pytest

from patchrec_hf.data.id_columns import (
    IdColumn,
    as_texts,
    enumerate_ids,
    find_id_fault,
    is_arrow_id_type,
    is_id_type,
    unify_ids,
    without_points,
)


@pytest.mark.parametrize(
    ("texts", "is_whole"),
    [
        (["7", "-8", "0"], True),
        (["007", "8"], False),
        (["7", "B"], False),
        (["7.0"], False),
        ([str(2**63)], False),
        ([str(2**63 - 1)], True),
    ],
)
def test_texts_that_are_numbers(texts, is_whole):
    log = pl.DataFrame({"user_id": ["5"] * len(texts), "item_id": pl.Series(texts).cast(pl.Categorical)})
    items = pl.DataFrame({"item_id": texts})
    log, items = unify_ids(log, items)
    assert log["user_id"].to_list() == [5] * len(texts)
    assert log["item_id"].dtype.is_integer() == items["item_id"].dtype.is_integer() == is_whole
    assert log["item_id"].cast(pl.String).to_list() == items["item_id"].cast(pl.String).to_list() == texts


def test_numbers_in_one_table_and_texts_in_the_other():
    log, items = pl.DataFrame({"user_id": [1], "item_id": [7]}), pl.DataFrame({"item_id": ["7", "B-17"]})
    with pytest.raises(ValueError, match="`item_id` is a number in one table and a text, such as 'B-17'"):
        unify_ids(log, items)
    assert unify_ids(log, items[:1])[1]["item_id"].to_list() == [7]


def test_ids_that_are_kept():
    assert enumerate_ids(pl.Series([3, 1], dtype=pl.UInt16)).dtype == pl.Int64
    for dtype in (pl.String, pl.Categorical):
        ids = enumerate_ids(pl.Series(["b", "a", "b"]).cast(dtype))
        assert ids.to_list() == ["b", "a", "b"]
        assert ids.to_physical().to_list() == [1, 0, 1]  # in the order of the alphabet
    assert enumerate_ids(pl.Series([2**63 + 1, 5], dtype=pl.UInt64)).to_list() == [str(2**63 + 1), "5"]


def test_enumerations_become_texts():
    table = pl.DataFrame({"user_id": [1], "item_id": ["b"], "split": ["train"]}).cast({"item_id": pl.Enum(["a", "b"])})
    assert as_texts(table).schema == {"user_id": pl.Int64, "item_id": pl.String, "split": pl.String}


def test_columns_are_split_and_taken():
    texts = pl.Series(["b", "a", "c"])
    column = IdColumn.of(enumerate_ids(texts))
    assert column.take([2, 0, 0]).to_pylist() == ["c", "b", "b"]
    for array in (
        pa.chunked_array([["b", "a"], ["c"]]),
        pa.chunked_array([pa.array(["b", "a", "c"]).dictionary_encode()]),
    ):
        assert IdColumn.of_arrow(array).take([2, 0, 0]).to_pylist() == ["c", "b", "b"]
    assert IdColumn.of(pl.Series([7, 5])).take([1]).to_pylist() == [5]
    assert IdColumn.of_arrow(pa.chunked_array([[7], [5]])).take([1]).to_pylist() == [5]


def test_types_of_ids():
    assert [is_id_type(dtype) for dtype in (pl.Int32(), pl.String(), pl.Enum(["a"]), pl.Float64())] == [1, 1, 1, 0]
    assert [is_arrow_id_type(dtype) for dtype in (pa.int8(), pa.string(), pa.large_string(), pa.float32())] == [
        1,
        1,
        1,
        0,
    ]


@pytest.mark.parametrize(
    ("ids", "odd", "problem"),
    [
        (["1", "2 ", "2"], "2 ", "differ in white space only"),
        (["1", " "], " ", "an id is blank"),
        (["1", "1.5"], "1.5", "not written as a whole number"),
        (["1", "1e5"], "1e5", "not written as a whole number"),
        ([f"{2**53 + 1}.0"], f"{2**53 + 1}.0", "digits may be missing"),
        (["a", "1", "1.0"], "1.0", "are the same number"),
        (["[1, 2]", "7"], "[1, 2]", "is a list that is written as a text"),
        (["1", "2.0", "-3"], None, ""),
        (["007", "7"], None, ""),
        (["a1.5", "1.5", "2"], None, ""),
    ],
)
def test_ids_that_would_have_to_be_guessed(ids, odd, problem):
    fault = find_id_fault(pl.Series(ids))
    assert (fault and fault.id) == odd
    assert problem in (fault.problem if fault else "")


def test_points_of_whole_numbers():
    assert without_points(pl.Series(["1", "2.0", "-3.00", "4."])).to_list() == ["1", "2", "-3", "4"]
    assert without_points(pl.Series(["1", "2"])) is None
    assert without_points(pl.Series(["a", "2.0"])) is None
