"""Histories in all forms in which users have them, and the items that their ids and titles mean."""

import logging

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from transformers.utils import logging as transformers_logging

from patchrec_hf import Catalog, Title
from patchrec_hf.runtime.title_tokens import tokenize_titles
from patchrec_hf.runtime.user_histories import (
    as_additions,
    as_batch,
    as_timestamps,
    find_items,
    known_indices,
    match_item,
)


@pytest.fixture
def named():
    return Catalog.from_titles({"ES-1": "Emma", "ES-2": "Typhoon", "ES-3": "Emma", "Poems": "The Time Machine"})


@pytest.fixture
def find(tokenizer):
    def find(batch, catalog):
        return find_items(batch, catalog, tokenize_titles(catalog.titles, tokenizer), tokenizer)

    return find


@pytest.mark.parametrize(
    "histories",
    [
        [3, 14],
        (3, 14),
        np.array([3, 14], np.int32),
        torch.tensor([3, 14]),
        pl.Series([3, 14]),
        pa.array([3, 14]).to_pylist(),
    ],
)
def test_one_history(histories):
    assert as_batch(histories) == (True, [[3, 14]])


@pytest.mark.parametrize(
    "histories",
    [
        [[3, 14], [5, 6]],
        [np.array([3, 14]), torch.tensor([5, 6])],
        np.array([[3, 14], [5, 6]]),
        torch.tensor([[3, 14], [5, 6]]),
        pl.Series([[3, 14], [5, 6]]),
        pl.DataFrame({"user_id": ["a", "b"], "item_ids": [[3, 14], [5, 6]]}),
        pa.table({"user_id": ["a", "b"], "item_ids": [[3, 14], [5, 6]]}),
        pl.DataFrame({"item_ids": [[3, 14], [5, 6]]}),
        pl.LazyFrame({"item_ids": [[3, 14], [5, 6]]}),
        pa.table({"item_ids": [[3, 14], [5, 6]]}),
    ],
)
def test_a_batch(histories):
    assert as_batch(histories) == (False, [[3, 14], [5, 6]])


def test_pandas():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"user_id": ["a", "b"], "item_ids": [["x", "y"], ["z"]]})
    assert as_batch(frame) == (False, [["x", "y"], ["z"]])
    assert as_batch(frame["item_ids"]) == (False, [["x", "y"], ["z"]])
    assert as_batch(pd.Series([3, 14])) == (True, [[3, 14]])


@pytest.mark.parametrize(
    "histories",
    [
        "ES-1",
        3,
        torch.tensor(3),
        np.array(3),
        Title("Emma"),
        [["ES-1"], "ES-1"],
        [[1.5]],
        [[True]],
        [[None]],
        {"item_ids": [3]},
        [{"item_ids": [3]}],
        {3, 14},
        [{3, 14}],
        Dataset.from_dict({"item_ids": [[3]]}),
    ],
)
def test_no_histories(histories):
    with pytest.raises(TypeError, match=r"A history is a list|An item is an id"):
        as_batch(histories)


def test_rows_name_the_mend():
    with pytest.raises(TypeError, match=r"got a dict in row 0, so pass its list of ids, such as row\['item_ids'\]"):
        as_batch(Dataset.from_dict({"item_ids": [[3]], "user_id": [1]}))
    assert as_batch(Dataset.from_dict({"item_ids": [[3]]})["item_ids"]) == (False, [[3]])


def test_tensors_of_single_ids_are_one_history():
    assert as_batch([torch.tensor(3), torch.tensor(14)]) == (True, [[3, 14]])
    assert as_batch(list(np.array([3, 14]))) == (True, [[3, 14]])


@pytest.mark.parametrize(
    "frame",
    [
        {"user": ["a"], "items": [[3]]},
        {"user_id": [1, 2, 3]},
        {"user_id": [1, 1, 2], "item_ids": [5, 6, 7]},
    ],
)
@pytest.mark.parametrize("kind", [pl.DataFrame, pa.table, lambda frame: pl.LazyFrame(frame)])
def test_a_frame_without_histories(frame, kind):
    with pytest.raises(ValueError, match=r"needs the column 'item_ids' with a list .*group_by\('user_id'"):
        as_batch(kind(frame))


def test_texts_are_ids_before_they_are_titles(find, named):
    found = find([["ES-2", "Emma", "Poems"], [Title("Poems"), "ES-3", Title("Poems")]], named)
    assert [items.tolist() for items in found.items] == [[1, 0, 3], [4, 2, 4]]
    # A title means all items that have it, an id means one.
    assert [matches.tolist() for matches in found.matches] == [[1, 0, 2, 3], [2]]
    assert len(found.titles) == 5


