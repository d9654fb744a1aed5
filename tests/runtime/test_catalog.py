"""Tests of the catalog: ids and titles."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchrec_hf.runtime.catalog import Catalog


TITLES = ("Emma", "Persuasion", "Emma", "Sense & Sensibility", "Ωμέγα 書", " padded ")


@pytest.fixture
def catalog():
    return Catalog(np.array([70, 9, 31, 8, 12, 55]), TITLES)


def test_prints_some_of_its_titles(catalog):
    assert repr(catalog) == "Catalog(6 items: 'Emma', 'Persuasion', 'Emma', …)"
    assert repr(Catalog.from_titles({1: "Emma"})) == "Catalog(1 items: 'Emma')"


def test_indices_of(catalog):
    indices = catalog.indices_of([8, 70, 8, 12])
    assert indices.tolist() == [3, 0, 3, 4]
    assert indices.dtype == np.int64
    assert catalog.indices_of(catalog.item_ids).tolist() == [0, 1, 2, 3, 4, 5]
    assert catalog.indices_of([]).tolist() == []


@pytest.mark.parametrize("unknown", [1, 10, 71])
def test_indices_of_names_the_unknown_id(catalog, unknown):
    with pytest.raises(KeyError, match=f"Item id {unknown} is not in the catalog of 6 items"):
        catalog.indices_of([9, unknown, 8])


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=30, unique=True), st.data())
def test_indices_of_inverts_item_ids(item_ids, data):
    catalog = Catalog(np.array(item_ids), tuple(f"title {item_id}" for item_id in item_ids))
    wanted = data.draw(st.lists(st.sampled_from(item_ids), max_size=20))
    assert catalog.indices_of(wanted).tolist() == [item_ids.index(item_id) for item_id in wanted]


@pytest.mark.parametrize("item_ids", [np.array([4, 2, 4, 4]), ["4", "2", "4", "4"]])
def test_duplicate_id_is_refused(item_ids):
    with pytest.raises(ValueError, match="Item id 4 appears 3 times"):
        Catalog(item_ids, ("a", "b", "c", "d"))


def test_titles_may_be_of_a_class_of_texts():
    assert Catalog([1, 2], ("a", np.str_("b"))).titles == ("a", "b")


def test_contains(catalog):
    assert [item_id in catalog for item_id in (8, 70, np.int64(55), 7, 71, "8", 8.5)] == [True] * 3 + [False] * 4


@pytest.mark.parametrize("title", ["", "  ", "\t\n", None])
def test_empty_title_is_refused(title):
    with pytest.raises(ValueError, match="Item 2 has an empty title"):
        Catalog(np.array([1, 2]), ("a", title))


def test_length_mismatch_is_refused():
    with pytest.raises(ValueError, match="got 3 ids and 2 titles"):
        Catalog(np.array([1, 2, 3]), ("a", "b"))


def test_no_items_are_refused():
    with pytest.raises(ValueError, match="at least one item"):
        Catalog.from_titles({})


def test_shared_titles(catalog):
    assert catalog.indices_of_title("Emma") == [0, 2]
    assert catalog.indices_of_title("Persuasion") == [1]
    assert catalog.indices_of_title("emma") == []
    assert catalog.num_shared_titles() == 2
    assert Catalog.from_titles({1: "a", 2: "b"}).num_shared_titles() == 0


@pytest.mark.parametrize("item_id", [1.5, None, True])
def test_ids_are_whole_numbers_or_texts(item_id):
    with pytest.raises(TypeError, match=f"must be a whole number or a text, got {item_id}"):
        Catalog.from_titles({item_id: "Persuasion"})


def test_ids_are_of_one_kind():
    with pytest.raises(TypeError, match="all whole numbers or all texts, got both '7' and 3"):
        Catalog.from_titles({3: "Emma", "7": "Persuasion"})


def test_text_ids_are_looked_up():
    catalog = Catalog.from_titles({"B-17": "Emma", "007": "Persuasion", "7": "Emma"})
    assert catalog.has_text_ids
    assert catalog.item_ids.tolist() == ["B-17", "007", "7"]
    assert catalog.indices_of(["7", "B-17", "007", "7"]).tolist() == [2, 0, 1, 2]
    assert ("007" in catalog, "07" in catalog, 7 in catalog) == (True, False, False)
    with pytest.raises(KeyError, match=r"Item id B17 is not in the catalog of 3 items\. The nearest ids are .*B-17"):
        catalog.indices_of(["7", "B17"])
    with pytest.raises(TypeError, match="item ids are texts, such as 'B-17', but 7 is not"):
        catalog.indices_of([7])
    with pytest.raises(TypeError, match="item ids are whole numbers, such as 7, but '7' is not"):
        Catalog.from_titles({7: "Emma"}).indices_of(["7"])


def test_text_ids_are_saved(tmp_path):
    catalog = Catalog.from_titles({"B-17": "Emma", "007": "Persuasion"})
    catalog.to_parquet(tmp_path / "catalog.parquet")
    loaded = Catalog.from_parquet(tmp_path / "catalog.parquet")
    assert loaded.item_ids.tolist() == ["B-17", "007"]
    assert loaded.id_numbers.tolist() == catalog.id_numbers.tolist()


def test_new_items_have_ids_of_the_same_kind():
    catalog = Catalog.from_titles({"B-17": "Emma"})
    assert catalog.with_items({"B-18": "Persuasion"}).item_ids.tolist() == ["B-17", "B-18"]
    with pytest.raises(ValueError, match=r"Item id B-17 is taken by 'Emma'\. Choose another id"):
        catalog.with_items({"B-17": "Persuasion"})
    with pytest.raises(TypeError, match="item ids are texts"):
        catalog.with_items({18: "Persuasion"})


def test_items_that_the_catalog_has_already():
    catalog = Catalog.from_titles({"B-17": "Emma", "B-18": "Poems"})
    assert catalog.with_items({}) is catalog.with_items({"B-18": "Poems"}) is catalog
    assert catalog.with_items({"B-18": "Poems", "B-19": "Typhoon"}).item_ids.tolist() == ["B-17", "B-18", "B-19"]


def test_large_unsigned_ids():
    large = 2**63 + 5
    with pytest.raises(ValueError, match=rf"must fit into 64 bits with a sign, got {large}\. Write such ids as texts"):
        Catalog.from_titles({large: "Emma", 3: "Persuasion"})
    with pytest.raises(ValueError, match=f"got {large}"):
        Catalog.from_frame(
            pl.DataFrame({"item_id": [large], "title": ["Emma"]}, schema_overrides={"item_id": pl.UInt64})
        )
    small = pl.DataFrame({"item_id": [5], "title": ["Emma"]}, schema_overrides={"item_id": pl.UInt64})
    assert Catalog.from_frame(small).item_ids.tolist() == [5]


def test_from_titles_keeps_the_order():
    catalog = Catalog.from_titles({9: "b", 7: "a"})
    assert catalog.item_ids.tolist() == [9, 7]
    assert catalog.titles == ("b", "a")
    assert len(catalog) == 2


def test_parquet_round_trip(catalog, tmp_path):
    catalog.to_parquet(tmp_path / "items.parquet")
    again = Catalog.from_parquet(tmp_path / "items.parquet")
    assert again.titles == catalog.titles
    assert again.item_ids.tolist() == catalog.item_ids.tolist()
    assert again.item_ids.dtype == np.int64


def test_from_frame_widens_ids_and_ignores_other_columns():
    frame = pl.DataFrame({"year": [1815, 1817], "title": ["Emma", "Persuasion"], "item_id": [5, 3]})
    catalog = Catalog.from_frame(frame.with_columns(pl.col("item_id").cast(pl.Int16)))
    assert catalog.item_ids.dtype == np.int64
    assert catalog.indices_of([3]).tolist() == [1]


def test_from_frame_takes_frames_of_other_libraries():
    pd = pytest.importorskip("pandas")
    for frame in (
        pd.DataFrame({"item_id": ["B", "A"], "title": ["x", "y"]}),
        pa.table({"item_id": ["B", "A"], "title": ["x", "y"]}),
    ):
        assert Catalog.from_frame(frame).item_ids.tolist() == ["B", "A"]


@pytest.mark.parametrize("column", ["item_id", "title"])
def test_from_frame_names_the_missing_column(column):
    frame = pl.DataFrame({"item_id": [1], "title": ["a"]}).rename({column: "other"})
    with pytest.raises(ValueError, match=f"no column '{column}'"):
        Catalog.from_frame(frame)


def test_items_table_without_titles(tmp_path):
    pl.DataFrame({"item_id": [1], "name": ["a"]}).write_parquet(tmp_path / "items.parquet")
    with pytest.raises(ValueError, match="no column 'title'"):
        Catalog.from_parquet(tmp_path / "items.parquet")


@pytest.mark.parametrize("item_ids", [[1, None], [1.0, 2.0], ["a", None]])
def test_columns_of_ids(item_ids):
    with pytest.raises(ValueError, match="`item_id` must hold whole numbers or texts without nulls"):
        Catalog.from_frame(pl.DataFrame({"item_id": item_ids, "title": ["a", "b"]}))


def test_lookups_of_other_than_ids():
    with pytest.raises(TypeError, match=r"a whole number or a text, got 7\.9"):
        Catalog.from_titles({7: "Emma"}).indices_of([7.9])


def test_catalogs_of_one_data_set(catalog):
    catalog.check_same_titles(catalog.with_items({900: "A New Book"}))
    catalog.with_items({901: "Another"}).check_same_titles(catalog)
    other = Catalog(catalog.item_ids, ("Something Else", *catalog.titles[1:]))
    with pytest.raises(ValueError, match=f"Item {catalog.item_ids[0]} is .* and 'Something Else' in the other"):
        catalog.check_same_titles(other)


def test_further_items(catalog):
    longer = catalog.with_items({900: "A New Book", 901: "Another"})
    assert longer.titles[-2:] == ("A New Book", "Another")
    assert longer.indices_of([901, *catalog.item_ids]).tolist() == [len(catalog) + 1, *range(len(catalog))]
    with pytest.raises(ValueError, match="is taken by"):
        catalog.with_items({int(catalog.item_ids[0]): "Taken"})
