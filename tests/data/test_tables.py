"""Reading a user's own tables. Errors name the file and line."""

import json

import polars as pl
import pytest
from raw_files import LOG, NAMES, interactions_of, prepare, write_table

from patchrec_hf.data.filters import Filters


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.csv.gz", "log.jsonl", "log.parquet"])
def test_tables_by_hand(tmp_path, name):
    path = write_table(LOG, tmp_path / name)
    data = prepare(path, columns=NAMES, time_unit="ms")
    # Within a second, milliseconds tell the order. 007 is another id than 7, so ids stay texts.
    assert interactions_of(data) == [
        ("ann", "8", 1_700_000_000),
        ("ann", "9", 1_700_000_000),
        ("ann", "007", 1_700_000_000),
        ("bob", "8", 1_700_000_000),
    ]
    assert data.items.rows() == [("007", "Pen"), ("8", "Ink"), ("9", "Nib")]
    assert data.users["user_id"].to_list() == ["ann", "bob"]


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet"])
def test_tables_with_numbers_dates_ratings_and_items_apart(tmp_path, name):
    times = ["2024-01-01T00:00:00Z", "2024-01-01T00:00:02Z", "2024-01-01T00:00:01Z"]
    log = pl.DataFrame({"user_id": [5, 5, 5], "item_id": [70, 80, 90], "timestamp": times, "rating": [5.0, 2.0, 4.5]})
    items = pl.DataFrame({"item_id": [90, 80, 70], "title": ["C", "B", "A"]})
    path = write_table(log, tmp_path / name)
    data = prepare(path, Filters(min_rating=4), items=write_table(items, tmp_path / "items.csv"))
    assert interactions_of(data) == [(5, 70, 1704067200), (5, 90, 1704067201)]
    assert data.catalog.titles == ("C", "B", "A")


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_tables_whose_later_ids_are_texts(tmp_path, name):
    rows = [{"user_id": i, "item_id": 7, "timestamp": 1_700_000_000.5 + i, "title": "Pen"} for i in range(1_500)]
    rows.append({"user_id": "ann", "item_id": 7, "timestamp": 1_800_000_000, "title": "Pen"})
    path = tmp_path / name
    if name.endswith("csv"):
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines))
    data = prepare(path)
    users = sorted([*map(str, range(1_500)), "ann"])
    assert data.users["user_id"].to_list() == users
    assert interactions_of(data)[-1] == ("ann", 7, 1_800_000_000)
    assert interactions_of(data)[1] == ("1", 7, 1_700_000_001)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"customer": "who"}, r"no column 'customer'; its columns are .*'who'.*Name the file's own columns"),
        ({"name": "what"}, r"no column 'name'"),
    ],
)
def test_tables_with_a_missing_column(tmp_path, change, problem):
    path = write_table(LOG.rename(change), tmp_path / "log.csv")
    with pytest.raises(ValueError, match=problem):
        prepare(path, columns=NAMES, time_unit="ms")


def test_tables_that_are_empty(tmp_path):
    (tmp_path / "log.csv").write_text("")
    with pytest.raises(ValueError, match=r"log\.csv cannot be read: empty CSV"):
        prepare(tmp_path / "log.csv", columns=NAMES)
    (tmp_path / "log.csv").write_text("customer,sku,at,name\n")
    with pytest.raises(ValueError, match=r"log\.csv holds no interaction"):
        prepare(tmp_path / "log.csv", columns=NAMES)


def test_tables_without_titles(tmp_path):
    path = write_table(LOG.drop("name"), tmp_path / "log.csv")
    with pytest.raises(
        ValueError, match=r"no column 'name'.* If the titles are in a separate file, pass it as `items`"
    ):
        prepare(path, columns=NAMES, time_unit="ms")
    with pytest.raises(FileNotFoundError, match=r"no file .*items\.csv, which `items` names"):
        prepare(path, columns=NAMES, time_unit="ms", items=tmp_path / "items.csv")


@pytest.mark.parametrize(
    ("time", "problem"),
    [
        ("yesterday", "is missing, or is not a readable number or date"),
        ("", "is missing, or is not a readable number or date"),
    ],
)
def test_tables_name_the_line(tmp_path, time, problem):
    log = LOG.with_columns(at=pl.Series(["2024-01-01 10:00:00", "2024-01-02 10:00:00", time, "2024-01-01 10:00:00"]))
    path = write_table(log, tmp_path / "log.csv")
    with pytest.raises(ValueError, match=rf"log\.csv, line 4: 'at' {problem}"):
        prepare(path, columns=NAMES)


@pytest.mark.parametrize("rating", ["", "NaN", "good"])
def test_tables_need_a_rating_where_ratings_are_read(tmp_path, rating):
    path = write_table(LOG.with_columns(rating=pl.Series(["5", "4", rating, "3"])), tmp_path / "log.csv")
    with pytest.raises(ValueError, match=r"log\.csv, line 4: 'rating' is missing or not a number"):
        prepare(path, Filters(min_rating=3), columns=NAMES, time_unit="ms")


def test_tables_in_parquet_name_the_row(tmp_path):
    path = write_table(LOG.with_columns(at=pl.Series([1, 2, None, 3])), tmp_path / "log.parquet")
    with pytest.raises(ValueError, match=r"log\.parquet, row 3: 'at' is missing"):
        prepare(path, columns=NAMES)


def test_tables_in_another_time_unit(tmp_path):
    path = write_table(LOG, tmp_path / "log.csv")
    with pytest.raises(ValueError, match=r"line 2: 'at' is beyond the year 3000 in the unit 's'; set `time_unit`"):
        prepare(path, columns=NAMES)


def test_tables_with_two_titles_for_an_item(tmp_path):
    path = write_table(LOG.with_columns(name=pl.Series(["Pen", "Ink", "Tint", "Nib"])), tmp_path / "log.csv")
    with pytest.raises(ValueError, match=r"gives item '8' 2 titles: \['Ink', 'Tint'\]"):
        prepare(path, columns=NAMES, time_unit="ms")


@pytest.mark.parametrize(
    ("kwargs", "problem"),
    [
        ({"columns": {"user": "customer"}}, r"`columns` names \['user'\]"),
        ({"columns": NAMES, "time_unit": "h"}, "`time_unit` must be one of"),
    ],
)
def test_tables_refuse_settings(tmp_path, kwargs, problem):
    with pytest.raises(ValueError, match=problem):
        prepare(write_table(LOG, tmp_path / "log.csv"), **kwargs)
