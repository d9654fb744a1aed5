"""Rows know the catalog and the length that they were made with."""

import pytest
from datasets import Dataset, load_from_disk

from patchrec_hf import Catalog, load_recommendation_data
from patchrec_hf.data.row_facts import RowFacts, check_same_catalog, keep_facts


TITLES = {number: f"title {number}" for number in range(100, 300)}
CATALOG = Catalog.from_titles(TITLES)


@pytest.fixture
def rows():
    rows = Dataset.from_list([{"user_id": 1, "item_ids": [100, 101], "target_positions": [1]}] * 3)
    keep_facts(rows, CATALOG, max_history=7)
    return rows


def test_facts_travel_with_rows(rows, tmp_path):
    facts = RowFacts.of(rows)
    assert facts.max_history == 7
    assert len(facts.titles) == 64
    assert facts.titles[0] == (100, "title 100")
    rows.save_to_disk(str(tmp_path / "rows"))
    for copy in (rows.select([0]), rows.shuffle(seed=0), rows.map(lambda row: row), load_from_disk(tmp_path / "rows")):
        assert RowFacts.of(copy) == facts


def test_rows_of_your_own_have_no_facts():
    rows = Dataset.from_list([{"user_id": 1}])
    check_same_catalog(rows, CATALOG)
    for description in ("A text.", "3", "{}"):
        rows.info.description = description
        assert RowFacts.of(rows) is None


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


@pytest.mark.parametrize("streaming", [False, True])
def test_loaded_rows_have_facts(tmp_path, streaming):
    splits, catalog = load_recommendation_data("sample", 30, streaming=streaming, cache_dir=tmp_path)
    for rows in splits.values():
        assert RowFacts.of(rows).max_history == 30
        check_same_catalog(rows, catalog)
