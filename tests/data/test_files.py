"""Errors in raw files name the file and line."""

import gzip
import zipfile
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import polars as pl
import pytest
from raw_files import RATINGS, prepare, write_csv

from patchrec_hf.data.files import (
    columns_of,
    find_file,
    place_for,
    read_checked,
    require_columns,
    unpack,
)
from patchrec_hf.data.frames import Frame
from patchrec_hf.data.lines import NotUtf8Error, is_utf8
from patchrec_hf.data.movielens import read_movielens


def test_a_damaged_archive(tmp_path):
    (tmp_path / "ml.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"ml\.zip is damaged .* Download it again"):
        prepare(tmp_path / "ml.zip")


@pytest.mark.slow
def test_the_line_is_found_behind_many_others(tmp_path):
    path = write_csv(tmp_path, [*RATINGS * 30_000, (2, 1, 4, "soon")])
    with pytest.raises(ValueError, match=rf"{path.name}, line 210002: .*The line is '2,1,4,soon'"):
        read_movielens(tmp_path)


def test_an_archive_is_unpacked_once_by_all(tmp_path):
    names = [f"{number}.csv" for number in range(20)]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(name, name * 10_000)
    barrier = Barrier(4)

    def unpack_together(_):
        barrier.wait()
        return sorted(path.name for path in unpack(tmp_path / "a.zip", tmp_path / "a").iterdir())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(unpack_together, range(4))) == [sorted(names)] * 4


def scan_numbers(source):
    return pl.scan_csv(source, has_header=False, schema={"number": pl.Int64})


@pytest.mark.parametrize("name", ["numbers.csv", "numbers.csv.gz"])
def test_rows_and_facts_of_one_pass(tmp_path, name):
    path = tmp_path / name
    content = b"3\n-1\n4\n"
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    facts = [pl.col("number").sum().alias("sum"), pl.len().alias("rows")]
    rows, found = read_checked(path, scan_numbers, {}, keep=pl.col("number") > 0, facts=facts)
    assert rows["number"].to_list() == [3, 4]
    assert found == {"sum": 6, "rows": 3}
    with pytest.raises(ValueError, match=rf"{name}, line 2: it is negative\. The line is '-1'"):
        read_checked(path, scan_numbers, {"it is negative": pl.col("number") < 0})


def test_columns_of_a_file(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user,item\n1,x\n")
    columns = columns_of(path, pl.scan_csv(path))
    assert dict(columns) == {"user": pl.Int64, "item": pl.String}
    require_columns(path, columns.names(), ["item"])
    with pytest.raises(ValueError, match=r"log\.csv has no column 'rating'; its columns are \['user', 'item'\]"):
        require_columns(path, columns.names(), ["user", "rating"])


def test_the_first_name_that_is_there(tmp_path):
    (tmp_path / "b.csv").touch()
    (tmp_path / "c.csv").touch()
    assert find_file(tmp_path, "a.csv", "b.csv", "c.csv") == tmp_path / "b.csv"
    with pytest.raises(FileNotFoundError, match=r"holds no a\.csv or d\.csv"):
        find_file(tmp_path, "a.csv", "d.csv")


def test_a_line_that_is_not_in_utf8(tmp_path):
    path = tmp_path / "names.csv"
    path.write_bytes("Emma\nÉmile\nCafé\n".encode() + "Café\n".encode("latin-1"))
    with pytest.raises(NotUtf8Error, match=r"names\.csv, line 4: it is not in UTF-8"):
        read_checked(path, lambda source: pl.scan_csv(source, has_header=False, schema={"name": pl.String}), {})
    assert is_utf8("Café".encode())
    assert not is_utf8("Café".encode("latin-1"))


def test_a_frame_is_read_as_a_file_is():
    frame = Frame("The frame", pl.LazyFrame({"number": [3, -1, 4]}))
    rows, found = read_checked(frame, lambda source: source.rows, {}, facts=[pl.len().alias("rows")])
    assert (rows["number"].to_list(), found) == ([3, -1, 4], {"rows": 3})
    with pytest.raises(
        ValueError, match=r"The frame, row 1, counted from 0: it is negative. The row is \{'number': -1\}"
    ):
        read_checked(frame, lambda source: source.rows, {"it is negative": pl.col("number") < 0})


def test_what_is_made_of_a_changed_file_has_another_place(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("1")
    place = place_for(path, tmp_path)
    assert (place.parent, place) == (tmp_path, place_for(path, tmp_path))
    path.write_text("12")
    assert place_for(path, tmp_path) != place
