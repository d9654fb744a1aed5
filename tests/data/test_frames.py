"""Data frames as raw data. They give the same rows as a CSV file of the same content."""

import sys

import polars as pl
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, IterableDataset
from processes import run_process
from raw_files import LOG, NAMES, interactions_of, prepare, write_table
from sixty_users import COLUMNS, CUTS, write_log

from patchrec_hf import load_recommendation_data
from patchrec_hf.data.frames import read_frame


ITEMS = LOG.select("sku", "name").unique(maintain_order=True)


def to_pandas(frame):
    pytest.importorskip("pandas")
    # An index that is not a range, as filters of pandas leave it.
    pandas_frame = frame.to_pandas()
    return pandas_frame.set_index(pandas_frame.index * 2 + 5)


def to_shuffled_dataset(frame):
    """A data set whose rows stand in another order than in its table."""
    return Dataset.from_polars(frame[::-1]).select(range(len(frame) - 1, -1, -1))


KINDS = [
    pl.DataFrame,
    pl.DataFrame.lazy,
    pl.DataFrame.to_arrow,
    Dataset.from_polars,
    to_shuffled_dataset,
    to_pandas,
    lambda frame: pa.RecordBatchReader.from_batches(frame.to_arrow().schema, frame.to_arrow().to_batches()),
]


@pytest.mark.parametrize("convert", KINDS)
def test_frames_give_the_rows_of_a_file(tmp_path, convert):
    file = prepare(write_table(LOG, tmp_path / "log.csv"), columns=NAMES, time_unit="ms")
    data = prepare(convert(LOG), columns=NAMES, time_unit="ms")
    assert data.interactions.equals(file.interactions)
    assert data.items.equals(file.items)
    apart = prepare(convert(LOG.drop("name")), items=convert(ITEMS), columns=NAMES, time_unit="ms")
    assert interactions_of(apart) == interactions_of(file)
    assert apart.items.equals(file.items)


def test_a_file_and_a_frame_go_together(tmp_path):
    file = prepare(write_table(LOG, tmp_path / "log.csv"), columns=NAMES, time_unit="ms")
    items = write_table(ITEMS, tmp_path / "items.csv")
    for log, titles in ((tmp_path / "log.csv", ITEMS), (LOG, items), (LOG, str(items))):
        data = prepare(log, items=titles, columns=NAMES, time_unit="ms")
        assert interactions_of(data) == interactions_of(file)


def test_rows_for_training_from_frames(tmp_path):
    log = write_log(tmp_path)
    settings = {"split": CUTS, "columns": COLUMNS, "cache_dir": tmp_path / "cache"}
    expected, catalog = load_recommendation_data(log, 5, **settings)
    splits, same_catalog = load_recommendation_data(pl.read_csv(log), 5, **settings)
    assert {name: rows.to_list() for name, rows in splits.items()} == {
        name: rows.to_list() for name, rows in expected.items()
    }
    assert same_catalog.titles == catalog.titles
    stream, _ = load_recommendation_data(pl.read_csv(log), 5, **settings, streaming=True)
    assert stream["validation"].to_list() == expected["validation"].to_list()


@pytest.mark.slow
def test_what_is_cached_depends_on_the_values_of_a_frame(tmp_path, monkeypatch):
    from patchrec_hf.data import cache

    made = []
    prepare_raw = cache.prepare
    monkeypatch.setattr(cache, "prepare", lambda *args: made.append(args[0]) or prepare_raw(*args))

    def load(log, **kwargs):
        before = len(made)
        load_recommendation_data(log, split=CUTS, columns=COLUMNS, cache_dir=tmp_path / "cache", **kwargs)
        return len(made) > before

    log = pl.read_csv(write_log(tmp_path))
    assert load(log)
    assert not load(log.clone())
    assert not load(pl.concat([log[:100], log[100:]], rechunk=False))
    assert not load(log.lazy())
    assert load(log[:-1])
    assert load(log[::-1])
    assert load(log.with_columns(time=pl.col("time") + 1))
    items = log.select("item", "title").unique(maintain_order=True)
    assert load(log, items=items)
    assert not load(log, items=items)
    assert load(log, items=items.with_columns(title=pl.col("title").str.to_uppercase()))


@pytest.mark.slow
def test_a_digest_is_the_same_in_another_process():
    code = (
        "import polars as pl; from patchrec_hf.data.frames import read_frame; "
        "print(read_frame(pl.DataFrame({'a': ['x', None], 'b': [1, 2]}), 'x').digest())"
    )
    run = run_process([sys.executable, "-c", code], check=True)
    digest = read_frame(pl.DataFrame({"a": ["x", None], "b": [1, 2]}), "x").digest()
    assert run.stdout.split()[-1] == digest


