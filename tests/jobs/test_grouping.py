"""Grouping: interactions in any order become one row per user, whatever the size of the buckets."""

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchrec_hf.jobs.grouping import as_rows
from patchrec_hf.jobs.history_files import find_histories


def grouped(path, bucket=10_000_000, **options):
    file = as_rows(find_histories(path, **options), path.parent / f"grouped-{bucket}", bucket)
    assert file.is_ready
    return pl.read_parquet(file.path)


@pytest.mark.slow
@given(
    rows=st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 9), st.integers(0, 5)), min_size=1, max_size=30),
    bucket=st.integers(1, 12),
)
def test_interactions_are_sorted_by_hand(tmp_path_factory, rows, bucket):
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_parquet(path)
    expected = {}
    for user, item, time in rows:
        expected.setdefault(user, []).append((time, item))
    expected = {user: sorted(events, key=lambda event: event[0]) for user, events in expected.items()}
    found = grouped(path, bucket)
    assert found["user_id"].to_list() == list(expected)
    assert found["item_ids"].to_list() == [[item for _, item in events] for events in expected.values()]
    assert found["timestamps"].to_list() == [[time for time, _ in events] for events in expected.values()]


def test_a_bucket_holds_few_interactions(tmp_path, monkeypatch):
    """A bucket ends with the user who has its fourth interaction."""
    path = tmp_path / "log.parquet"
    sizes = [2, 1, 3, 7, 1, 1]
    users = [user for user, size in enumerate(sizes) for _ in range(size)]
    log = pl.DataFrame({"user_id": users, "item_id": range(15), "timestamp": range(15)})
    log.write_parquet(path)
    written = []
    write = pq.ParquetWriter.write_table
    monkeypatch.setattr(
        pq.ParquetWriter,
        "write_table",
        lambda self, table, **how: (
            written.append(sum(map(len, table["item_ids"].to_pylist()))),
            write(self, table, **how),
        ),
    )
    assert grouped(path, 4)["item_ids"].list.len().to_list() == sizes
    assert written == [2 + 1 + 3, 7, 1 + 1]


def test_positions_order_a_prepared_directory(tmp_path):
    """Simultaneous interactions may be in another order than in the file."""
    log = {"user_id": [1, 1, 1], "item_id": [5, 6, 7], "timestamp": [9, 9, 3], "position": [2, 1, 0]}
    pl.DataFrame(log).write_parquet(tmp_path / "interactions.parquet")
    found = as_rows(find_histories(tmp_path), tmp_path / "new")
    assert pl.read_parquet(found.path).rows() == [(1, [7, 6, 5], [3, 9, 9])]


@pytest.mark.parametrize("kind", [pl.Float64, pl.Decimal(10, 2), pl.UInt8])
@pytest.mark.parametrize("name", ["log.parquet", "log.jsonl"])
def test_positions_of_other_types_are_whole_numbers(tmp_path, kind, name):
    columns = {"user_id": "user_id", "item_id": "item_id", "position": "rank"}
    log = pl.DataFrame({"user_id": [1, 1], "item_id": [5, 6], "rank": pl.Series([2, 1]).cast(kind)})
    write = pl.DataFrame.write_parquet if name.endswith("parquet") else pl.DataFrame.write_ndjson
    write(log, tmp_path / name)
    assert grouped(tmp_path / name, columns=columns)["item_ids"].cast(pl.List(pl.Int64)).to_list() == [[6, 5]]
    if kind == pl.UInt8:
        return
    # Without their fractions, both would be 1, and would stay in the order of the file.
    log = log.with_columns(rank=pl.Series([1.5, 1.25]).cast(kind))
    write(log, tmp_path / f"other-{name}")
    with pytest.raises(ValueError, match="'rank' is missing, or is no whole number"):
        as_rows(find_histories(tmp_path / f"other-{name}", columns), tmp_path / "new")


def test_csv_with_other_names_and_dates(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("customer;sku;day\n007;B-2;02/01/1990\n8;B-1;01/01/1990\n007;B-1;01/01/1990\n")
    names = {"user_id": "customer", "item_id": "sku", "timestamp": "day"}
    found = grouped(path, columns=names, date_format="%d/%m/%Y")
    assert found["user_id"].to_list() == ["007", "8"]
    assert found["item_ids"].to_list() == [["B-1", "B-2"], ["B-1"]]
    assert found["timestamps"].to_list() == [[631_152_000, 631_238_400], [631_152_000]]


def test_csv_without_a_header_and_with_other_quotes(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("\n'a,b',1,1500000001\n'a,b',2,1500000000\n")
    names = {"user_id": "column_1", "item_id": "column_2", "timestamp": "column_3"}
    found = grouped(path, columns=names, quote_char="'", has_header=False)
    assert found.select("user_id", "item_ids").rows() == [("a,b", ["2", "1"])]


def test_users_are_numbers_if_all_are(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n70,x,1500000000\n8,y,1500000000\n")
    found = grouped(tmp_path / "log.csv")
    assert found.schema["user_id"] == pl.Int64
    assert found["user_id"].to_list() == [70, 8]
    path = tmp_path / "users.jsonl"
    path.write_text('{"user_id": 3, "item_ids": ["x", "y"], "timestamps": [1, 2]}\n{"user_id": 4, "item_ids": []}\n')
    file = as_rows(find_histories(path), tmp_path / "json")
    assert pl.read_parquet(file.path).rows() == [(3, ["x", "y"], [1, 2]), (4, [], None)]


def test_a_file_that_is_ready_stays(tmp_path):
    path = tmp_path / "users.parquet"
    pl.DataFrame({"user_id": [1], "item_ids": [[1]]}).write_parquet(path)
    assert as_rows(find_histories(path), tmp_path / "new").path == path
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user_id,item_id,timestamp\n1,2,1500000000\n,3,1500000000\n", r"line 3: 'user_id' is missing"),
        ("user_id,item_id,timestamp\n1,,1500000000\n", r"line 2: 'item_id' is missing"),
        (
            "user_id,item_id,timestamp\n1,2,1500000000\n1,2,soon\n",
            r"line 3: 'timestamp' is missing, or is not a readable",
        ),
        ("user_id,item_id,timestamp\n", "holds no interaction"),
        ("user,item_id,timestamp\n1,2,3\n", r"no column 'user_id'.*Did you mean 'user'\?"),
    ],
)
def test_bad_logs_name_the_line_and_leave_no_file(tmp_path, text, message):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        as_rows(find_histories(tmp_path / "log.csv"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_bad_json_lines(tmp_path):
    (tmp_path / "users.jsonl").write_text('{"user_id": 3, "item_ids": ["x"]}\n{"user_id": 4, "item_ids": \n')
    with pytest.raises(ValueError, match=r"users\.jsonl cannot be read"):
        as_rows(find_histories(tmp_path / "users.jsonl"), tmp_path / "new")
