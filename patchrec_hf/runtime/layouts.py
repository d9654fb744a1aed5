"""Layouts: the granularity of each item in a history. They work with integers only, not with tokens or tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, get_args

import numpy as np


Granularity = Literal["text", "item_patch", "session_patch"]
GRANULARITIES = get_args(Granularity)
FACTS = ("title_lengths", "timestamps", "separate_patches")
"""Facts of a history that a layout may ask for."""


class Segment(NamedTuple):
    """
    A run of consecutive items with the same granularity.

    Args:
        granularity (`"text"`, `"item_patch"` or `"session_patch"`):
            `text`: each item as its title tokens. `item_patch`: each item as one patch. `session_patch`: ALL items of
            the segment together as one patch.
        start (`int`):
            First item of the run; item 0 is the oldest of the history.
        stop (`int`):
            One past the last item of the run.
    """

    granularity: Granularity
    start: int
    stop: int


class Layout(Protocol):
    """Interface of the layouts of [`PatchRecProcessor`]. Items that no segment covers are left out of the prompt."""

    name: ClassVar[str]

    @property
    def is_append_only(self) -> bool:
        """
        Whether a shorter history is laid out as the beginning of a longer one, item by item. One sequence then holds
        every shorter history, so each of its items can predict the next one. A layout of your own may leave this out,
        which means that it is not.
        """
        return False

    @property
    def asks_for(self) -> Sequence[str]:
        """
        Names of more keyword arguments that the layout is called with, among `"title_lengths"`, `"timestamps"` and
        `"separate_patches"` (see [`lay_out`]). A layout of your own may leave this out, which means that it asks for
        nothing.
        """
        return ()

    def __call__(self, num_items: int, *args: Any, **kwargs: Any) -> list[Segment]:
        """
        Lays out a history. The signature is `(num_items, seed=())`, and after these the keyword arguments that the
        layout asks for.

        Args:
            num_items (`int`):
                Length of the history.
            seed (`Sequence[int]`):
                Seed of a random layout: equal seeds give equal draws. Other layouts ignore it.

        Returns:
            `list[Segment]`: ascending, without overlap.
        """
        ...


def _non_empty(segments: Sequence[Segment]) -> list[Segment]:
    return [segment for segment in segments if segment.start < segment.stop]


def check_whole_number(name: str, value: int, minimum: float) -> None:
    """
    Checks a setting of a layout.

    Raises:
        ValueError: If `value` is no whole number of at least `minimum`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ValueError(f"`{name}` must be a whole number of at least {minimum}, got {value!r}.")


def _require_probability(value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"`probability` must lie between 0 and 1, got {value}.")


@dataclass(frozen=True)
class TextLayout:
    """Every item as its title tokens: the uncompressed baseline, which the paper calls vanilla."""

    name: ClassVar[str] = "text"
    asks_for: ClassVar[tuple[str, ...]] = ()
    is_append_only: ClassVar[bool] = True

    def __call__(self, num_items: int, seed: Sequence[int] = ()) -> list[Segment]:
        return _non_empty([Segment("text", 0, num_items)])


@dataclass(frozen=True)
class ItemPatchLayout:
    """
    PatchRec-I: the latest items as text, every older item as one patch (the paper's PFT-I).

    Args:
        num_text_items (`int`, *optional*, defaults to `5`):
            Number of latest items that stay text.
    """

    num_text_items: int = 5
    name: ClassVar[str] = "item"
    asks_for: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_whole_number("num_text_items", self.num_text_items, 0)

    @property
    def is_append_only(self) -> bool:
        """Whether all items are patches; see [`Layout.is_append_only`]."""
        return self.num_text_items == 0

    def __call__(self, num_items: int, seed: Sequence[int] = ()) -> list[Segment]:
        boundary = max(0, num_items - self.num_text_items)
        return _non_empty([Segment("item_patch", 0, boundary), Segment("text", boundary, num_items)])


@dataclass(frozen=True)
class SessionPatchLayout:
    """
    PatchRec-S: the latest group as text, the group before it as item patches, every older group as one session patch
    (the paper's PFT-S).

    Args:
        group_size (`int`, *optional*, defaults to `5`):
            Items per group.
        align (`"latest"` or `"oldest"`, *optional*, defaults to `"latest"`):
            End of the history from which groups are counted. With `"latest"`, as in the paper, groups end at the
            newest item: the oldest session may be short, and every new interaction shifts all sessions. With
            `"oldest"`, sessions start at the oldest item: a full session never changes, and the items after the last
            full session (fewer than `group_size`) are item patches too.
    """

    group_size: int = 5
    align: Literal["latest", "oldest"] = "latest"
    name: ClassVar[str] = "session"
    asks_for: ClassVar[tuple[str, ...]] = ()
    is_append_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_whole_number("group_size", self.group_size, 1)
        if self.align not in ("latest", "oldest"):
            raise ValueError(f"`align` must be 'latest' or 'oldest', got {self.align!r}.")

    def __call__(self, num_items: int, seed: Sequence[int] = ()) -> list[Segment]:
        text_start = max(0, num_items - self.group_size)
        patch_start = max(0, text_start - self.group_size)
        if self.align == "oldest":
            patch_start -= patch_start % self.group_size
        # If the oldest session is short, it ends at `first`. Otherwise `first` is 0.
        first = patch_start % self.group_size
        cuts = sorted({0, *range(first, patch_start + 1, self.group_size)})
        sessions = [Segment("session_patch", start, stop) for start, stop in pairwise(cuts)]
        return _non_empty(
            [*sessions, Segment("item_patch", patch_start, text_start), Segment("text", text_start, num_items)]
        )


