"""Parts of a job: only whole ones count, and they are merged one at a time."""

import polars as pl
import pyarrow.parquet as pq
import pytest

from patchrec_hf import Recommendation
from patchrec_hf.jobs import job_parts
from patchrec_hf.jobs.job_parts import JobParts, merge_parts, part_rows, skipped_users
from patchrec_hf.jobs.user_requests import Fault, UserRequest


def rows_of(number, users_per_part=2, num_users=7):
    """Users 0, 1, 2, …; every third cannot be ranked."""
    first = number * users_per_part
    users = [
        Fault(user, f"u{user}", "empty") if user % 3 == 2 else UserRequest(user, f"u{user}", None, num_dropped=user)
        for user in range(first, min(first + users_per_part, num_users))
    ]
    lists = [[Recommendation(user.row, "Emma", -1.5, True)] for user in users if isinstance(user, UserRequest)]
    return part_rows(users, lists, pl.String(), has_text_ids=False)


@pytest.fixture
def parts(tmp_path):
    return JobParts(tmp_path, 7, 2)


def test_rows_by_hand():
    users = [UserRequest(4, 9, None, num_dropped=2), Fault(5, None, "no id"), UserRequest(6, 8, None)]
    items = [Recommendation("B-1", "Emma", -1.0, True), Recommendation("B-2", "Poems", -2.0, False)]
    rows = part_rows(users, [items, "too long"], pl.UInt16(), has_text_ids=True)
    assert rows.rows() == [
        (4, 9, ["B-1", "B-2"], ["Emma", "Poems"], [-1.0, -2.0], False, None, 2),
        (5, None, None, None, None, None, "no id", 0),
        (6, 8, None, None, None, None, "too long", 0),
    ]
    assert (rows.schema["user_id"], rows.schema["item_ids"]) == (pl.UInt16, pl.List(pl.String))
    assert skipped_users(rows) == [Fault(5, None, "no id"), Fault(6, 8, "too long")]


def test_only_whole_parts_count(parts):
    assert (len(parts), [parts.size(number) for number in range(4)]) == (4, [2, 2, 2, 1])
    assert parts.missing() == [0, 1, 2, 3]
    for number in (0, 2, 3):
        parts.write(number, rows_of(number))
    assert (parts.missing(), parts.num_written()) == ([1], 5)
    content = parts.path(2).read_bytes()
    parts.path(2).write_bytes(content[:50])  # a machine broke off
    parts.path(0).write_bytes(b"")
    parts.write(3, rows_of(0))  # has two rows instead of one
    (parts.directory / "part-00000001.0a1b.tmp").write_bytes(content)
    assert parts.missing() == [0, 1, 2, 3]


@pytest.mark.parametrize("rows_per_group", [1, 3, 100])
def test_merging_keeps_the_order(parts, monkeypatch, rows_per_group):
    monkeypatch.setattr(job_parts, "_ROWS_PER_GROUP", rows_per_group)
    for number in (2, 0, 3, 1):
        parts.write(number, rows_of(number))
    merged = merge_parts(parts)
    results, skipped = pl.read_parquet(merged.results), pl.read_parquet(merged.skipped)
    assert results["user_id"].to_list() == ["u0", "u1", "u3", "u4", "u6"]
    assert results["item_ids"].to_list() == [[0], [1], [3], [4], [6]]
    assert results.columns == ["user_id", "item_ids", "titles", "scores", "is_exact"]
    assert skipped.rows() == [(2, "u2", "empty"), (5, "u5", "empty")]
    assert (merged.num_recommended, merged.num_skipped, merged.num_dropped) == (5, 2, 0 + 1 + 3 + 4 + 6)
    assert pq.read_metadata(merged.results).num_row_groups == {1: 4, 3: 2, 100: 1}[rows_per_group]


def test_merging_reads_one_part_at_a_time(parts, monkeypatch):
    """A part is read when the one before it was handed on, and the writer keeps less than a row group."""
    monkeypatch.setattr(job_parts, "_ROWS_PER_GROUP", 2)
    for number in range(4):
        parts.write(number, rows_of(number))
    events, read, add = [], pl.read_parquet, job_parts._Writer.add
    monkeypatch.setattr(job_parts.pl, "read_parquet", lambda path: (events.append("read"), read(path))[1])

    def noted(writer, rows):
        add(writer, rows)
        assert writer._num_waiting < 2
        events.append("add")

    monkeypatch.setattr(job_parts._Writer, "add", noted)
    merge_parts(parts)
    assert events == ["read", "add", "add"] * 4


def test_publishing(parts, tmp_path):
    for number in range(4):
        parts.write(number, rows_of(number))
    output, skipped = tmp_path / "top.parquet", tmp_path / "top.skipped.parquet"
    merge_parts(parts).publish(output, skipped)
    assert (len(pl.read_parquet(output)), len(pl.read_parquet(skipped))) == (5, 2)
    one = JobParts(tmp_path / "one", 1, 2)
    one.directory.mkdir()
    one.write(0, rows_of(0).head(1))
    merge_parts(one).publish(tmp_path / "all.parquet", tmp_path / "all.skipped.parquet")
    assert pl.read_parquet(tmp_path / "all.parquet")["user_id"].to_list() == ["u0"]
    assert not (tmp_path / "all.skipped.parquet").exists()
