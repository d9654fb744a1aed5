import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from item_parts import item_processor

from patchrec_hf import (
    BudgetLayout,
    DropLayout,
    ItemPatchLayout,
    SessionPatchLayout,
    TextLayout,
    TimeWindowLayout,
    Title,
)
from patchrec_hf.demo.read_history import ReadUnit, assumed_timestamps, read_history


def test_each_unit_has_its_titles_and_positions(processor):
    made = item_processor(processor, SessionPatchLayout(2), separate_patches=False)
    history = read_history(made, [10, 11, 12, 16, 17, 18])
    lengths = dict(zip(processor.catalog.titles, processor.title_tokens.lengths.tolist(), strict=True))
    assert history.units == (
        ReadUnit("session_patch", ("Emma", "Persuasion"), (False, False), 1),
        ReadUnit("item_patch", ("Typhoon",), (False,), 1),
        ReadUnit("item_patch", ("The Time Machine",), (False,), 1),
        ReadUnit("text", ("The Time Traders",), (False,), lengths["The Time Traders"]),
        ReadUnit("text", ("A Study in Scarlet",), (False,), lengths["A Study in Scarlet"]),
    )
    # Three patches without separators, and two titles with one separator between them.
    assert history.num_positions == 3 + lengths["The Time Traders"] + 1 + lengths["A Study in Scarlet"]
    names = ("Emma", "Persuasion", "Typhoon", "The Time Machine", "The Time Traders", "A Study in Scarlet")
    assert history.num_text_positions == sum(lengths[name] for name in names) + 5
    around = len(processor.prompt.prefix_ids) + len(processor.prompt.suffix_ids) + 2
    assert history.num_prompt_positions == history.num_positions + around


def test_items_that_are_not_read_and_left_out_are_told_apart(processor):
    made = item_processor(processor, DropLayout(1.0), max_history=3)
    kinds = [unit.kind for unit in read_history(made, [10, 11, 12, 16, 17]).units]
    assert kinds == ["not_read", "not_read", "left_out", "left_out", "text"]


def test_a_new_title_is_marked(processor):
    made = item_processor(processor, TextLayout())
    old, new = read_history(made, [10, Title("Emma Again")]).units
    assert (old.is_new, new.is_new) == ((False,), (True,))
    assert new.titles == ("Emma Again",)
    assert new.num_positions == len(processor.tokenizer("Emma Again", add_special_tokens=False).input_ids)


def test_a_layout_that_reads_times_gets_one_item_a_day(processor):
    assert np.diff(assumed_timestamps(4)).tolist() == [86_400] * 3
    made = item_processor(processor, TimeWindowLayout(86_399, num_text_items=1), max_history=3)
    assert [unit.kind for unit in read_history(made, [10, 11, 12, 16]).units] == [
        "not_read", "session_patch", "session_patch", "text"
    ]  # fmt: skip
    made = item_processor(processor, TimeWindowLayout(86_400, num_text_items=1))
    assert [len(unit.titles) for unit in read_history(made, [10, 11, 12, 16]).units] == [3, 1]


def test_a_budget_needs_a_layout_with_one(processor):
    with pytest.raises(ValueError, match="needs a layout with a budget"):
        read_history(item_processor(processor, ItemPatchLayout(0)), [10, 11], max_tokens=5)


@given(st.lists(st.integers(10, 21), min_size=1, max_size=12), st.integers(3, 40))
def test_units_hold_all_items_in_order_within_the_budget(processor, items, budget):
    made = item_processor(processor, BudgetLayout(40, num_text_items=3), separate_patches=False)
    history = read_history(made, items, budget)
    titles = [title for unit in history.units for title in unit.titles]
    assert titles == [processor.catalog.titles[item - 10] for item in items]
    read = [unit for unit in history.units if unit.kind != "not_read"]
    num_separators = max(sum(unit.kind == "text" for unit in read) - 1, 0)
    assert history.num_positions == sum(unit.num_positions for unit in read) + num_separators <= budget
