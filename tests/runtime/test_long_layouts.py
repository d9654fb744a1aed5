"""Tests of the layouts for long histories: segments counted by hand, and what holds for every length."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchrec_hf.runtime.history_units import HistoryUnits
from patchrec_hf.runtime.layouts import ItemPatchLayout, Segment, is_append_only
from patchrec_hf.runtime.long_layouts import BudgetLayout, PyramidLayout, TimeWindowLayout


LENGTHS = st.integers(0, 400)
WIDTHS = st.integers(1, 12).map(lambda half: 2 * half)


def sizes_of(segments):
    """Number of items of each patch or text, oldest first."""
    sizes = []
    for granularity, start, stop in segments:
        sizes += [stop - start] if granularity == "session_patch" else [1] * (stop - start)
    return sizes


def check_cover(segments, num_items):
    starts = [segment.start for segment in segments] + [num_items]
    assert starts[0] == 0
    assert [segment.stop for segment in segments] == starts[1:]
    assert all(segment.start < segment.stop for segment in segments)


# Windows of time


@pytest.mark.parametrize(
    ("timestamps", "num_text_items", "expected"),
    [
        ([], 0, []),
        ([5], 0, [("session_patch", 0, 1)]),
        ([5], 1, [("text", 0, 1)]),
        ([0, 10, 20], 0, [("session_patch", 0, 3)]),  # a gap of 10 ends no session
        ([0, 11, 20], 0, [("session_patch", 0, 1), ("session_patch", 1, 3)]),
        ([0, 5, 20, 22, 40], 2, [("session_patch", 0, 2), ("session_patch", 2, 3), ("text", 3, 5)]),
        ([0, 5, 20, 22, 40], 5, [("text", 0, 5)]),
    ],
)
def test_a_session_ends_at_a_gap(timestamps, num_text_items, expected):
    layout = TimeWindowLayout(10, num_text_items)
    assert layout(len(timestamps), timestamps=np.array(timestamps, dtype=np.int64)) == expected


@given(st.lists(st.integers(0, 100), max_size=60), st.integers(0, 50), st.integers(0, 8))
def test_gaps_within_sessions_are_short_and_between_them_long(gaps, max_gap, num_text_items):
    times = np.cumsum(np.array(gaps, dtype=np.int64))
    segments = TimeWindowLayout(max_gap, num_text_items)(len(times), timestamps=times)
    if len(times) > 0:
        check_cover(segments, len(times))
    sessions = [segment for segment in segments if segment.granularity == "session_patch"]
    assert sum(segment.stop - segment.start for segment in segments[len(sessions) :]) == min(num_text_items, len(gaps))
    for index, (_, start, stop) in enumerate(sessions):
        assert (np.diff(times[start:stop]) <= max_gap).all()
        assert index == 0 or times[start] - times[start - 1] > max_gap


def test_times_must_ascend():
    with pytest.raises(ValueError, match=r"must ascend, got 9 before 4\. Sort each history by time"):
        TimeWindowLayout(10)(3, timestamps=np.array([1, 9, 4]))


# Pyramids


@pytest.mark.parametrize(
    ("num_items", "sizes"),
    [
        (0, []),
        (3, [1, 1, 1]),
        (4, [2, 1, 1]),  # 4 items are 2 · width, so the oldest 2 join
        (5, [2, 1, 1, 1]),
        (6, [2, 2, 1, 1]),
        (8, [2, 2, 2, 1, 1]),
        (10, [4, 2, 2, 1, 1]),  # the fourth pair makes 4 pairs, so the oldest 2 join
        (11, [4, 2, 2, 1, 1, 1]),
        (12, [4, 2, 2, 2, 1, 1]),
    ],
)
def test_pyramid_of_width_two(num_items, sizes):
    assert sizes_of(PyramidLayout(width=2)(num_items)) == sizes


def test_pyramid_of_width_four_behind_text():
    assert PyramidLayout(num_text_items=2, width=4)(10) == [
        Segment("session_patch", 0, 2),
        Segment("session_patch", 2, 4),
        Segment("item_patch", 4, 8),
        Segment("text", 8, 10),
    ]


def grown(num_items, width):
    """The sizes of a pyramid, made by adding one item after the other."""
    levels = [0]
    for _ in range(num_items):
        levels[0] += 1
        for level in range(len(levels)):
            if levels[level] == 2 * width:
                levels[level] -= width
                if level + 1 == len(levels):
                    levels.append(0)
                levels[level + 1] += width // 2
    return [2**level for level in reversed(range(len(levels))) for _ in range(levels[level])]


@given(LENGTHS, WIDTHS, st.integers(0, 9))
def test_pyramid_equals_adding_item_after_item(num_items, width, num_text_items):
    segments = PyramidLayout(num_text_items, width)(num_items)
    if num_items > 0:
        check_cover(segments, num_items)
    num_texts = min(num_text_items, num_items)
    assert sizes_of(segments) == grown(num_items - num_texts, width) + [1] * num_texts
    assert [segment.granularity for segment in segments if segment.granularity == "text"] == ["text"] * (num_texts > 0)


@given(st.integers(1, 100_000), WIDTHS)
def test_sizes_are_powers_of_two_and_never_grow_towards_the_newest(num_items, width):
    sizes = np.array(sizes_of(PyramidLayout(width=width)(num_items)))
    assert sizes.sum() == num_items
    assert ((sizes & (sizes - 1)) == 0).all()
    assert (np.diff(sizes) <= 0).all()
    assert len(sizes) <= 2 * width * (1 + np.log2(max(num_items / width, 1)))


@pytest.mark.slow
def test_a_pyramid_of_ten_thousand_items_is_short_and_seldom_read_anew():
    layout = PyramidLayout()
    longest, num_read, before = 0, 0, np.empty(0)
    for num_items in range(1, 10_001):
        ends = np.cumsum(sizes_of(layout(num_items)))
        num_alike = min(len(ends), len(before))
        shared = int((ends[:num_alike] == before[:num_alike]).cumprod().sum())
        longest, num_read, before = max(longest, len(ends)), num_read + len(ends) - shared, ends
    assert longest <= 200
    assert num_read <= 4 * 10_000


# Budgets


def num_positions(segments, title_lengths, separate_patches):
    units = HistoryUnits.from_segments(segments, len(title_lengths))
    num_patches, num_separators = (~units.unit_is_text).sum(), units.is_separated(separate_patches).sum()
    return int(title_lengths[units.is_text].sum() + num_patches + num_separators)


def test_newest_items_become_text_while_they_fit():
    lengths = np.array([9, 9, 3, 2])
    expected = {3: None, 4: 0, 5: 1, 7: 1, 8: 2, 16: 2, 17: 3, 25: 3, 26: 4, 100: 4}
    for max_tokens, num_texts in expected.items():
        segments = BudgetLayout(max_tokens)(4, title_lengths=lengths, separate_patches=False)
        if num_texts is None:
            assert segments == [Segment("session_patch", 0, 2), Segment("item_patch", 2, 4)]
        else:
            assert segments == ItemPatchLayout(num_texts)(4)
    assert BudgetLayout(100, num_text_items=2)(4, title_lengths=lengths, separate_patches=False) == (
        ItemPatchLayout(2)(4)
    )


def test_separators_count():
    lengths = np.array([9, 9, 3, 2])
    assert BudgetLayout(7)(4, title_lengths=lengths, separate_patches=True) == ItemPatchLayout(0)(4)
    assert BudgetLayout(8)(4, title_lengths=lengths, separate_patches=True) == ItemPatchLayout(1)(4)
    assert sizes_of(BudgetLayout(6)(4, title_lengths=lengths, separate_patches=True)) == [2, 1, 1]


@pytest.mark.parametrize(
    ("max_tokens", "num_items", "sizes"),
    [
        (9, 16, [4, 4, 2, 2, 1, 1, 1, 1]),  # width 2; up to 3 + 3 + 2 patches, which leaves one over
        (8, 16, [4, 4, 2, 2, 2, 1, 1]),
        (6, 16, [8, 2, 2, 2, 1, 1]),  # no pyramid fits
        (3, 16, [14, 1, 1]),
        (3, 1000, [998, 1, 1]),
    ],
)
def test_long_histories_are_pyramids(max_tokens, num_items, sizes):
    lengths = np.full(num_items, 8)
    segments = BudgetLayout(max_tokens)(num_items, title_lengths=lengths, separate_patches=False)
    assert sizes_of(segments) == sizes


@given(
    st.lists(st.integers(1, 12), max_size=300),
    st.integers(3, 250),
    st.booleans(),
    st.integers(0, 12),
)
def test_a_budget_is_kept_and_used(title_lengths, max_tokens, separate_patches, num_text_items):
    lengths = np.array(title_lengths, dtype=np.int64)
    layout = BudgetLayout(max_tokens, num_text_items=num_text_items)
    segments = layout(len(lengths), title_lengths=lengths, separate_patches=separate_patches)
    if len(lengths) == 0:
        assert segments == []
        return
    check_cover(segments, len(lengths))
    length = num_positions(segments, lengths, separate_patches)
    assert length <= max_tokens
    sizes = sizes_of(segments)
    assert sizes == sorted(sizes, reverse=True)
    if sizes[0] > 1:
        assert length > max_tokens / 2
        assert segments[-1].granularity == "item_patch"
    else:  # one more item as text would not fit
        num_texts = sum(stop - start for kind, start, stop in segments if kind == "text")
        finer = ItemPatchLayout(num_texts + 1)(len(lengths))
        assert num_texts == min(num_text_items, len(lengths)) or (
            num_positions(finer, lengths, separate_patches) > max_tokens
        )


@pytest.mark.slow
def test_a_budget_is_used_and_its_beginning_stays_while_a_history_grows():
    num_read, before = 0, np.empty(0)
    for num_items in range(201, 2001):
        lengths = np.full(num_items, 8)
        ends = np.cumsum(sizes_of(BudgetLayout(200)(num_items, title_lengths=lengths, separate_patches=False)))
        assert 120 < len(ends) <= 200
        num_alike = min(len(ends), len(before))
        num_read += len(ends) - int((ends[:num_alike] == before[:num_alike]).cumprod().sum())
        before = ends
    assert num_read <= 10 * 1800


@given(st.integers(3, 60), st.integers(0, 200), st.integers(0, 2**32))
def test_a_budget_is_drawn_between_the_least_and_the_most(least, more, seed):
    layout = BudgetLayout(least + more, min_tokens=least, num_text_items=2)
    drawn = layout.drawn((seed, 3))
    assert drawn == layout.drawn((seed, 3))
    assert least <= drawn.max_tokens <= least + more
    assert drawn == BudgetLayout(drawn.max_tokens, num_text_items=2)


def test_draws_are_even_on_a_logarithmic_scale():
    layout = BudgetLayout(160, min_tokens=10)
    budgets = np.array([layout.drawn((0, step)).max_tokens for step in range(4000)])
    for low in (10, 20, 40, 80):  # four octaves
        share = ((low <= budgets) & (budgets < 2 * low)).mean()
        assert share == pytest.approx(0.25, abs=0.035)  # five standard deviations
    assert {budgets.min(), budgets.max()} == {10, 160}
    assert BudgetLayout(50).drawn((0, 1)) == BudgetLayout(50)


@pytest.mark.parametrize("layout", [TimeWindowLayout(60), PyramidLayout(), BudgetLayout(50)], ids=repr)
def test_long_layouts_are_not_append_only(layout):
    assert is_append_only(layout) is False


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TimeWindowLayout(-1), "`max_gap` must be a whole number of at least 0, got -1"),
        (lambda: TimeWindowLayout(3600.0), "`max_gap` must be a whole number of at least 0, got 3600.0"),
        (lambda: PyramidLayout(width=0), "`width` must be a whole number of at least 2, got 0"),
        (lambda: PyramidLayout(width=5), "`width` must be an even number, because patches join in pairs, got 5"),
        (
            lambda: BudgetLayout(2),
            r"`max_tokens=2` is below what a prompt needs.* Set `max_tokens` to 3 or more",
        ),
        (lambda: BudgetLayout(-5), "`max_tokens=-5` is below what a prompt needs"),
        (lambda: BudgetLayout(20.0), "`max_tokens` must be a whole number of at least 3, got 20.0"),
        (lambda: BudgetLayout(20, min_tokens=1), "`min_tokens=1` is below what a prompt needs"),
        (lambda: BudgetLayout(20, min_tokens=21), r"`min_tokens` must be at most `max_tokens` \(20\), got 21"),
        (lambda: BudgetLayout(20, num_text_items=-1), "`num_text_items` must be a whole number of at least 0, got -1"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
