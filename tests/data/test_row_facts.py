"""Rows know the catalog and the length that they were made with."""

import pytest
from datasets import Dataset, concatenate_datasets, interleave_datasets, load_from_disk
from tiers import first_fast

from patchrec_hf import Catalog, load_recommendation_data
from patchrec_hf.data import rows as rows_module
from patchrec_hf.data.row_facts import RowFacts, check_same_catalog, keep_facts, warn_of_other_max_history


TITLES = {number: f"title {number}" for number in range(100, 300)}
CATALOG = Catalog.from_titles(TITLES)


@pytest.fixture
def rows():
    rows = Dataset.from_list([{"user_id": 1, "item_ids": [100, 101], "target_positions": [1]}] * 3)
    keep_facts(rows, CATALOG, max_history=7)
    return rows


def test_facts_travel_with_rows(rows, tmp_path):
    (facts,) = RowFacts.all_of(rows)
    assert facts.max_history == 7
    assert len(facts.titles) == 64
    assert facts.titles[0] == (100, "title 100")
    rows.save_to_disk(str(tmp_path / "rows"))
    copies = [
        rows.select([0]), rows.shuffle(seed=0), rows.map(lambda row: row), rows.filter(lambda row: True),
        rows.train_test_split(0.5)["test"], load_from_disk(tmp_path / "rows"),
    ]  # fmt: skip
    for copy in copies:
        assert RowFacts.all_of(copy) == (facts,)


def test_ways_on_which_facts_are_lost(rows, tmp_path):
    """docs/data.md names them."""
    rows.to_parquet(tmp_path / "rows.parquet")
    for copy in (
        Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path)),
        Dataset.from_polars(rows.to_polars()),
        Dataset.from_list(rows.to_list()),
        rows.to_iterable_dataset(),
    ):
        assert RowFacts.all_of(copy) == ()


@pytest.mark.parametrize("join", [concatenate_datasets, interleave_datasets])
def test_facts_of_joined_rows(rows, join, monkeypatch):
    """`datasets` joins unequal descriptions by blank lines. Each part is checked."""
    others = Dataset.from_list(rows.to_list())
    keep_facts(others, Catalog.from_titles({**TITLES, 900: "new"}), max_history=9)
    own = Dataset.from_list(rows.to_list())
    own.info.description = "Rows of a user.\n\nWith two paragraphs."
    joined = join([rows, others, own, rows])
    assert [facts.max_history for facts in RowFacts.all_of(joined)] == [7, 9]
    check_same_catalog(joined, CATALOG)
    keep_facts(others, Catalog(CATALOG.item_ids, (*CATALOG.titles[1:], CATALOG.titles[0])), max_history=7)
    with pytest.raises(ValueError, match=r"item 100 is 'title 101' there, but 'title 100' in this catalog"):
        check_same_catalog(join([rows, others]), CATALOG)


def test_joined_rows_of_unequal_length_are_said(rows, monkeypatch):
    logged = []
    monkeypatch.setattr("patchrec_hf.data.row_facts.logger.warning_once", logged.append)
    others = Dataset.from_list(rows.to_list())
    keep_facts(others, CATALOG, max_history=9)
    warn_of_other_max_history(concatenate_datasets([rows, others]), 9)
    assert "made with `max_history` of 7 and 9, but the processor has `max_history=9`" in logged[0]


def test_rows_of_the_same_max_history_are_not_read(rows, monkeypatch):
    monkeypatch.setattr("patchrec_hf.data.row_facts.read_columns", None)
    warn_of_other_max_history(rows, 7)


def test_users_are_read_only_without_facts(rows, monkeypatch):
    read = []

    def read_columns(dataset, *columns):
        read.append((columns, len(dataset)))
        return rows_module.read_columns(dataset, *columns)

    monkeypatch.setattr("patchrec_hf.data.row_facts.read_columns", read_columns)
    monkeypatch.setattr("patchrec_hf.data.row_facts.logger.warning_once", lambda message: None)
    warn_of_other_max_history(rows, 8)
    assert read == [(("target_positions",), 3)]
    read.clear()
    warn_of_other_max_history(Dataset.from_list(windows(0, 1, 2, 3, 4, 4)), 8)
    assert read == [(("target_positions",), 5), (("user_id",), 2)]


def test_rows_of_your_own_have_no_facts():
    rows = Dataset.from_list([{"user_id": 1}])
    check_same_catalog(rows, CATALOG)
    for description in ("A text.", "3", "{}"):
        rows.info.description = description
        assert RowFacts.all_of(rows) == ()


def test_catalogs_that_may_differ(rows):
    check_same_catalog(rows, CATALOG)
    check_same_catalog(rows, CATALOG.with_items({900: "new"}))
    check_same_catalog(rows, Catalog.from_titles({**TITLES, 100: "title 100, corrected"}))
    check_same_catalog(rows, Catalog.from_titles(dict(reversed(TITLES.items()))))


def test_another_order_that_renumbers_items_is_refused(rows):
    renumbered = Catalog(CATALOG.item_ids, (*CATALOG.titles[1:], CATALOG.titles[0]))
    with pytest.raises(
        ValueError, match=r"item 100 is 'title 100' there, but 'title 101' .* 200 items, and 64 of 64 compared items"
    ):
        check_same_catalog(rows, renumbered)
    for other in (Catalog.from_titles({1: "Emma"}), Catalog.from_titles({"B-17": "Emma"})):
        with pytest.raises(ValueError, match="the catalog of 1 items has no item 100"):
            check_same_catalog(rows, other)


@pytest.mark.parametrize("streaming", first_fast([False, True]))
def test_loaded_rows_have_facts(tmp_path, streaming):
    splits, catalog = load_recommendation_data("sample", 30, streaming=streaming, cache_dir=tmp_path)
    for rows in splits.values():
        assert [facts.max_history for facts in RowFacts.all_of(rows)] == [30]
        check_same_catalog(rows, catalog)


def windows(user, *lengths):
    """Rows of a user with histories of the given lengths."""
    return [{"user_id": user, "item_ids": [*range(length + 1)], "target_positions": [length]} for length in lengths]


@pytest.mark.parametrize(
    ("rows", "effect"),
    [
        (windows(0, 3, 4, 4), "shorter histories than it reads"),  # two targets, with equally long histories: cut
        (windows(0, 3, 4) + windows(1, 4), None),  # no user has longer histories
        (windows(0, 3, 8, 8), None),
        (windows(0, 3, 8, 9), "reads only the latest 8 items"),
    ],
)
def test_rows_of_another_max_history(rows, effect, monkeypatch):
    logged = []
    monkeypatch.setattr("patchrec_hf.data.row_facts.logger.warning_once", logged.append)
    warn_of_other_max_history(Dataset.from_list(rows), 8)
    assert len(logged) == (effect is not None)
    assert all(effect in message and "`max_history=8`" in message for message in logged)


def test_rows_that_know_their_max_history(rows, monkeypatch):
    logged = []
    monkeypatch.setattr("patchrec_hf.data.row_facts.logger.warning_once", logged.append)
    warn_of_other_max_history(rows, 8)  # the longest history has one item, so none was cut
    keep_facts(rows, CATALOG, max_history=1)
    warn_of_other_max_history(rows, 1)
    assert logged == []
    warn_of_other_max_history(rows, 8)
    assert "shorter histories than it reads" in logged[0]
