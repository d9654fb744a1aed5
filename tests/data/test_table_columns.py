"""Columns of a table, as they stand there; lists become rows."""

import io
import json

import polars as pl
import pytest
from raw_files import interactions_of, prepare

from patchrec_hf.data.files import ROW
from patchrec_hf.data.frames import read_frame
from patchrec_hf.data.table_columns import Table


SESSIONS = pl.DataFrame(
    {
        "user_id": ["ann", "bob", "ann", "eve"],
        "item_id": [["a", "b", "a"], ["b"], ["c", "b"], []],
        "timestamp": [[10, 11, 12], [5], [20, 21], []],
    }
)
TITLES = pl.DataFrame({"item_id": ["a", "b", "c"], "title": ["Pen", "Ink", "Nib"]})
ROWS = [("ann", "a", 10), ("ann", "b", 11), ("ann", "a", 12), ("ann", "c", 20), ("ann", "b", 21), ("bob", "b", 5)]


def write(frame, directory, name):
    path = directory / name
    if name.endswith("parquet"):
        frame.write_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in frame.rows(named=True)))
    return path


def pass_or_write(frame, directory, name):
    return frame if name == "frame" else write(frame, directory, name)


KINDS = ["log.jsonl", "log.parquet", "frame"]


@pytest.mark.parametrize("name", KINDS)
def test_a_row_a_session(tmp_path, name):
    data = prepare(pass_or_write(SESSIONS, tmp_path, name), items=TITLES)
    assert interactions_of(data) == ROWS
    assert data.steps[0].interactions == 6


def test_arrays_and_a_time_for_all_items(tmp_path):
    kind = pl.Array(pl.String, 2)
    log = pl.DataFrame(
        {"user_id": [1, 2], "item_id": pl.Series([["a", "b"], ["b", "c"]], dtype=kind), "timestamp": [7, 8]}
    )
    data = prepare(log, items=TITLES)
    assert interactions_of(data) == [(1, "a", 7), (1, "b", 7), (2, "b", 8), (2, "c", 8)]


@pytest.mark.parametrize("name", KINDS)
def test_lists_of_different_lengths_name_their_row(tmp_path, name):
    log = SESSIONS.with_columns(timestamp=pl.Series([[10, 11, 12], [5], [20], []]))
    where = {"log.jsonl": "line 3", "log.parquet": "row 3", "frame": "row 2, counted from 0"}[name]
    with pytest.raises(ValueError, match=rf"{where}: the lists of \['item_id', 'timestamp'\] have different lengths"):
        prepare(pass_or_write(log, tmp_path, name), items=TITLES)


@pytest.mark.parametrize("name", KINDS)
def test_a_missing_value_in_a_list_names_its_row(tmp_path, name):
    log = SESSIONS.with_columns(item_id=pl.Series([["a", "b", "a"], ["b"], ["c", None], []]))
    where = {"log.jsonl": "line 3", "log.parquet": "row 3", "frame": "row 2, counted from 0"}[name]
    with pytest.raises(ValueError, match=rf"{where}: 'item_id' is missing"):
        prepare(pass_or_write(log, tmp_path, name), items=TITLES)


def test_titles_in_lists():
    log = SESSIONS.with_columns(title=pl.Series([["Pen", "Ink", "Pen"], ["Ink"], ["Nib", "Ink"], []]))
    assert prepare(log).items.rows() == TITLES.rows()


def test_rows_with_empty_lists_are_counted_in_both_tables(tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr("patchrec_hf.data.tables.logger.warning_once", logged.append)
    items = pl.DataFrame({"item_id": [["a", "b"], [], ["c"], []], "title": [["Pen", "Ink"], [], ["Nib"], []]})
    log, shelves = write(SESSIONS, tmp_path, "log.parquet"), write(items, tmp_path, "shelves.parquet")
    assert prepare(log, items=shelves).items.rows() == TITLES.rows()
    assert logged == [
        f"{log}: 1 rows have empty lists, and are left out.",
        f"{shelves}: 2 rows have empty lists, and are left out.",
    ]


def test_sessions_without_times():
    data = prepare(SESSIONS.drop("timestamp"), items=TITLES, columns={"timestamp": None})
    assert [row[1] for row in data.interactions.select("user_id", "item_id").rows()] == ["a", "b", "a", "c", "b", "b"]
    assert "timestamp" not in data.interactions.columns


def test_a_condition_on_sessions():
    log = SESSIONS.with_columns(store=pl.Series(["x", "y", "y", "x"]))
    data = prepare(log, {"where": {"store": "x"}}, items=TITLES)
    assert interactions_of(data) == ROWS[:3]


def test_parts_of_a_table(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("a,b\n1,x\n2,y\n")
    table = Table.of(path, ["b", "a"])
    assert table.scan(path).collect().rows() == [("x", "1"), ("y", "2")]
    assert table.scan(io.BytesIO(b"3,z\n")).collect().rows() == [("z", "3")]
    assert table.records.count == 2
    assert [part[0] for part in table.parts_for(lambda one, source: one.scan(source))] == [path]
    assert (table.helpers, table.faults) == ([], {})
    frame = Table.of(read_frame(SESSIONS, "The frame"), ["item_id"])
    assert ROW in frame.helpers
    assert frame.num_empty == 1
    assert frame.records is None


@pytest.mark.parametrize("dtype", [pl.Float64, pl.Decimal(20, 0)])
def test_whole_numbers_of_any_type_are_ids(dtype):
    log = pl.DataFrame({"user_id": pl.Series([1, 2], dtype=dtype), "item_id": ["a", "b"], "timestamp": [7, 8]})
    assert interactions_of(prepare(log, items=TITLES)) == [(1, "a", 7), (2, "b", 8)]


@pytest.mark.parametrize("value", [1.5, float("nan"), float("inf"), 2.0**60])
def test_other_floats_are_no_ids(value):
    log = pl.DataFrame({"user_id": [1.0, value], "item_id": ["a", "b"], "timestamp": [7, 8]})
    with pytest.raises(ValueError, match=r"row 1, counted from 0: 'user_id' is missing, or is no whole number"):
        prepare(log, items=TITLES)
