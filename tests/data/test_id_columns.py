"""Id columns: how ids are kept, and which texts are numbers."""

import polars as pl
import pyarrow as pa
import pytest

from patchrec_hf.data.id_columns import IdColumn, as_texts, is_arrow_id_type, is_id_type, numbers_if_whole, read_ids


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
    assert numbers_if_whole([pl.Series(texts)]) == is_whole
    assert numbers_if_whole([pl.Series(["5"]), pl.Series(texts).cast(pl.Categorical)]) == is_whole


def test_ids_that_are_kept():
    assert read_ids(pl.Series([3, 1], dtype=pl.UInt16)).dtype == pl.Int64
    for dtype in (pl.String, pl.Categorical):
        ids = read_ids(pl.Series(["b", "a", "b"]).cast(dtype))
        assert ids.to_list() == ["b", "a", "b"]
        assert ids.to_physical().to_list() == [1, 0, 1]  # in the order of the alphabet
    assert read_ids(pl.Series([2**63 + 1, 5], dtype=pl.UInt64)).to_list() == [str(2**63 + 1), "5"]


def test_enumerations_are_written_as_texts():
    table = pl.DataFrame({"user_id": [1], "item_id": ["b"], "split": ["train"]}).cast({"item_id": pl.Enum(["a", "b"])})
    assert as_texts(table).schema == {"user_id": pl.Int64, "item_id": pl.String, "split": pl.String}


def test_columns_are_split_and_taken():
    texts = pl.Series(["b", "a", "c"])
    column = IdColumn.of(read_ids(texts))
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
