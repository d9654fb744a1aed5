"""Long layouts: sessions by windows of time, sessions that grow with age, and budgets of positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np

from .layouts import Segment, check_whole_number
from .time_gaps import check_ascending


@dataclass(frozen=True)
class TimeWindowLayout:
    """
    The latest items as text, and older items as one patch for each session. A session ends where more than `max_gap`
    seconds pass before the next item (the paper's section 5).

    Args:
        max_gap (`int`):
            Longest time between two neighboring items of a session, in seconds.
        num_text_items (`int`, *optional*, defaults to `5`):
            Number of latest items that stay text.
    """

    max_gap: int
    num_text_items: int = 5
    name: ClassVar[str] = "time_window"
    asks_for: ClassVar[tuple[str, ...]] = ("timestamps",)
    is_append_only: ClassVar[bool] = False  # a new item may join the newest session

    def __post_init__(self) -> None:
        check_whole_number("max_gap", self.max_gap, 0)
        check_whole_number("num_text_items", self.num_text_items, 0)

    def __call__(self, num_items: int, seed: Sequence[int] = (), *, timestamps: np.ndarray) -> list[Segment]:
        """
        Lays out a history.

        Args:
            num_items, seed:
                See [`Layout`].
            timestamps (`numpy.ndarray` of shape `(num_items,)`, int64):
                When each item was chosen, in seconds, oldest first.

        Raises:
            ValueError: If a time is earlier than the one before it.
        """
        check_ascending(timestamps)
        boundary = max(0, num_items - self.num_text_items)
        ends = np.flatnonzero(np.diff(timestamps[:boundary]) > self.max_gap) + 1
        cuts = [0, *ends.tolist(), boundary]
        sessions = [Segment("session_patch", start, stop) for start, stop in pairwise(cuts) if start < stop]
        return [*sessions, Segment("text", boundary, num_items)] if boundary < num_items else sessions


@dataclass(frozen=True)
class PyramidLayout:
    """
    The newest items one by one, and the older an item is, the more items share its patch: 2, 4, 8 and so on. A history
    of n items takes a number of patches that grows with log n.

    The patches of one size are a level. A level that reaches 2 · `width` patches joins the oldest `width` of them in
    pairs, and so gives `width` / 2 patches to the next level. So a level keeps between `width` and 2 · `width` - 1
    patches, except the oldest level, which may have fewer. The layout depends on the number of items only. One more
    item changes the newest patches, and sometimes the newest patches of older levels, but seldom old ones.

    Args:
        num_text_items (`int`, *optional*, defaults to `0`):
            Number of newest items that stay text. The pyramid begins behind them.
        width (`int`, *optional*, defaults to `8`):
            Least number of patches of one size before a larger size begins. An even number.
    """

    num_text_items: int = 0
    width: int = 8
    name: ClassVar[str] = "pyramid"
    asks_for: ClassVar[tuple[str, ...]] = ()
    is_append_only: ClassVar[bool] = False  # items of one patch had patches of their own before

    def __post_init__(self) -> None:
        check_whole_number("num_text_items", self.num_text_items, 0)
        check_whole_number("width", self.width, 2)
        if self.width % 2:
            raise ValueError(f"`width` must be an even number, because patches join in pairs, got {self.width}.")

    def __call__(self, num_items: int, seed: Sequence[int] = ()) -> list[Segment]:
        boundary = max(0, num_items - self.num_text_items)
        return _segments(_pyramid_sizes(boundary, self.width), num_items)


@dataclass(frozen=True)
class BudgetLayout:
    """
    The finest layout of each history that takes at most `max_tokens` positions, separators included.

    A history whose items all fit as item patches keeps them, and its newest items become text as long as they fit. The
    finest layout is therefore [`ItemPatchLayout`] with `num_text_items`. A longer history becomes the widest pyramid
    (see [`PyramidLayout`]) in which no history up to its length takes more patches than fit. So the width seldom
    changes while a history grows, and its beginning stays. Patches that are left over even then split the newest
    sessions in two. If no pyramid fits, the oldest patches of the narrowest one are joined.

    With `min_tokens`, one checkpoint learns all budgets in between: each training row draws its own (see
    [`~BudgetLayout.drawn`]). Everywhere else, the budget is `max_tokens`.

    Args:
        max_tokens (`int`):
            Most positions of a history, at least 3: a patch for the newest item, a separator, and a patch for the
            items before it. The prompt around the history is not counted.
        min_tokens (`int`, *optional*):
            Smallest budget of a training row. If not given, it is `max_tokens`.
        num_text_items (`int`, *optional*, defaults to `5`):
            Most items that become text.
    """

    max_tokens: int
    min_tokens: int | None = None
    num_text_items: int = 5
    name: ClassVar[str] = "budget"
    asks_for: ClassVar[tuple[str, ...]] = ("title_lengths", "separate_patches")
    is_append_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_budget("max_tokens", self.max_tokens)
        check_whole_number("num_text_items", self.num_text_items, 0)
        if self.min_tokens is not None:
            _check_budget("min_tokens", self.min_tokens)
            if self.min_tokens > self.max_tokens:
                raise ValueError(
                    f"`min_tokens` must be at most `max_tokens` ({self.max_tokens}), got {self.min_tokens}."
                )

    def with_budget(self, max_tokens: int) -> BudgetLayout:
        """Returns the layout of another budget, the same for every history."""
        return replace(self, max_tokens=max_tokens, min_tokens=None)

    def drawn(self, seed: Sequence[int]) -> BudgetLayout:
        """
        Returns the layout of a training row, with a budget that is drawn between `min_tokens` and `max_tokens`. Its
        logarithm is distributed evenly. Equal seeds draw equally.
        """
        least = self.max_tokens if self.min_tokens is None else self.min_tokens
        draw = np.random.default_rng(seed).uniform(math.log(least), math.log(self.max_tokens + 1))
        return self.with_budget(min(max(int(math.exp(draw)), least), self.max_tokens))

    def __call__(
        self, num_items: int, seed: Sequence[int] = (), *, title_lengths: np.ndarray, separate_patches: bool
    ) -> list[Segment]:
        """
        Lays out a history.

        Args:
            num_items, seed:
                See [`Layout`].
            title_lengths (`numpy.ndarray` of shape `(num_items,)`, int64):
                Number of tokens of each item's title.
            separate_patches (`bool`):
                Whether a separator follows each patch.
        """
        max_patches = self._max_patches(separate_patches)
        if num_items <= max_patches:
            num_patches = num_items - self._num_texts(title_lengths, separate_patches)
            return _segments(np.ones(num_patches, dtype=np.int64), num_items)
        widths = np.arange(2, max_patches + 1, 2)
        bounds = _most_pyramid_patches(num_items, widths)
        fitting = np.flatnonzero(bounds <= max_patches)
        if len(fitting) == 0:
            return _segments(_with_fewer_patches(_pyramid_sizes(num_items, 2), max_patches), num_items)
        sizes = _pyramid_sizes(num_items, int(widths[fitting[-1]]))
        num_left_over = max_patches - int(bounds[fitting[-1]])
        return _segments(_with_more_patches(sizes, len(sizes) + num_left_over), num_items)

    def keeps_item_patches(self, num_items: int, separate_patches: bool) -> bool:
        """
        Returns whether a history of `num_items` items, and so each shorter one, has one patch for each item and no
        text. Up to this length the layout is append-only.
        """
        return self.num_text_items == 0 and num_items <= self._max_patches(separate_patches)

    def _max_patches(self, separate_patches: bool) -> int:
        return (self.max_tokens + 1) // 2 if separate_patches else self.max_tokens

    def _num_texts(self, title_lengths: np.ndarray, separate_patches: bool) -> int:
        """Returns how many of the newest items fit as text, if all others are item patches."""
        num_items = len(title_lengths)
        newest = title_lengths[::-1][: self.num_text_items]
        num_texts = np.arange(1, len(newest) + 1)
        num_separators = num_items - 1 if separate_patches else num_texts - 1
        sizes = np.cumsum(newest) + num_items - num_texts + num_separators
        return int((sizes <= self.max_tokens).sum())  # more items as text always take more positions


def _check_budget(name: str, value: int) -> None:
    if type(value) is int and value < 3:
        raise ValueError(
            f"`{name}={value}` is below what a prompt needs: a history takes at least 3 positions, a patch for its "
            f"newest item, a separator, and a patch for the items before it. Set `{name}` to 3 or more."
        )
    check_whole_number(name, value, 3)


def _pyramid_sizes(num_items: int, width: int) -> np.ndarray:
    """Returns the number of items of each patch of a pyramid, oldest first."""
    levels = []  # of each size, the patches that did not join
    received, size = num_items, 1
    while received > 0:
        given = width // 2 * max(received // width - 1, 0)
        levels.append(np.full(received - 2 * given, size))
        received, size = given, 2 * size
    return np.concatenate(levels[::-1]) if levels else np.empty(0, dtype=np.int64)


def _most_pyramid_patches(num_items: int, widths: np.ndarray) -> np.ndarray:
    """
    Returns, for the pyramid of each width, a number of patches that no history of up to `num_items` items exceeds,
    int64, shape of `widths`.
    """
    received, most = np.full(len(widths), num_items), 2 * widths - 1  # items come one by one
    bounds = np.zeros(len(widths), dtype=np.int64)
    while received.any():
        bounds += np.minimum(received, most)
        received, most = widths // 2 * np.maximum(received // widths - 1, 0), widths + widths // 2
    return bounds


def _with_more_patches(sizes: np.ndarray, num_patches: int) -> np.ndarray:
    """Splits the newest sessions in two, until there are `num_patches`, or one for each item."""
    while len(sizes) < min(num_patches, sizes.sum()):
        splits = np.flatnonzero(sizes > 1)[len(sizes) - num_patches :]
        sizes[splits] //= 2
        sizes = np.insert(sizes, splits, sizes[splits])
    return sizes


def _with_fewer_patches(sizes: np.ndarray, num_patches: int) -> np.ndarray:
    """Joins the oldest patches to one, so that `num_patches` remain."""
    num_joined = max(len(sizes) - num_patches + 1, 1)
    return np.concatenate([[sizes[:num_joined].sum()], sizes[num_joined:]])


def _segments(sizes: np.ndarray, num_items: int) -> list[Segment]:
    """Returns patches of the given sizes, oldest first, and all newer items as text."""
    num_sessions = int((sizes > 1).sum())  # items with patches of their own are the newest
    cuts = [0, *np.cumsum(sizes[:num_sessions]).tolist()]
    segments = [Segment("session_patch", start, stop) for start, stop in pairwise(cuts)]
    boundary = int(sizes.sum())
    if cuts[-1] < boundary:
        segments.append(Segment("item_patch", cuts[-1], boundary))
    if boundary < num_items:
        segments.append(Segment("text", boundary, num_items))
    return segments
