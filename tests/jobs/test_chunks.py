"""Chunks: bounded in rows, the same however the file is divided into row groups, and read in little memory."""

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchrec_hf.jobs.chunks import UserChunks, read_chunks
from patchrec_hf.jobs.history_files import find_histories


def write(path, num_rows, rows_per_group, width=1):
    lists = [list(range(row, row + width)) for row in range(num_rows)]
    pl.DataFrame({"user_id": range(num_rows), "item_ids": lists}).write_parquet(path, row_group_size=rows_per_group)
    return path


@given(
    num_rows=st.integers(1, 40),
    rows_per_group=st.integers(1, 12),
    rows_per_chunk=st.integers(1, 15),
    wanted=st.none() | st.sets(st.integers(0, 20)),
)
def test_chunks_are_runs_of_rows(tmp_path_factory, num_rows, rows_per_group, rows_per_chunk, wanted):
    path = write(tmp_path_factory.mktemp("chunks") / "users.parquet", num_rows, rows_per_group)
    found = {
        number: rows["user_id"].to_list() for number, rows in read_chunks(path, ["user_id"], rows_per_chunk, wanted)
    }
    rows = list(range(num_rows))
    chunks = [rows[start : start + rows_per_chunk] for start in range(0, num_rows, rows_per_chunk)]
    assert found == {number: chunk for number, chunk in enumerate(chunks) if wanted is None or number in wanted}
    assert list(found) == sorted(found)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    """Also within one row group. Arrow's own count of bytes is compared, so that no clock and no machine matters."""
    peaks, before = {}, pa.default_memory_pool()
    for num_rows in (4_000, 40_000):
        path = write(tmp_path / f"{num_rows}.parquet", num_rows, num_rows, width=50)
        pool = pa.proxy_memory_pool(before)
        pa.set_memory_pool(pool)
        try:
            sizes = [len(rows) for _, rows in read_chunks(path, ["user_id", "item_ids"], 500)]
        finally:
            pa.set_memory_pool(before)
        assert sizes == [500] * (num_rows // 500)
        peaks[num_rows] = pool.max_memory()
    assert 0 < peaks[40_000] < 1.5 * peaks[4_000]
    assert peaks[40_000] < 40_000 * 50 * 8 / 2


def test_users_under_the_librarys_names(tmp_path):
    path = tmp_path / "users.parquet"
    rows = {
        "customer": [7, 8, 9],
        "bought": [["a"], ["b", "c"], []],
        "timestamps": [[1], [2, 3], []],
        "other": [1, 2, 3],
    }
    pl.DataFrame(rows).write_parquet(path)
    file = find_histories(path, {"user_id": "customer", "item_ids": "bought"})
    chunks = UserChunks.of(file, 2, with_timestamps=False)
    assert (chunks.num_users, chunks.user_type) == (3, pl.Int64)
    assert [(number, rows.to_dicts()) for number, rows in chunks.read()] == [
        (0, [{"user_id": 7, "item_ids": ["a"]}, {"user_id": 8, "item_ids": ["b", "c"]}]),
        (1, [{"user_id": 9, "item_ids": []}]),
    ]
    ((_, last),) = UserChunks.of(file, 2, with_timestamps=True).read([1])
    assert last.to_dicts() == [{"user_id": 9, "item_ids": [], "timestamps": []}]


def test_files_without_users_and_damaged_files(tmp_path):
    path = write(tmp_path / "users.parquet", 300, 300, width=50)
    chunks = UserChunks.of(find_histories(path), 10, with_timestamps=False)
    content = bytearray(path.read_bytes())
    content[200:2000] = bytes(1800)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"users\.parquet cannot be read"):
        list(chunks.read())
    pl.DataFrame(schema={"user_id": pl.Int64, "item_ids": pl.List(pl.Int64)}).write_parquet(path)
    with pytest.raises(ValueError, match=r"users\.parquet holds no user\."):
        UserChunks.of(find_histories(path), 10, with_timestamps=False)
