"""Logs of interactions, as every reader reads and checks them."""

import polars as pl
import pytest

from patchrec_hf.data.raw import read_interactions, scan_json_lines


TYPES = {"user_id": pl.Int64, "item_id": pl.Int64, "rating": pl.Float32, "timestamp": pl.Int64}


def scan(source):
    return pl.scan_csv(source, has_header=False, schema=TYPES)


def write(tmp_path, *rows):
    path = tmp_path / "log.csv"
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


def test_low_ratings_are_counted_and_left_out(tmp_path):
    path = write(tmp_path, "1,10,5,100", "1,11,2,101", "2,10,3.5,102", "2,12,4,103")
    rows, num_read = read_interactions(path, scan, 3.5, (1, 5))
    assert rows.select("user_id", "item_id", "timestamp").rows() == [(1, 10, 100), (2, 10, 102), (2, 12, 103)]
    assert num_read == {"users": 2, "items": 3, "interactions": 4}
    rows, _ = read_interactions(path, scan, None)
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (",10,5,100", "user_id is missing"),
        ("1,,5,100", "item_id is missing"),
        ("1,10,5,", "timestamp is missing"),
        ("1,10,,100", "the rating is missing"),
        ("1,10,5.5,100", "the rating lies outside 0.5 to 5"),
    ],
)
def test_what_is_missing_is_named_by_line(tmp_path, row, problem):
    path = write(tmp_path, "1,10,5,100", row, "2,11,4,101")
    with pytest.raises(ValueError, match=rf"log\.csv, line 2: {problem}"):
        read_interactions(path, scan, None, (0.5, 5))


def test_faults_of_a_readers_own_are_said_first(tmp_path):
    path = write(tmp_path, "1,10,9,-5")
    with pytest.raises(ValueError, match=r"line 1: it is before 1970"):
        read_interactions(path, scan, None, (1, 5), {"it is before 1970": pl.col("timestamp") < 0})


def test_a_log_without_interactions(tmp_path):
    with pytest.raises(ValueError, match=r"log\.csv holds no interaction"):
        read_interactions(write(tmp_path), scan, None)


def test_other_fields_of_json_lines_are_passed_over(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"user_id": "a", "text": "long", "item_id": 3}\n{"item_id": 4, "user_id": "b"}\n')
    rows = scan_json_lines(path, {"user_id": pl.String, "item_id": pl.Int64}).collect()
    assert rows.rows() == [("a", 3), ("b", 4)]


def test_rows_that_a_condition_leaves_out_are_counted_and_not_checked(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("1,5,10,4\n2,,11,4\n2,5,12,1\n")
    schema = dict.fromkeys(("user_id", "item_id", "timestamp", "rating"), pl.Int64)

    def scan(source):
        return pl.scan_csv(source, has_header=False, schema=schema)

    rows, num_read = read_interactions(path, scan, 2, where=pl.col("timestamp") != 11)
    assert rows.rows() == [(1, 5, 10, 4)]
    assert num_read["interactions"] == 3
    with pytest.raises(ValueError, match="line 2: item_id is missing"):
        read_interactions(path, scan, 2)
