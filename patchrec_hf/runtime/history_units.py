"""History units: the positions of a history, made from the segments of a layout and the tokens of titles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .encoding import FoldedItems
from .layouts import GRANULARITIES
from .time_gaps import NO_GAP
from .title_tokens import TitleTokens, ragged_arange


@dataclass(frozen=True, eq=False)
class HistoryUnits:
    """
    The units of n items: a unit is one item as text, an item patch or a session patch. Separators stand between units.

    Args:
        is_text (`numpy.ndarray` of shape `(n,)`, bool):
            Whether each item is text.
        unit_of_item (`numpy.ndarray` of shape `(n,)`, int64):
            The unit of each item, ascending; -1 if the layout leaves the item out.
        sizes (`numpy.ndarray` of shape `(U,)`, int64):
            Number of items of each unit.
        unit_is_text (`numpy.ndarray` of shape `(U,)`, bool):
            Whether each unit is an item as text.
    """

    is_text: np.ndarray
    unit_of_item: np.ndarray
    sizes: np.ndarray
    unit_is_text: np.ndarray

    @classmethod
    def from_segments(cls, segments: Sequence[Any], num_items: int) -> HistoryUnits:
        """
        Assigns items to units.

        Args:
            segments (`Sequence[Segment]`):
                The segments that a layout returned.
            num_items (`int`):
                Length of the history.

        Raises:
            ValueError: If the segments do not ascend or overlap, if one is empty, lies outside the history or has
                another granularity, or if they leave out all items.
        """
        is_text = np.zeros(num_items, dtype=bool)
        unit_of_item = np.full(num_items, -1, dtype=np.int64)
        num_units, previous_stop = 0, 0
        for granularity, start, stop in segments:
            if granularity not in GRANULARITIES or not previous_stop <= start < stop <= num_items:
                raise ValueError(
                    f"The layout gave the segments {list(segments)} for {num_items} items. Each segment needs one of "
                    f"the granularities {', '.join(GRANULARITIES)}. Segments ascend, do not overlap, and are not "
                    "empty."
                )
            previous_stop = stop
            if granularity == "session_patch":
                unit_of_item[start:stop] = num_units
                num_units += 1
            else:
                is_text[start:stop] = granularity == "text"
                unit_of_item[start:stop] = np.arange(num_units, num_units + stop - start)
                num_units += stop - start
        if num_units == 0 and num_items > 0:
            raise ValueError(f"The layout left out all {num_items} items of a history. It must keep at least one.")
        unit_is_text = np.zeros(num_units, dtype=bool)
        unit_is_text[unit_of_item[is_text]] = True
        sizes = np.bincount(unit_of_item[unit_of_item >= 0], minlength=num_units)
        return cls(is_text, unit_of_item, sizes, unit_is_text)

    def widths(self, title_lengths: np.ndarray) -> np.ndarray:
        """
        Returns the number of positions of each unit, without separators, int64, shape `(U,)`. `title_lengths` are the
        lengths of the n items' titles.
        """
        widths = np.ones(len(self.sizes), dtype=np.int64)
        widths[self.unit_of_item[self.is_text]] = title_lengths[self.is_text]
        return widths

    def is_separated(self, separate_patches: bool) -> np.ndarray:
        """Returns whether a separator follows each unit, bool, shape `(U,)`. The last unit has none."""
        is_separated = self.unit_is_text | separate_patches
        is_separated[-1:] = False
        return is_separated


class HistoryPart(NamedTuple):
    """
    Consecutive units of a history as positions. All arrays are int64.

    Args:
        input_ids (`numpy.ndarray` of shape `(T,)`):
            Title tokens, separators, and one `<|patch|>` for each patch.
        patches ([`FoldedItems`]):
            Everything that is folded into patches. Positions count from the beginning of the part.
        item_ends (`numpy.ndarray` of shape `(n,)`):
            For each item, the position in the part where it ends: its patch, or the last token of its title; -1 for an
            item that the layout leaves out.
        num_separators (`int`):
            Number of separators in `input_ids`.
    """

    input_ids: np.ndarray
    patches: FoldedItems
    item_ends: np.ndarray
    num_separators: int


def encode_units(
    items: np.ndarray,
    units: HistoryUnits,
    titles: TitleTokens,
    *,
    patch_id: int,
    separator_id: int,
    separate_patches: bool,
    num_residuals: int,
    gaps: np.ndarray | None = None,
) -> HistoryPart:
    """
    Turns the units of a history into positions.

    Args:
        items (`numpy.ndarray` of shape `(n,)`, int64):
            The items of the units, oldest first, as indices of `titles`.
        units ([`HistoryUnits`]):
            Their units.
        titles ([`TitleTokens`]):
            The titles.
        patch_id, separator_id (`int`):
            The tokens of a patch and of a separator.
        separate_patches (`bool`):
            Whether a separator follows each patch. One always follows text.
        num_residuals (`int`):
            See [`fold_items`].
        gaps (`numpy.ndarray` of shape `(n,)`, int64, *optional*):
            For each item, the bucket of its time gap, or [`NO_GAP`].

    Returns:
        [`HistoryPart`]
    """
    kept = units.unit_of_item >= 0
    kept_items, unit_of_item, is_text = items[kept], units.unit_of_item[kept], units.is_text[kept]
    lengths = titles.lengths[kept_items]
    widths = units.widths(titles.lengths[items])
    is_separated = units.is_separated(separate_patches)
    starts = np.cumsum(widths + is_separated) - (widths + is_separated)

    input_ids = np.full(int((widths + is_separated).sum()), patch_id, dtype=np.int64)
    input_ids[(starts + widths)[is_separated]] = separator_id
    text_positions = np.repeat(starts[unit_of_item[is_text]], lengths[is_text]) + ragged_arange(lengths[is_text])
    input_ids[text_positions] = titles.gather(kept_items[is_text])

    folded_units = unit_of_item[~is_text]
    patches = fold_items(
        kept_items[~is_text],
        units.sizes[folded_units],
        starts[folded_units],
        titles,
        num_residuals,
        None if gaps is None else gaps[kept][~is_text],
    )
    item_ends = np.full(len(items), -1)
    item_ends[kept] = starts[unit_of_item] + widths[unit_of_item] - 1
    return HistoryPart(input_ids, patches, item_ends, int(is_separated.sum()))


def fold_items(
    items: np.ndarray,
    sizes: np.ndarray,
    positions: np.ndarray,
    titles: TitleTokens,
    num_residuals: int,
    gaps: np.ndarray | None = None,
) -> FoldedItems:
    """
    Lists what is folded into the patches of items: the tokens of an item's title, then its residual, if it has one,
    then its time gap, if one is given.

    Args:
        items (`numpy.ndarray` of shape `(n,)`, int64):
            Indices of `titles`.
        sizes (`numpy.ndarray` of shape `(n,)`, int64):
            For each item, the number of items that share its patch.
        positions (`numpy.ndarray` of shape `(n,)`, int64):
            The position of each item's patch.
        titles ([`TitleTokens`]):
            The titles.
        num_residuals (`int`):
            Number of first items of the catalog that have a residual.
        gaps (`numpy.ndarray` of shape `(n,)`, int64, *optional*):
            For each item, the bucket of its time gap, or [`NO_GAP`].

    Returns:
        [`FoldedItems`]
    """
    lengths = titles.lengths[items]
    tokens, divisors = titles.gather(items), np.repeat(sizes * lengths, lengths)
    title_starts = np.zeros(len(tokens), dtype=np.int64)
    title_starts[np.cumsum(lengths) - lengths] = 1
    residuals = np.flatnonzero(items < num_residuals)
    timed = residuals[:0] if gaps is None else np.flatnonzero(gaps != NO_GAP)
    owners = np.concatenate([residuals, timed])
    if len(owners) > 0:
        ids = -1 - items[residuals]
        if gaps is not None:
            ids = np.concatenate([ids, -1 - num_residuals - gaps[timed]])
        ends = np.cumsum(lengths)[owners]
        tokens, divisors = np.insert(tokens, ends, ids), np.insert(divisors, ends, sizes[owners])
        title_starts = np.insert(title_starts, ends, 0)
    counts = lengths + np.bincount(owners, minlength=len(items))
    return FoldedItems(tokens, np.repeat(positions, counts), divisors, title_starts)
