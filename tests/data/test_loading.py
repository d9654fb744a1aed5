"""Loading: from a name or a path to example rows."""

import polars as pl
import pytest
from datasets import DatasetDict, load_from_disk
from datasets.fingerprint import Hasher
from sixty_users import COLUMNS, CUTS, preparation_rows
from small_data import rows_of, write_directory

from patchrec_hf import (
    Filters,
    load_recommendation_data,
    prepare_data,
    tidy_title,
)
from patchrec_hf.data.rows import check_rows
from patchrec_hf.data.splits import SPLITS


@pytest.fixture
def directory(tmp_path):
    return write_directory(tmp_path)


def test_read_directory_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file, directory or public data set .*nowhere"):
        load_recommendation_data(tmp_path / "nowhere")


def test_load_splits_a_directory_in_time(directory):
    """Of 20 interactions 19 are train at a cut of 0.96, and none is left between it and 0.98."""
    with pytest.raises(ValueError, match=r"leaves \['validation'\] empty"):
        load_recommendation_data(directory)


def test_load_keeps_the_split_of_a_directory(directory):
    split = pl.when(pl.col("timestamp") < 70).then(pl.lit("train")).when(pl.col("timestamp") < 100)
    frame = pl.read_parquet(directory / "interactions.parquet")
    # Categories, as the paper's Goodreads is stored.
    named = split.then(pl.lit("validation")).otherwise(pl.lit("test")).cast(pl.Categorical).alias("split")
    frame.with_columns(named).write_parquet(directory / "interactions.parquet")
    datasets, catalog = load_recommendation_data(directory, max_history=4, min_history=5)
    assert rows_of(datasets["train"]) == [
        (7, [99, 98, 97, 96, 95], [4]),
        (7, [98, 97, 96, 95, 94], [4]),
    ]
    # User 7 (times 7, 17, …, 97) and user 40 (times 40, 50, …, 130).
    assert [row["user_id"] for row in datasets["validation"]] == [7, 7, 7, 40]
    assert [row["user_id"] for row in datasets["test"]] == [40, 40, 40, 40]
    assert len(catalog) == 10


def test_load_the_sample():
    datasets, catalog = load_recommendation_data("sample")
    sizes = {split: dataset.num_rows for split, dataset in datasets.items()}
    assert list(sizes) == list(SPLITS)
    # The shares are 48 : 1 : 1, but for ties and for the readers' first three books, which are mostly train.
    total = sum(sizes.values())
    assert sizes["train"] / total == pytest.approx(0.96, abs=0.01)
    assert sizes["validation"] / total == pytest.approx(0.02, abs=0.005)
    assert sizes["test"] / total == pytest.approx(0.02, abs=0.005)
    rows = rows_of(datasets["test"])
    assert all(3 <= len(item_ids) - 1 <= 100 and targets == [len(item_ids) - 1] for _, item_ids, targets in rows)
    # Nobody reads a book twice, so no target stands in its own history.
    assert all(item_ids[-1] not in item_ids[:-1] for _, item_ids, _ in rows)
    assert catalog.indices_of([item for _, item_ids, _ in rows for item in item_ids]).max() < len(catalog)


def test_load_the_sample_with_short_histories():
    datasets, _ = load_recommendation_data("sample", max_history=5, min_history=30)
    assert {len(item_ids) for _, item_ids, _ in rows_of(datasets["validation"])} == {6}


def test_loading_is_preparing_and_making_rows(log, data):
    examples, catalog = load_recommendation_data(log, 5, split=CUTS, columns=COLUMNS)
    assert isinstance(examples, DatasetDict)
    expected = preparation_rows(data, max_history=5)
    assert {split: rows.to_list() for split, rows in examples.items()} == expected
    assert catalog.titles == tuple(data.items["title"])


def test_filters_may_be_changed_one_by_one(log):
    changed = prepare_data(log, split=CUTS, columns=COLUMNS, filters={"min_item_users": 2})
    assert changed.steps == prepare_data(log, split=CUTS, columns=COLUMNS, filters=Filters(min_item_users=2)).steps


def test_titles_are_cleaned(log):
    frame = pl.read_csv(log).with_columns(title=" <b>" + pl.col("title") + "</b>&nbsp;&amp; more ")
    data = prepare_data(frame, split=CUTS, columns=COLUMNS, title_rule=tidy_title)
    assert data.items["title"][0] == "Book i0 & more"


def test_messages_name_the_file_and_not_its_copy(tmp_path):
    (tmp_path / "log.csv").write_text("user_id;item_id;timestamp;title\n1;2;soon;Café\n", encoding="latin-1")
    with pytest.raises(ValueError, match=rf"^{tmp_path / 'log.csv'}, line 2: 'timestamp'"):
        prepare_data(tmp_path / "log.csv", encoding="latin-1", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(("name", "example"), [("split", "leave_one_out_split"), ("title_rule", "tidy_title")])
def test_functions_are_not_given_by_name(log, name, example):
    with pytest.raises(TypeError, match=f"`{name}` must be a function, such as `patchrec_hf.{example}`, got 'tidy'"):
        prepare_data(log, **{name: "tidy"})


def test_rows_of_an_older_cache_are_made_anew(log, tmp_path):
    """Rows without timestamps, which an earlier version kept for the same data and settings, are not read."""
    settings = {"split": CUTS, "columns": COLUMNS, "cache_dir": tmp_path / "cache"}
    splits, _ = load_recommendation_data(log, 5, **settings)
    examples = tmp_path / "cache" / "examples"
    (made,) = (path for path in examples.iterdir() if path.is_dir())
    (prepared,) = (path for path in (tmp_path / "cache" / "prepared").iterdir() if path.is_dir())
    row_settings = {"max_history": 5, "min_history": 3, "targets_per_row": 1}
    former = examples / f"{prepared.name}-{Hasher.hash([row_settings, SPLITS])}"
    assert former != made
    former.mkdir()
    again, _ = load_recommendation_data(log, 5, **settings)
    assert again["train"].to_list() == splits["train"].to_list()
    assert "timestamps" in again["train"].column_names


def test_saved_rows_keep_their_times(log, tmp_path):
    splits, _ = load_recommendation_data(log, 5, split=CUTS, columns=COLUMNS, cache_dir=tmp_path / "cache")
    splits.save_to_disk(tmp_path / "rows")
    again = load_from_disk(tmp_path / "rows")
    for name, rows in again.items():
        assert rows.column_names == ["user_id", "item_ids", "target_positions", "timestamps"]
        assert rows.to_list() == splits[name].to_list()
        check_rows(rows)
