"""Tests of the layouts: segments counted by hand, and what holds for every length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchrec_hf.runtime.layouts import (
    DropLayout,
    ItemPatchLayout,
    RandomPatchLayout,
    Segment,
    SessionPatchLayout,
    TextLayout,
    check_layout,
    is_append_only,
    lay_out,
    lay_out_alike,
)
from patchrec_hf.runtime.saved_layouts import layout_to_dict


LAYOUTS = [
    TextLayout(),
    ItemPatchLayout(num_text_items=2),
    SessionPatchLayout(group_size=3),
    SessionPatchLayout(group_size=4, align="oldest"),
    RandomPatchLayout(probability=0.25),
    DropLayout(probability=0.5),
]

lengths = st.integers(0, 60)
seeds = st.lists(st.integers(0, 2**32 - 1), max_size=3).map(tuple)
probabilities = st.floats(0, 1)
covering_layouts = st.one_of(
    st.just(TextLayout()),
    st.builds(ItemPatchLayout, st.integers(0, 70)),
    st.builds(SessionPatchLayout, st.integers(1, 12), st.sampled_from(["latest", "oldest"])),
    st.builds(RandomPatchLayout, probabilities),
)


def items_of(segments, granularity=None):
    return [
        item
        for segment in segments
        if granularity in (None, segment.granularity)
        for item in range(segment.start, segment.stop)
    ]


@pytest.mark.parametrize("num_items", [0, 1, 2, 9])
def test_text_layout(num_items):
    expected = [("text", 0, num_items)] if num_items else []
    assert TextLayout()(num_items) == expected


@pytest.mark.parametrize(
    ("num_text_items", "num_items", "expected"),
    [
        (3, 0, []),
        (3, 1, [("text", 0, 1)]),
        (3, 2, [("text", 0, 2)]),
        (3, 3, [("text", 0, 3)]),
        (3, 4, [("item_patch", 0, 1), ("text", 1, 4)]),
        (3, 10, [("item_patch", 0, 7), ("text", 7, 10)]),
        (0, 0, []),
        (0, 4, [("item_patch", 0, 4)]),
        (1, 1, [("text", 0, 1)]),
    ],
)
def test_item_patch_layout(num_text_items, num_items, expected):
    assert ItemPatchLayout(num_text_items)(num_items) == expected


@pytest.mark.parametrize(
    ("group_size", "num_items", "expected"),
    [
        (5, 0, []),
        (5, 3, [("text", 0, 3)]),
        (5, 5, [("text", 0, 5)]),
        (5, 7, [("item_patch", 0, 2), ("text", 2, 7)]),
        (5, 10, [("item_patch", 0, 5), ("text", 5, 10)]),
        (5, 11, [("session_patch", 0, 1), ("item_patch", 1, 6), ("text", 6, 11)]),
        (5, 13, [("session_patch", 0, 3), ("item_patch", 3, 8), ("text", 8, 13)]),
        (5, 15, [("session_patch", 0, 5), ("item_patch", 5, 10), ("text", 10, 15)]),
        (
            5,
            23,
            [
                ("session_patch", 0, 3),
                ("session_patch", 3, 8),
                ("session_patch", 8, 13),
                ("item_patch", 13, 18),
                ("text", 18, 23),
            ],
        ),
        (1, 1, [("text", 0, 1)]),
        (1, 2, [("item_patch", 0, 1), ("text", 1, 2)]),
        (
            1,
            4,
            [("session_patch", 0, 1), ("session_patch", 1, 2), ("item_patch", 2, 3), ("text", 3, 4)],
        ),
    ],
)
def test_session_patch_layout_counted_from_the_latest(group_size, num_items, expected):
    assert SessionPatchLayout(group_size)(num_items) == expected


@pytest.mark.parametrize(
    ("num_items", "expected"),
    [
        (0, []),
        (4, [("text", 0, 4)]),
        (7, [("item_patch", 0, 2), ("text", 2, 7)]),
        (10, [("item_patch", 0, 5), ("text", 5, 10)]),
        (14, [("item_patch", 0, 9), ("text", 9, 14)]),
        (15, [("session_patch", 0, 5), ("item_patch", 5, 10), ("text", 10, 15)]),
        (16, [("session_patch", 0, 5), ("item_patch", 5, 11), ("text", 11, 16)]),
        (19, [("session_patch", 0, 5), ("item_patch", 5, 14), ("text", 14, 19)]),
        (
            20,
            [("session_patch", 0, 5), ("session_patch", 5, 10), ("item_patch", 10, 15), ("text", 15, 20)],
        ),
    ],
)
def test_session_patch_layout_counted_from_the_oldest(num_items, expected):
    assert SessionPatchLayout(group_size=5, align="oldest")(num_items) == expected


@given(st.integers(1, 12), lengths)
def test_latest_groups_equal_counting_back_from_each_item(group_size, num_items):
    """The group of an item is its distance from the newest, divided by the group size."""
    expected = []
    for item in range(num_items):
        group = (num_items - 1 - item) // group_size
        granularity = ("text", "item_patch", "session_patch")[min(group, 2)]
        if item and (num_items - item) // group_size == group:
            expected[-1] = (granularity, expected[-1][1], item + 1)
        else:
            expected.append((granularity, item, item + 1))
    assert SessionPatchLayout(group_size)(num_items) == expected


@given(st.integers(1, 12), lengths)
def test_oldest_sessions_never_change_as_the_history_grows(group_size, num_items):
    layout = SessionPatchLayout(group_size, align="oldest")
    now, later = (
        [segment for segment in layout(length) if segment.granularity == "session_patch"]
        for length in (num_items, num_items + 1)
    )
    assert later[: len(now)] == now
    assert all(segment.stop - segment.start == group_size for segment in later)
    # A session closes as soon as its items are no longer among the two latest groups.
    assert len(now) == max(0, num_items // group_size - 2)


@given(covering_layouts, lengths, seeds)
def test_segments_cover_every_item_once(layout, num_items, seed):
    segments = layout(num_items, seed)
    assert items_of(segments) == list(range(num_items))
    assert all(segment.start < segment.stop for segment in segments)


@given(probabilities, lengths, seeds)
def test_drop_layout_is_ascending_and_keeps_the_newest(probability, num_items, seed):
    segments = DropLayout(probability)(num_items, seed)
    kept = items_of(segments)
    assert kept == sorted(set(kept))
    assert set(kept) <= set(range(num_items))
    assert kept[-1:] == list(range(num_items))[-1:]
    assert all(segment.granularity == "text" and segment.start < segment.stop for segment in segments)


@given(lengths, seeds)
def test_certain_draws(num_items, seed):
    assert RandomPatchLayout(0.0)(num_items, seed) == TextLayout()(num_items)
    assert RandomPatchLayout(1.0)(num_items, seed) == ItemPatchLayout(0)(num_items)
    assert DropLayout(0.0)(num_items, seed) == TextLayout()(num_items)
    assert items_of(DropLayout(1.0)(num_items, seed)) == list(range(num_items))[-1:]


@pytest.mark.parametrize("layout_class", [RandomPatchLayout, DropLayout])
def test_draws_depend_on_the_seed_alone(layout_class):
    layout = layout_class(0.5)
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 0, 1)]
    draws = [layout(200, key) for key in keys]
    assert all(one != two for index, one in enumerate(draws) for two in draws[:index])
    assert [layout(200, key) for key in keys] == draws


@pytest.mark.parametrize("probability", [0.1, 0.3, 0.8])
def test_shares_are_close_to_the_probability(probability):
    # Five standard deviations of 20,000 draws are at most 0.018.
    patches = items_of(RandomPatchLayout(probability)(20_000, (7,)), "item_patch")
    assert len(patches) / 20_000 == pytest.approx(probability, abs=0.018)
    kept = items_of(DropLayout(probability)(20_000, (7,)))
    assert 1 - len(kept) / 20_000 == pytest.approx(probability, abs=0.018)


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if "probability" not in layout_to_dict(layout)])
def test_fixed_layouts_ignore_the_seed(layout):
    assert layout(17, (1, 2)) == layout(17)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SessionPatchLayout(group_size=0), "`group_size` must be a whole number of at least 1, got 0"),
        (lambda: ItemPatchLayout(num_text_items=-1), "`num_text_items` must be a whole number of at least 0, got -1"),
        (lambda: SessionPatchLayout(align="newest"), "`align` must be 'latest' or 'oldest', got 'newest'"),
        (lambda: RandomPatchLayout(1.01), "`probability` must lie between 0 and 1, got 1.01"),
        (lambda: RandomPatchLayout(float("nan")), "`probability` must lie between 0 and 1, got nan"),
        (lambda: DropLayout(-0.1), "`probability` must lie between 0 and 1, got -0.1"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def per_item(layout, num_items, seed):
    """For each item, its granularity and, in a session, the items that share its patch; `None` if it is left out."""
    items = [None] * num_items
    for granularity, start, stop in layout(num_items, seed):
        for item in range(start, stop):
            items[item] = (granularity, start, stop) if granularity == "session_patch" else granularity
    return items


@pytest.mark.parametrize(
    "layout",
    [
        *LAYOUTS,
        *(ItemPatchLayout(number) for number in (0, 1, 5)),
        *(SessionPatchLayout(size, align) for size in (1, 2) for align in ("latest", "oldest")),
        *(RandomPatchLayout(probability) for probability in (0.0, 0.5, 1.0)),
        DropLayout(1.0),
    ],
    ids=repr,
)
def test_append_only_is_what_holds_for_every_length(layout):
    seeds = [(), (1,), (2, 3), (0, 5, 7)]
    holds = all(
        per_item(layout, longer, seed)[:shorter] == per_item(layout, shorter, seed)
        for seed in seeds
        for longer in range(1, 24)
        for shorter in range(1, longer)
    )
    assert is_append_only(layout) is holds


def test_a_layout_that_does_not_say_is_not_append_only():
    assert is_append_only(lambda num_items, seed=(): []) is False


@pytest.mark.parametrize("layout", [None, *LAYOUTS], ids=repr)
def test_layouts_pass_the_check(layout):
    check_layout(layout, is_saved=True)


def test_a_function_is_a_layout_that_cannot_be_saved():
    check_layout(lambda num_items, seed=(): [])
    with pytest.raises(TypeError, match="must be a dataclass"):
        check_layout(lambda num_items, seed=(): [], is_saved=True)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (ItemPatchLayout, "got the class `ItemPatchLayout`. Make a layout of it"),
        ("item", "got 'item'"),
    ],
)
def test_what_is_no_layout(layout, message):
    with pytest.raises(TypeError, match=message):
        check_layout(layout)


@dataclass(frozen=True)
class AskingLayout:
    name: ClassVar[str] = "asking"
    asks_for: ClassVar[tuple[str, ...]] = ("timestamps",)

    def __call__(self, num_items: int, seed: Sequence[int] = (), *, timestamps: np.ndarray) -> list[Segment]:
        return [Segment("item_patch", int((timestamps < 5).sum()), num_items)]


@dataclass(frozen=True)
class TupleLayout:
    name: ClassVar[str] = "tuples"

    def __call__(self, num_items: int, seed: Sequence[int] = ()) -> list:
        return [("text", 0, num_items)]


class EmptyLayout(TupleLayout):
    def __call__(self, num_items: int, seed: Sequence[int] = ()) -> Any:
        return None


class GreedyLayout(TupleLayout):
    asks_for: ClassVar[tuple[str, ...]] = ("ratings",)


def test_a_layout_is_given_what_it_asks_for() -> None:
    lengths = np.array([1, 2, 3])
    assert lay_out(
        AskingLayout(), 3, title_lengths=lengths, timestamps=np.array([1, 6, 9]), separate_patches=True
    ) == [Segment("item_patch", 1, 3)]
    assert lay_out(TextLayout(), 3, title_lengths=lengths, separate_patches=True) == [Segment("text", 0, 3)]
    assert lay_out(TupleLayout(), 3, title_lengths=lengths, separate_patches=True) == [Segment("text", 0, 3)]
    with pytest.raises(TypeError, match=r"must return a list of segments, such as .*got None from"):
        lay_out(EmptyLayout(), 3, title_lengths=lengths, separate_patches=True)
    with pytest.raises(ValueError, match="asks for 'ratings'; a layout may ask for title_lengths, timestamps"):
        check_layout(GreedyLayout())
    with pytest.raises(ValueError, match=r"asks for timestamps, and the history has none\. Give rows with"):
        lay_out(AskingLayout(), 3, title_lengths=lengths, separate_patches=True)


def test_a_history_of_equal_items_has_all_facts() -> None:
    assert lay_out_alike(AskingLayout(), 3, separate_patches=True) == [Segment("item_patch", 3, 3)]
    assert lay_out_alike(ItemPatchLayout(1), 3, separate_patches=True) == [
        Segment("item_patch", 0, 2),
        Segment("text", 2, 3),
    ]
