"""Conditions: values of columns, from Python and from a command line."""

from datetime import date

import numpy as np
import polars as pl
import pytest

from patchrec_hf.data.conditions import as_values, has_values, parse_where, read_values


def test_pairs_of_a_command_line():
    assert parse_where(["event=buy,rent", "is_bot=false"]) == {"event": ["buy", "rent"], "is_bot": ["false"]}
    assert parse_where(["event=buy", "event=rent"]) == {"event": ["buy", "rent"]}
    assert parse_where(["returned=", "code=a=b,"]) == {"returned": [None], "code": ["a=b", None]}
    assert parse_where(['city="Bath, Somerset",York']) == {"city": ["Bath, Somerset", "York"]}
    for pair in ("buy", "=buy", ""):
        with pytest.raises(ValueError, match=f"columns and their values, such as event=buy,rent, got '{pair}'"):
            parse_where([pair])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("buy", ("buy",)),
        (None, (None,)),
        (["buy", None], ("buy", None)),
        ({"b", "a"}, ("a", "b")),
        (range(2), (0, 1)),
        (np.int64(3), (3,)),
        ([np.int64(3)], (3,)),
        (np.array([True, False]), (True, False)),
        (pl.Series(["a"]), ("a",)),
    ],
)
def test_values_become_tuples(value, expected):
    assert as_values(value) == expected
    assert list(map(type, as_values(value))) == list(map(type, expected))


SCHEMA = {
    "text": pl.String(), "category": pl.Categorical(), "flag": pl.Boolean(), "number": pl.Int64(),
    "price": pl.Float64(), "day": pl.Date(), "tags": pl.List(pl.String()),
}  # fmt: skip


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("text", ["buy", None], ["buy", None]),
        ("category", ["buy"], ["buy"]),
        ("flag", ["true", "False", True, None], [True, False, True, None]),
        ("number", ["007", 3, 4.0, "-1"], [7, 3, 4, -1]),
        ("price", ["1.5", 3, 2.5], [1.5, 3, 2.5]),
        ("day", ["2024-12-25", date(2024, 1, 1)], [date(2024, 12, 25), date(2024, 1, 1)]),
    ],
)
def test_values_are_read_by_the_type_of_the_column(column, values, expected):
    assert read_values({column: values}, SCHEMA, "The log") == {column: expected}


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("text", 7, "which holds String. Give a text, such as '7'"),
        ("flag", 1, "which holds Boolean. Give True or False"),
        ("flag", "yes", "Give True or False"),
        ("number", "many", "which holds Int64. Give a whole number"),
        ("number", 1.5, "Give a whole number"),
        ("number", float("inf"), "Give a whole number"),
        ("number", False, "Give a whole number"),
        ("price", "cheap", "which holds Float64. Give a number"),
        ("day", "25/12/2024", "which holds Date. Give a value of this type"),
        ("tags", "new", r"which holds List\(String\). Give a value of this type"),
    ],
)
def test_values_that_a_column_cannot_hold(column, value, problem):
    beginning = f"The log: `where` gives {value!r} for the column '{column}', which holds"
    with pytest.raises(ValueError, match=f"{beginning} .*{problem.removeprefix('which holds ')}"):
        read_values({column: [value]}, SCHEMA, "The log")


def test_a_missing_value_is_a_value():
    log = pl.DataFrame({"event": ["buy", "rent", None]})

    def kept(*values):
        return log.select(has_values({"event": values}).fill_null(False)).to_series().to_list()

    assert kept("buy") == [True, False, False]
    assert kept("buy", None) == [True, False, True]
    assert kept(None) == [False, False, True]
