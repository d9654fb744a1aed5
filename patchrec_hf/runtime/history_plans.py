"""History plans: a history laid out, with the positions of its units, and the encoding of its last units alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .encoding import FoldedItems
from .history_units import HistoryUnits
from .layouts import Layout, lay_out
from .processing import PatchRecProcessor
from .time_gaps import gap_buckets


@dataclass(frozen=True, eq=False)
class HistoryPlan:
    """
    A history whose units have positions in the prompt, but are not encoded yet. To make a plan costs a few operations
    on arrays, however long the history is.

    Args:
        items (`numpy.ndarray` of shape `(n,)`, int64):
            Catalog indices, oldest first.
        timestamps (`numpy.ndarray` of shape `(n,)`, int64, *optional*):
            When each item was chosen, in seconds.
        seed (`int`):
            Seed of a random layout.
        units ([`HistoryUnits`]):
            The units of the items.
        first_items (`numpy.ndarray` of shape `(U,)`, int64):
            The first item of each unit.
        starts, ends (`numpy.ndarray` of shape `(U,)`, int64):
            The position in the prompt where each unit begins, and the one after its last position. A separator may
            stand between the end of a unit and the start of the next one.
    """

    items: np.ndarray
    timestamps: np.ndarray | None
    seed: int
    units: HistoryUnits
    first_items: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def make(
        cls,
        processor: PatchRecProcessor,
        layout: Layout,
        items: np.ndarray,
        timestamps: np.ndarray | None,
        seed: int,
    ) -> HistoryPlan:
        """
        Lays out a history.

        Raises:
            ValueError: If the layout asks for timestamps, and there are none, or gives no valid segments.
        """
        lengths = processor.title_tokens.lengths[items]
        segments = lay_out(
            layout,
            len(items),
            (seed,),
            title_lengths=lengths,
            timestamps=timestamps,
            separate_patches=processor.separate_patches,
        )
        units = HistoryUnits.from_segments(segments, len(items))
        widths = units.widths(lengths)
        is_separated = units.is_separated(processor.separate_patches)
        ends = history_start(processor) + np.cumsum(widths + is_separated) - is_separated
        kept = np.flatnonzero(units.unit_of_item >= 0)
        first_items = kept[np.cumsum(units.sizes) - units.sizes]
        return cls(items, timestamps, seed, units, first_items, ends - widths, ends)

    @property
    def length(self) -> int:
        """Number of positions up to the end of the last unit, with what stands before the history."""
        return int(self.ends[-1])

    @property
    def history_end(self) -> int:
        """Position where the newest item ends; -1 if the layout leaves it out."""
        return self.length - 1 if self.units.unit_of_item[-1] >= 0 else -1

    def num_shared(self, other: HistoryPlan, with_timestamps: bool) -> int:
        """
        Number of first units that two plans share: they stand at the same positions, and hold the same.

        Args:
            other ([`HistoryPlan`]):
                Another plan.
            with_timestamps (`bool`):
                Whether patches depend on timestamps.
        """
        num_items = _num_equal(self.items, other.items)
        if with_timestamps and self.timestamps is not None and other.timestamps is not None:
            num_items = min(num_items, _num_equal(self.timestamps, other.timestamps))
        pairs = (
            (self.first_items, other.first_items),
            (self.units.sizes, other.units.sizes),
            (self.units.unit_is_text, other.units.unit_is_text),
        )
        num_units = min(_num_equal(mine, theirs) for mine, theirs in pairs)
        # Units ascend, so the first one that reaches beyond the equal items ends the search.
        stops = self.first_items[:num_units] + self.units.sizes[:num_units]
        return int(np.searchsorted(stops, num_items, side="right"))

    def num_positions_before(self, item: int) -> int:
        """Number of positions up to the end of the last unit that holds an item before `item`; 0 if there is none."""
        unit = int(np.searchsorted(self.first_items, item)) - 1
        return 0 if unit < 0 else int(self.ends[unit])


def _num_equal(first: np.ndarray, second: np.ndarray) -> int:
    """Number of first entries that two arrays share."""
    length = min(len(first), len(second))
    is_equal = first[:length] == second[:length]
    return length if is_equal.all() else int(np.argmin(is_equal))


@dataclass(frozen=True, eq=False)
class PositionsToRead:
    """
    Consecutive positions of a prompt.

    Args:
        start (`int`):
            The first one.
        input_ids (`numpy.ndarray` of shape `(T,)`, int64):
            Their tokens, with one `<|patch|>` for each patch.
        patches ([`FoldedItems`]):
            Everything that is folded into patches. Positions count from `start`.
    """

    start: int
    input_ids: np.ndarray
    patches: FoldedItems

    def part(self, first: int, stop: int) -> PositionsToRead:
        """Returns the positions from `first` to `stop`, counted from `start`; fewer if there are fewer."""
        if first == 0 and stop >= len(self.input_ids):
            return self
        low, high = np.searchsorted(self.patches.positions, [first, stop])
        patches = FoldedItems(
            self.patches.token_ids[low:high],
            self.patches.positions[low:high] - first,
            self.patches.divisors[low:high],
            self.patches.title_starts[low:high],
        )
        return PositionsToRead(self.start + first, self.input_ids[first:stop], patches)


def encode_from(processor: PatchRecProcessor, plan: HistoryPlan, num_units: int, num_read: int) -> PositionsToRead:
    """
    Encodes a prompt from a unit on, up to the end of its last unit. No earlier unit is encoded.

    Args:
        processor ([`PatchRecProcessor`]):
            The processor.
        plan ([`HistoryPlan`]):
            The whole history.
        num_units (`int`):
            Number of first units that are not encoded; at least one unit is.
        num_read (`int`):
            Number of first positions that are not encoded. If the first unit to encode begins later, the positions
            before it are encoded too: a separator, or the beginning of the prompt.

    Raises:
        ValueError: If timestamps that are read descend.
    """
    prompt, units, first = processor.prompt, plan.units, int(plan.first_items[num_units])
    start = min(int(plan.starts[num_units]), num_read)
    if num_units == 0:
        before = np.array([*prompt.prefix_ids, prompt.start_id], dtype=np.int64)[start:]
    else:
        before = np.full(int(plan.starts[num_units]) - start, prompt.separator_id, dtype=np.int64)
    unit_of_item = units.unit_of_item[first:]
    part = processor.encode_units(
        plan.items[first:],
        HistoryUnits(
            units.is_text[first:],
            np.where(unit_of_item < 0, -1, unit_of_item - num_units),
            units.sizes[num_units:],
            units.unit_is_text[num_units:],
        ),
        gaps=_gaps_from(processor, plan, first),
    )
    patches = part.patches._replace(positions=part.patches.positions + len(before))
    return PositionsToRead(start, np.concatenate([before, part.input_ids]), patches)


def history_start(processor: PatchRecProcessor) -> int:
    """Position in a prompt where the history begins."""
    return len(processor.prompt.prefix_ids) + 1


def _gaps_from(processor: PatchRecProcessor, plan: HistoryPlan, first: int) -> np.ndarray | None:
    """Returns the buckets of the time gaps of the items from `first` on; `None` if patches hold none."""
    if processor.num_time_gaps == 0 or plan.timestamps is None:
        return None
    before = max(first - 1, 0)
    return gap_buckets(plan.timestamps[before:], processor.num_time_gaps)[first - before :]
