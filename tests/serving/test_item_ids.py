"""Item ids of requests are looked up in the catalog, and unknown ones are told the nearest."""

import pytest

from patchrec_hf import Catalog
from patchrec_hf.serving.item_ids import ItemIds, UnknownItemError


NUMBERS = ItemIds(Catalog.from_titles({30: "Emma", 3: "Typhoon", -14: "Poems"}))
TEXTS = ItemIds(Catalog.from_titles({"SKU/1": "Emma", "007": "Typhoon", "7": "Poems"}))


def told(ids, call, *arguments):
    with pytest.raises(UnknownItemError) as caught:
        call(*arguments)
    return ids.describe(caught.value)


def test_known_ids():
    NUMBERS.check([3, -14, 30], "history")
    TEXTS.check(["7", "007"], "history")
    assert NUMBERS.from_path("-14") == -14
    assert TEXTS.from_path("007") == "007"
    assert TEXTS.from_path("SKU/1") == "SKU/1"
    assert NUMBERS.known_indices([3, 4, 30]).tolist() == [1, -1, 0]
    assert NUMBERS.first == [30, 3, -14]
    assert len(TEXTS) == 3


@pytest.mark.parametrize("text", ["03", "3.0", " 3", "+3", "٣", "", "3" * 30, "-", "--3"])
def test_paths_that_are_no_number_of_the_catalog(text):
    assert "ids of this catalog are whole numbers, such as 30." in told(NUMBERS, NUMBERS.from_path, text)


def test_the_nearest_ones_are_named():
    assert told(NUMBERS, NUMBERS.check, [3, 7], "history") == (
        "7 is not in the catalog of 3 items. The nearest ids are 3 and 30."
    )
    assert told(NUMBERS, NUMBERS.from_path, "31").endswith("The nearest id is 30.")
    assert told(TEXTS, TEXTS.check, ["SKU/2"], "history") == (
        "'SKU/2' is not in the catalog of 3 items. The nearest ids are 'SKU/1'."
    )
    assert told(TEXTS, TEXTS.check, [7], "history") == (
        "7 is a number, and the ids of this catalog are texts, such as 'SKU/1'. The nearest ids are '7'."
    )
    assert told(NUMBERS, NUMBERS.check, ["Poems"], "history").endswith("such as 30. It is the title of item -14.")
    with pytest.raises(UnknownItemError) as caught:
        NUMBERS.check([3, 30, 7], "body.history")
    assert caught.value.where == "body.history[2]"


def test_long_ids_are_shown_in_part():
    message = told(TEXTS, TEXTS.check, ["x" * 100_000], "history")
    assert len(message) < 300
    assert message.startswith("'xxx")