def test_a_text_that_means_nothing_names_the_nearest(find, named):
    message = r"ES1.* in row 1 is neither an id nor a title .* 4 items\. The nearest ids are .*ES-1.*Title\(.*ES1"
    with pytest.raises(KeyError, match=message):
        find([["ES-1"], ["ES1"]], named)
    with pytest.raises(KeyError, match=r"The nearest titles are .*Typhoon"):
        find([["Tyfoon"]], named)
    with pytest.raises(TypeError, match="item ids are texts"):
        find([[1]], named)


def test_a_number_written_as_a_text(find, catalog):
    with pytest.raises(KeyError, match=r"10.* in row 0 is a text, .* whole numbers: write them without quotes"):
        find([["10"]], catalog)
    assert find([[Title("10")]], catalog).items[0].tolist() == [len(catalog)]


def test_a_new_title_in_a_catalog_of_numbers_warns(find, catalog, caplog):
    transformers_logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        assert find([["A Study in Skarlet"]], catalog).items[0].tolist() == [len(catalog)]
        assert find([[Title("A Study in Skarlett")]], catalog).items[0].tolist() == [len(catalog)]
    transformers_logging.disable_propagation()
    (record,) = caplog.records
    assert "nearest titles are 'A Study in Scarlet'" in record.message


@pytest.mark.parametrize("item", ["Tyfoon", Title("Tyfoon")])
def test_new_titles_where_only_the_catalog_is_known(catalog, named, item):
    with pytest.raises(KeyError, match=r"Tyfoon.* in row 2 .*The nearest titles are .*Typhoon"):
        match_item(item, named, 2, allows_new=False)
    with pytest.raises(KeyError, match=r"is no title of the catalog of 12 items.*`PatchRecommender` also reads"):
        match_item(item, catalog, 2, allows_new=False)


@pytest.mark.parametrize(
    ("items", "is_single", "expected"),
    [
        (10, True, [[10]]),
        (np.int64(10), True, [[10]]),
        (torch.tensor(10), True, [[10]]),
        ("Emma", True, [["Emma"]]),
        ([10, Title("Emma")], True, [[10, Title("Emma")]]),
        ([], True, [[]]),
        (np.array([10, 11]), True, [[10, 11]]),
        ([[10], []], False, [[10], []]),
        ([np.array([10]), torch.tensor([11, 12])], False, [[10], [11, 12]]),
        (np.array([[10], [11]]), False, [[10], [11]]),
    ],
)
def test_additions(items, is_single, expected):
    assert as_additions(items, len(expected), is_single) == expected


@pytest.mark.parametrize(
    ("items", "is_single", "error", "message"),
    [
        (1.5, True, TypeError, "An item is an id"),
        ([[10]], True, TypeError, "An item is an id"),
        (True, True, TypeError, "An item is an id"),
        ({10, 11}, True, TypeError, r"an item or a list of items, oldest first, got \{10, 11\}"),
        ({10: 5.0}, True, TypeError, r"an item or a list of items, oldest first, got \{10: 5.0\}"),
        (None, True, TypeError, "an item or a list of items, oldest first, got None"),
        (None, False, TypeError, "takes a list of items for each of them, got None"),
        (10, False, TypeError, "takes a list of items for each of them, got 10"),
        ("Emma", False, TypeError, "takes a list of items for each of them, got 'Emma'"),
        ({0: [10], 1: [11]}, False, TypeError, "takes a list of items for each of them"),
        ([[10]], False, ValueError, "A batch of 2 histories .* got 1"),
        ([10, 11], False, TypeError, "Each history takes a list of items, which may be empty; got 10 in row 0"),
        ([[10], "Emma"], False, TypeError, "got 'Emma' in row 1"),
        ([[10], [None]], False, TypeError, "got None in row 1"),
    ],
)
def test_wrong_additions(items, is_single, error, message):
    with pytest.raises(error, match=message):
        as_additions(items, 1 if is_single else 2, is_single)


def test_items_that_must_be_known(catalog):
    assert known_indices([10, "Emma", Title("Typhoon"), "Poems"], catalog, 0).tolist() == [0, 0, 2, 4]
    assert known_indices([], catalog, 0).dtype == np.int64
    with pytest.raises(KeyError, match=r"'Emmma' in row 3 is no title .*'Emma'.*of the catalog only. To add one"):
        known_indices(["Emmma"], catalog, 3)


def test_empty_timestamps(catalog):
    times = as_timestamps([[], [5]], [[], [10]], is_single=False)
    assert [array.tolist() for array in times] == [[], [5]]
    assert times[0].dtype == np.int64
