"""Directories of parts, as Spark and Dask write them."""

import polars as pl
import pytest
from raw_files import LOG, NAMES, interactions_of, prepare, write_table

from patchrec_hf.data.part_files import find_parts


def write_parts(directory, ending):
    directory.mkdir()
    for number, part in enumerate([LOG[:1], LOG[1:3], LOG[3:]]):
        write_table(part, directory / f"part-{number:05}-4f1c.{ending}")
        (directory / f".part-{number:05}-4f1c.{ending}.crc").write_bytes(b"crc")
    (directory / "_SUCCESS").touch()
    return directory


@pytest.mark.parametrize("ending", ["csv", "jsonl", "snappy.parquet"])
def test_parts_are_one_table(tmp_path, ending):
    log = write_parts(tmp_path / "log", ending)
    if ending != "snappy.parquet":
        (log / f"part-00003-4f1c.{ending}").touch()  # Spark writes parts without rows
    whole = prepare(LOG, columns=NAMES, time_unit="ms")
    data = prepare(log, columns=NAMES, time_unit="ms")
    assert interactions_of(data) == interactions_of(whole)
    assert data.items.equals(whole.items)
    assert data.steps == whole.steps
    items = prepare(LOG.drop("name"), items=log, columns=NAMES, time_unit="ms").items
    assert items.equals(whole.items)


def test_the_part_and_its_line_are_named(tmp_path):
    log = write_parts(tmp_path / "log", "csv")
    part = log / "part-00001-4f1c.csv"
    part.write_text(part.read_text() + "ann,8,soon,Ink\n")
    with pytest.raises(ValueError, match=r"part-00001-4f1c\.csv, line 4: 'at' is missing, or is not a readable"):
        prepare(log, columns=NAMES, time_unit="ms")


def test_a_condition_over_all_parts(tmp_path):
    log = write_parts(tmp_path / "log", "csv")
    data = prepare(log, {"where": pl.len().over("customer") > 1}, columns=NAMES, time_unit="ms")
    assert data.users["user_id"].to_list() == ["ann"]


def test_parts_are_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 9, 1):
        (tmp_path / f"part.{number}.parquet").write_bytes(b"PAR1")
    assert [path.name for path in find_parts(tmp_path).files] == [f"part.{number}.parquet" for number in (1, 9, 10)]


def test_directories_that_are_no_parts(tmp_path):
    (tmp_path / "clicks.csv").touch()
    assert find_parts(tmp_path) is None
    (tmp_path / "part-00000.csv").touch()
    with pytest.raises(ValueError, match=r"holds parts of a table, .* and \['clicks\.csv'\] beside them"):
        find_parts(tmp_path)
    (tmp_path / "clicks.csv").rename(tmp_path / "part-00001.json")
    with pytest.raises(ValueError, match="holds parts of several kinds"):
        find_parts(tmp_path)
    (tmp_path / "day=1").mkdir()
    with pytest.raises(ValueError, match=r"is divided by a column.*'day=1'.*pass the frame instead"):
        find_parts(tmp_path)


def test_parts_of_other_types(tmp_path):
    log = write_parts(tmp_path / "log", "parquet")
    write_table(LOG[3:].with_columns(customer=pl.lit(1)), log / "part-00002-4f1c.parquet")
    with pytest.raises(ValueError, match=r"part-00002.* has columns of other types than part-00000"):
        prepare(log, columns=NAMES, time_unit="ms")


def test_parts_without_rows(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "part-00000.csv").touch()
    with pytest.raises(ValueError, match="all of its parts are empty"):
        prepare(tmp_path / "log", columns=NAMES)
