"""History plans: positions, shared units, and prompts that are encoded in parts."""

import numpy as np
import pytest
from families import tiny
from hypothesis import given
from hypothesis import strategies as st
from user_states import state_processor

from patchrec_hf import DropLayout, ItemPatchLayout, RandomPatchLayout, SessionPatchLayout, TextLayout
from patchrec_hf.runtime.history_plans import HistoryPlan, encode_from, history_start


NUM_ITEMS = len(tiny()[0])
LAYOUTS = [
    ItemPatchLayout(0),
    ItemPatchLayout(2),
    TextLayout(),
    RandomPatchLayout(0.5),
    DropLayout(0.5),
    SessionPatchLayout(2),
    SessionPatchLayout(3, "oldest"),
]
item_lists = st.lists(st.integers(0, NUM_ITEMS - 1), min_size=1, max_size=14)


def make(processor, layout, items, seed=5):
    times = np.arange(len(items)) ** 4 if processor.num_time_gaps else None
    return HistoryPlan.make(processor, layout, np.array(items), times, seed)


@given(item_lists, st.sampled_from(LAYOUTS), st.booleans(), st.booleans(), st.data())
def test_parts_are_the_whole_prompt(items, layout, separate_patches, time_gaps, data):
    processor = state_processor(layout, max_history=20, separate_patches=separate_patches, time_gaps=time_gaps)
    plan = make(processor, layout, items)
    whole = processor.encode(plan.items, seed=(5,), timestamps=plan.timestamps)
    assert plan.length == whole.prompt_length - 1 - len(processor.prompt.suffix_ids)
    assert plan.history_end == whole.history_end
    num_units = data.draw(st.integers(0, len(plan.ends) - 1))
    # Everything up to the unit was read, or only up to the end of the unit before it.
    num_read = 0 if num_units == 0 else data.draw(st.sampled_from([plan.starts[num_units], plan.ends[num_units - 1]]))
    if num_units == 0 and data.draw(st.booleans()):
        num_read = history_start(processor)
    part = encode_from(processor, plan, num_units, int(num_read))
    assert part.start == num_read
    np.testing.assert_array_equal(part.input_ids, whole.input_ids[num_read : plan.length])
    is_new = whole.patch_positions >= num_read
    np.testing.assert_array_equal(part.patches.token_ids, whole.patch_token_ids[is_new])
    np.testing.assert_array_equal(part.patches.divisors, whole.patch_divisors[is_new])
    np.testing.assert_array_equal(part.patches.positions + part.start, whole.patch_positions[is_new])
    # Pieces of the part are its positions, piece by piece.
    size = data.draw(st.integers(1, 5))
    pieces = [part.part(first, first + size) for first in range(0, len(part.input_ids), size)]
    np.testing.assert_array_equal(np.concatenate([piece.input_ids for piece in pieces]), part.input_ids)
    for name in ("token_ids", "divisors"):
        joined = np.concatenate([getattr(piece.patches, name) for piece in pieces])
        np.testing.assert_array_equal(joined, getattr(part.patches, name))
    positions = np.concatenate([piece.patches.positions + piece.start for piece in pieces])
    np.testing.assert_array_equal(positions, part.patches.positions + part.start)


@given(item_lists, item_lists, st.sampled_from(LAYOUTS), st.booleans())
def test_shared_units_are_equal_tokens(items, more, layout, time_gaps):
    processor = state_processor(layout, max_history=40, time_gaps=time_gaps)
    short, long = make(processor, layout, items), make(processor, layout, items + more)
    num_shared = short.num_shared(long, time_gaps)
    assert num_shared == long.num_shared(short, time_gaps)
    prompts = [processor.encode(plan.items, seed=(5,), timestamps=plan.timestamps) for plan in (short, long)]
    shared_end = long.ends[num_shared - 1] if num_shared else history_start(processor)
    np.testing.assert_array_equal(*(prompt.input_ids[:shared_end] for prompt in prompts))
    folded = [prompt.patch_token_ids[prompt.patch_positions < shared_end].tolist() for prompt in prompts]
    assert folded[0] == folded[1]
    if getattr(layout, "is_append_only", False):
        assert num_shared == len(short.ends)


def test_other_items_are_not_shared():
    processor = state_processor(SessionPatchLayout(2, "oldest"), max_history=20)
    layout, items = processor.layout, list(range(10))
    plan = make(processor, layout, items)
    assert plan.num_shared(plan, False) == len(plan.ends) == 3 + 2 + 2
    # Item 5 is in the third session.
    assert plan.num_shared(make(processor, layout, [*items[:5], 20, *items[6:]]), False) == 2
    assert plan.num_shared(make(processor, layout, items[1:]), False) == 0


def test_other_times_are_not_shared():
    processor = state_processor(ItemPatchLayout(0), time_gaps=True)
    items = np.arange(4)
    first, second = (
        HistoryPlan.make(processor, ItemPatchLayout(0), items, np.array(times), 0)
        for times in ([0, 100, 200, 300], [0, 100, 200, 9999])
    )
    assert first.num_shared(second, with_timestamps=True) == 3
    assert first.num_shared(second, with_timestamps=False) == 4


def test_positions_before_an_item():
    processor = state_processor(SessionPatchLayout(2, "oldest"), max_history=20)
    plan = make(processor, processor.layout, list(range(10)))
    start, lengths = history_start(processor), processor.title_tokens.lengths
    assert plan.num_positions_before(0) == 0
    assert plan.num_positions_before(1) == plan.num_positions_before(2) == start + 1  # both items are in one session
    assert plan.num_positions_before(8) == start + 5 + 4  # five patches, with separators between them
    assert plan.num_positions_before(10) == plan.length == start + 5 + 5 + lengths[8] + 1 + lengths[9]


def test_missing_timestamps():
    class Timed(ItemPatchLayout):
        asks_for = ("timestamps",)

    with pytest.raises(ValueError, match="asks for timestamps"):
        make(state_processor(ItemPatchLayout(0)), Timed(0), [1, 2])