@pytest.mark.parametrize("kind", [pl.Categorical, pl.Enum])
def test_a_digest_reads_categories_as_texts(kind):
    digests = []
    for texts in (["a", "b"], ["x", "y"]):
        dtype = kind(texts) if kind is pl.Enum else kind
        digests.append(read_frame(pl.DataFrame({"sku": pl.Series(texts, dtype=dtype)}), "x").digest())
    assert digests[0] != digests[1]


def test_categories_and_dates_of_pandas(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "user_id": pandas.Categorical(["ann", "ann"]),
            "item_id": [7, 8],
            # A zone that is an hour before UTC in winter.
            "timestamp": pandas.to_datetime(["2024-01-01 01:00:00", "2024-01-01 01:00:05"]).tz_localize(
                "Europe/Berlin"
            ),
            "title": ["Pen", "Ink"],
        }
    )
    data = prepare(frame)
    assert data.interactions["timestamp"].to_list() == [1704067200, 1704067205]
    assert data.interactions["item_id"].to_list() == [7, 8]


@pytest.mark.parametrize("convert", [pl.DataFrame, to_pandas])
def test_errors_name_the_row(convert):
    log = LOG.with_columns(at=pl.Series(["2024-01-01", "2024-01-02", "yesterday", None]))
    with pytest.raises(ValueError, match=r"The data frame, row 2, counted from 0: 'at' is missing, or .*The row is"):
        prepare(convert(log), columns=NAMES)
    items = ITEMS.with_columns(sku=pl.Series(["7", None, "9"]))
    with pytest.raises(ValueError, match=r"The data frame of `items`, row 1, counted from 0: 'sku' is missing"):
        prepare(convert(LOG), items=convert(items), columns=NAMES, time_unit="ms")


@pytest.mark.parametrize(
    ("log", "error", "problem"),
    [
        ({"user_id": [1]}, TypeError, r"The data frame must be a file, or a data frame .*got `dict`. Make a frame"),
        (None, TypeError, "got `NoneType`"),
        (
            DatasetDict({"train": Dataset.from_polars(LOG)}),
            TypeError,
            r"Pass one of its splits, .* \['train'\]",
        ),
        (IterableDataset.from_generator(lambda: iter(())), TypeError, "Pass a file instead"),
        (LOG.rename({"sku": "code"}), ValueError, r"The data frame has no column 'sku'.*Name the frame's own columns"),
        (
            LOG.with_columns(sku=1.5),
            ValueError,
            r"row 0, counted from 0: 'sku' is missing, or is no whole number .*1\.5",
        ),
        (LOG.with_columns(sku=[{"a": 1}] * 4), ValueError, "ids must be whole numbers or texts"),
        (LOG.with_columns(customer=pl.Series([["a"]] * 4)), ValueError, "column 'customer' holds lists"),
        (LOG.with_columns(sku=pl.Series([["a"]] * 4)), ValueError, "'sku' holds lists, but 'name' does not"),
        (LOG.with_columns(at=pl.duration(days=1)), ValueError, "times must be numbers, dates or texts"),
        (LOG.clear(), ValueError, "The data frame holds no interaction"),
        (pl.DataFrame(), ValueError, r"The data frame has no column 'customer'; its columns are \[\]"),
        (LOG.with_columns(sku=pl.Series([object()] * 4)), ValueError, "column 'sku' holds Object; ids must be"),
    ],
)
def test_frames_that_are_refused(log, error, problem):
    with pytest.raises(error, match=problem):
        prepare(log, columns=NAMES, time_unit="ms")


def test_a_column_of_pandas_with_texts_and_numbers():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"customer": ["ann"] * 2, "sku": [7, "B-17"], "at": [1, 2], "name": ["Pen", "Ink"]})
    with pytest.raises(ValueError, match=r"The data frame cannot be read.*sku.*astype\(str\)"):
        prepare(frame, columns=NAMES)


def test_advice_about_types_stands_only_where_it_helps():
    pandas = pytest.importorskip("pandas")
    twice = pandas.DataFrame([["ann", 7, 1]], columns=["customer", "sku", "sku"])
    with pytest.raises(ValueError, match=r"The data frame cannot be read: .*unique string names") as caught:
        prepare(twice, columns=NAMES)
    assert "astype" not in str(caught.value)


def test_large_unsigned_ids_are_texts():
    ids = pl.Series([2**64 - 1, 5], dtype=pl.UInt64)
    log = pl.DataFrame({"user_id": [1, 1], "item_id": ids, "timestamp": [1, 2], "title": ["Pen", "Ink"]})
    assert prepare(log).items["title"].to_list() == ["Pen", "Ink"]
    small = log.with_columns(item_id=pl.Series([6, 5], dtype=pl.UInt64))
    assert prepare(small).items["item_id"].to_list() == [6, 5]
