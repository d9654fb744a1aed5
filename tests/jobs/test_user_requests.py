"""User requests: ids in any form are looked up, and each user who cannot be ranked has a reason."""

import numpy as np
import polars as pl
import pytest

from patchrec_hf import Catalog
from patchrec_hf.jobs.user_requests import Fault, RequestReader, UsersError


NUMBERS = Catalog.from_titles({10: "Emma", 11: "Persuasion", 7: "Typhoon"})
TEXTS = Catalog.from_titles({"B-10": "Emma", "11": "Persuasion", "007": "Typhoon"})


def read(catalog, *rows, drop_unknown=False, first_row=0, **schema):
    names = ["user_id", "item_ids", "timestamps", "exclude", "candidates"]
    columns = [name for name in names if any(name in row for row in rows)]
    table = {name: [row.get(name) for row in rows] for name in columns}
    return list(RequestReader(catalog, drop_unknown).read(pl.DataFrame(table, schema_overrides=schema), first_row))


def test_users_are_looked_up():
    row = {"user_id": "a", "item_ids": [11, 7, 11], "timestamps": [3, 4, 5], "exclude": [10], "candidates": [7, 10]}
    found, plain = read(NUMBERS, row, {"user_id": "b", "item_ids": [10], "timestamps": [9]}, first_row=20)
    assert (found.row, found.user_id, found.num_dropped) == (20, "a", 0)
    assert [array.tolist() for array in (found.items, found.timestamps)] == [[1, 2, 1], [3, 4, 5]]
    assert [array.tolist() for array in (found.excluded, found.candidates)] == [[0], [2, 0]]
    assert found.items.dtype == found.timestamps.dtype == np.int64
    assert (plain.row, plain.excluded, plain.candidates) == (21, None, None)


@pytest.mark.parametrize(
    ("catalog", "item_ids", "expected"),
    [
        (NUMBERS, ["10", "7"], [0, 2]),
        (NUMBERS, [10, 7], [0, 2]),
        (TEXTS, ["B-10", "11", "007"], [0, 1, 2]),
        (TEXTS, [11], [1]),
        (NUMBERS, ["007"], None),
        (TEXTS, [7], None),
        (TEXTS, ["Emma"], None),  # a title is no id
    ],
)
def test_a_number_may_be_written_as_a_text(catalog, item_ids, expected):
    (found,) = read(catalog, {"user_id": 1, "item_ids": item_ids})
    assert (None if isinstance(found, Fault) else found.items.tolist()) == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"user_id": None, "item_ids": [10]}, "The user has no id."),
        ({"item_ids": []}, "The history is empty; a recommendation needs at least one earlier item."),
        ({"item_ids": None}, "The history is empty; a recommendation needs at least one earlier item."),
        ({"item_ids": [10, 9]}, "Item id 9 in the history is not in the catalog of 3 items."),
        ({"item_ids": [10, None]}, "An item id in the history is missing."),
        ({"exclude": [9]}, "Item id 9 in the column 'exclude' is not in the catalog of 3 items."),
        ({"candidates": [9]}, "Item id 9 in the column 'candidates' is not in the catalog of 3 items."),
        ({"candidates": []}, "The list of candidates is empty. Without a list, all items are candidates."),
        ({"timestamps": [1]}, "The history has 2 items, but 1 timestamps. Give one for each."),
        ({"timestamps": None}, "The history has 2 items, but no timestamps. Give one for each."),
        ({"timestamps": [1, None]}, "A timestamp of the history is missing."),
        ({"timestamps": [1, 10**11]}, "beyond the year 3000"),
    ],
)
def test_faults_have_reasons(row, reason):
    good = {"user_id": "a", "item_ids": [10, 7]}
    schema = {"item_ids": pl.List(pl.Int64), "user_id": pl.String}
    bad, other = read(
        NUMBERS, {**good, **row}, {**good, **({"timestamps": [1, 2]} if "timestamps" in row else {})}, **schema
    )
    assert isinstance(bad, Fault)
    assert reason in bad.reason
    assert not isinstance(other, Fault)


def test_unknown_ids_can_be_left_out():
    row = {"user_id": "a", "item_ids": [9, 10, 8, 7], "timestamps": [1, 2, 3, 4], "exclude": [6], "candidates": [7, 5]}
    gone = {"user_id": "b", "item_ids": [9], "timestamps": [1]}
    found, empty, none = read(NUMBERS, row, gone, {**row, "candidates": [5]}, drop_unknown=True)
    assert [array.tolist() for array in (found.items, found.timestamps)] == [[0, 2], [2, 4]]
    assert [array.tolist() for array in (found.excluded, found.candidates)] == [[], [2]]
    assert found.num_dropped == 4
    assert empty.reason == "The catalog has none of the 1 items of the history, such as 9."
    assert none.reason == "The catalog has none of the 1 candidates, such as 5."


def test_a_job_that_stops_counts_its_faults_and_names_the_first():
    reader = RequestReader(TEXTS)
    users = read(TEXTS, *({"user_id": user, "item_ids": [item]} for user, item in enumerate(["11", "B-1", "x"])))
    with pytest.raises(UsersError) as caught:
        reader.check(users, 3)
    assert str(caught.value) == (
        "2 of 3 users cannot be ranked. The first of them: Row 1, user 1: Item id 'B-1' in the history is not in the "
        "catalog of 3 items. The nearest ids are 'B-10'. Mend the histories, set `drop_unknown` to leave out ids that "
        "the catalog lacks, or choose `on_error='skip'`, which leaves such users out and lists the reasons in a file."
    )
    reader.check(users[:1], 3)
