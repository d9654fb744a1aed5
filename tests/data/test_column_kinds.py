"""The type of a column follows from all of its values."""

import polars as pl
import pytest

from patchrec_hf.data.column_kinds import cast_texts, find_kind


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["1", None, "-2"], pl.Int64),
        (["1"] * 2_000 + ["2.5"], pl.Float64),
        (["true", "False"], pl.Boolean),
        (["a", "1"], pl.String),
        ([None, None], pl.String),
        # The reader names the line of the text.
        (["1"] * 2_000 + ["many"], pl.Int64),
    ],
)
def test_kinds_by_hand(texts, kind):
    rows = pl.LazyFrame({"x": texts}, schema={"x": pl.String})
    assert find_kind(rows, "x", pl.String(), is_csv=True) == kind


def test_texts_of_json_lines_stay_texts():
    rows = pl.LazyFrame({"x": ["1", "2"]})
    assert find_kind(rows, "x", pl.String(), is_csv=False) == pl.String
    assert find_kind(rows, "x", pl.Int64(), is_csv=False) == pl.Int64


def test_texts_of_other_types_become_nulls():
    rows = pl.DataFrame({"x": [" 1", "2.5", "true", None]})
    assert rows.select(cast_texts("x", pl.Int64()))["x"].to_list() == [1, None, None, None]
    assert rows.select(cast_texts("x", pl.Boolean()))["x"].to_list() == [None, None, True, None]
    assert rows.select(cast_texts("x", pl.String()))["x"].to_list() == [" 1", "2.5", "true", None]
