"""Rows and titles that a model cannot read are named before training."""

import pytest
from conftest import ITEM_IDS, TITLES
from datasets import Dataset

from patchrec_hf import (
    Catalog,
    ItemPatchLayout,
    PatchDataCollator,
    PatchPretrainDataCollator,
    PatchRecProcessor,
)
from patchrec_hf.batches.length_checks import check_row_lengths, check_title_lengths
from patchrec_hf.batches.row_lengths import frame_length


LONG = "A very long title " * 30


@pytest.fixture(scope="module")
def with_long_title(processor):
    """The catalog of `conftest.py`, and item 99 with a long title."""
    catalog = Catalog.from_titles({**TITLES, 99: LONG})
    return PatchRecProcessor(processor.tokenizer, catalog, processor.prompt, ItemPatchLayout(2), max_history=8)


def rows_of(*histories):
    return Dataset.from_list(
        [{"user_id": 7, "item_ids": items, "target_positions": [len(items) - 1]} for items in histories]
    )


def test_a_title_that_no_prompt_leaves_room_for(with_long_title):
    length = with_long_title.title_tokens.lengths.max()
    needed = frame_length(with_long_title) + 1 + length + 1
    check_title_lengths(with_long_title, needed)
    check_title_lengths(with_long_title, None)
    message = rf"The title of item 99, 'A very long title .*…', takes {length} tokens.* reads at most {needed - 1}\. "
    with pytest.raises(ValueError, match=message + "Shorten the title, or leave the item out"):
        check_title_lengths(with_long_title, needed - 1)


def test_a_prompt_that_leaves_no_room_for_a_history(processor):
    with pytest.raises(ValueError, match=r"The prompt takes \d+ tokens without any history.*Shorten the prompt's"):
        check_title_lengths(processor, frame_length(processor))


def test_the_row_and_its_title_are_named(with_long_title):
    rows = rows_of([10, 11], [10, 99, 12], [10, 11, 12])
    collator = PatchDataCollator(with_long_title, max_length=100)
    with pytest.raises(ValueError, match=r"reads at most 100\. Lower `max_history`.*This is row 1 of the rows\. Its "):
        check_row_lengths(rows, collator, "the rows")
    with pytest.raises(ValueError, match=r"title belongs to item 99, 'A very long title .*…', with \d+ tokens"):
        check_row_lengths(rows, collator, "the rows")
    check_row_lengths(rows.select([0, 2]), collator, "the rows")
    check_row_lengths(rows, PatchDataCollator(with_long_title), "the rows")  # a model without a limit


def test_a_title_that_is_folded_into_a_patch_is_short(with_long_title):
    """As a patch the item takes one position. In pre-training, the row is also read as text."""
    rows = rows_of([99, 10, 11, 12])
    check_row_lengths(rows, PatchDataCollator(with_long_title, max_length=100), "the rows")
    with pytest.raises(ValueError, match="reads at most 100"):
        check_row_lengths(rows, PatchPretrainDataCollator(with_long_title, max_length=100), "the rows")


def test_rows_that_fit_are_not_encoded(processor, rows, monkeypatch):
    monkeypatch.setattr(PatchDataCollator, "encode_rows", lambda *_: pytest.fail("a row was encoded"))
    check_row_lengths(rows, PatchDataCollator(processor, max_length=400), "the rows")


def test_items_that_the_catalog_lacks(processor):
    with pytest.raises(KeyError, match="12345"):
        check_row_lengths(rows_of([*ITEM_IDS[:3], 12345]), PatchDataCollator(processor, max_length=100), "the rows")