@dataclass(frozen=True)
class RandomPatchLayout:
    """
    Layout of patch pre-training: each item is a patch with the given probability, and text otherwise.

    Args:
        probability (`float`):
            Probability that an item is compressed, drawn independently for each item.
    """

    probability: float
    name: ClassVar[str] = "random"
    asks_for: ClassVar[tuple[str, ...]] = ()
    is_append_only: ClassVar[bool] = True  # equal seeds draw equally for the items that both histories hold

    def __post_init__(self) -> None:
        _require_probability(self.probability)

    def __call__(self, num_items: int, seed: Sequence[int] = ()) -> list[Segment]:
        compressed = np.random.default_rng(seed).random(num_items) < self.probability
        return [
            Segment("item_patch" if compressed[start] else "text", start, stop) for start, stop in _runs(compressed)
        ]


@dataclass(frozen=True)
class DropLayout:
    """
    Drops each item with the given probability, and keeps the others as text. The newest item is always kept. This is
    the control of the paper's Table 4: fewer tokens without patches.

    Args:
        probability (`float`):
            Probability that an item is dropped, drawn independently for each item except the newest.
    """

    probability: float
    name: ClassVar[str] = "drop"
    asks_for: ClassVar[tuple[str, ...]] = ()
    is_append_only: ClassVar[bool] = False  # the newest item is never dropped

    def __post_init__(self) -> None:
        _require_probability(self.probability)

    def __call__(self, num_items: int, seed: Sequence[int] = ()) -> list[Segment]:
        kept = np.random.default_rng(seed).random(num_items) >= self.probability
        kept[-1:] = True
        return [Segment("text", start, stop) for start, stop in _runs(kept) if kept[start]]


def check_layout(layout: Any, is_saved: bool = False) -> None:
    """
    Checks that a layout can be used.

    Args:
        layout ([`Layout`], *optional*):
            A layout. `None` stands for the processor's own.
        is_saved (`bool`, *optional*, defaults to `False`):
            Whether the layout is saved with a processor. It must then be a dataclass.

    Raises:
        TypeError: If it is a class instead of a layout, cannot be called, or cannot be saved.
        ValueError: If it asks for something that there is not.
    """
    if isinstance(layout, type):
        raise TypeError(
            f"`layout` must be a layout, got the class `{layout.__name__}`. Make a layout of it, as in "
            "`ItemPatchLayout(5)` or `TextLayout()`."
        )
    if layout is not None and not (callable(layout) and (is_dataclass(layout) or not is_saved)):
        raise TypeError(f"`layout` must be a dataclass such as `ItemPatchLayout(5)`, got {layout!r}.")
    for name in asks_for(layout):
        if name not in FACTS:
            raise ValueError(f"The layout {layout} asks for {name!r}; a layout may ask for {', '.join(FACTS)}.")


def lay_out(
    layout: Layout,
    num_items: int,
    seed: Sequence[int] = (),
    *,
    title_lengths: np.ndarray,
    timestamps: np.ndarray | None = None,
    separate_patches: bool,
) -> list[Segment]:
    """
    Lays out a history, and gives the layout what it asks for.

    Args:
        layout ([`Layout`]):
            A layout.
        num_items, seed:
            See [`Layout`].
        title_lengths (`numpy.ndarray` of shape `(num_items,)`, int64):
            Number of tokens of each item's title.
        timestamps (`numpy.ndarray` of shape `(num_items,)`, int64, *optional*):
            When each item was chosen, in seconds.
        separate_patches (`bool`):
            Whether a separator follows each patch.

    Returns:
        `list[Segment]`

    Raises:
        TypeError: If the layout returns no segments.
        ValueError: If the layout asks for timestamps, and there are none.
    """
    facts = {"title_lengths": title_lengths, "timestamps": timestamps, "separate_patches": separate_patches}
    asked: dict[str, Any] = {}
    for name in asks_for(layout):
        fact = facts[name]
        if fact is None:
            raise ValueError(
                f"The layout {layout} asks for {name}, and the history has none. Give rows with the column "
                "`timestamps`, or `recommend(..., timestamps=...)`."
            )
        asked[name] = fact
    segments = layout(num_items, seed, **asked)
    try:
        return [Segment(*segment) for segment in segments]
    except TypeError:
        raise TypeError(
            f"A layout must return a list of segments, such as `[Segment('item_patch', 0, {num_items})]`, got "
            f"{segments!r} from {layout}."
        ) from None


def lay_out_alike(layout: Layout, num_items: int, separate_patches: bool) -> list[Segment]:
    """
    Lays out a history of items that were all chosen at once, and whose titles have one token each.

    Args:
        layout, num_items, separate_patches:
            See [`lay_out`].

    Returns:
        `list[Segment]`
    """
    return lay_out(
        layout,
        num_items,
        title_lengths=np.ones(num_items, dtype=np.int64),
        timestamps=np.zeros(num_items, dtype=np.int64),
        separate_patches=separate_patches,
    )


def asks_for(layout: Layout) -> tuple[str, ...]:
    """Returns [`Layout.asks_for`]; nothing for a layout that does not say."""
    names = getattr(layout, "asks_for", ())
    return (names,) if isinstance(names, str) else tuple(names)


def is_append_only(layout: Layout) -> bool:
    """Returns [`Layout.is_append_only`]; `False` for a layout that does not say."""
    return bool(getattr(layout, "is_append_only", False))


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Start and stop of each run of equal flags."""
    cuts = [0, *(np.flatnonzero(flags[1:] != flags[:-1]) + 1).tolist(), len(flags)]
    return [(start, stop) for start, stop in pairwise(cuts) if start < stop]
