"""Pair counts: counts pairs of items for some items after the other, in memory that does not grow with the pairs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .pairs import FlatTargets, Pairs, index_type


_EVENTS_PER_BLOCK = 2**21
"""Closely following items that are sorted at once, which bounds the memory of counting."""
_DENSE_SHARE = 8
_MIN_DENSE = 4096
"""An item is counted alone, in arrays over the catalog, if it has more places than this, and one per 8 items."""
_MIN_SHORT_BLOCK = 32
"""Events are sorted as numbers of 32 bits, which is faster, if a block of this number of items fits into them."""
_PAIRS_IN_MEMORY = 2**25
"""Pairs that [`StoredPairs`] holds in memory (20 bytes each). The others are in temporary files."""


def count_pairs(flat: FlatTargets, window: int) -> Iterator[Pairs]:
    """
    Counts pairs of a target and an item before it in its row, at a distance of up to `window`. The weight of a pair is
    the sum of 1 divided by the distance, over all places where it occurs.

    Args:
        flat ([`FlatTargets`]):
            The targets.
        window (`int`):
            The largest distance.

    Returns:
        `Iterator[Pairs]`: the pairs of the first items of the catalog, then of the next ones, up to the last.
    """
    reach = min(window, int(flat.num_before.max(initial=0)))
    if reach == 0:
        yield _empty(0, flat.num_items)
        return
    count = _Counter.of(flat, reach)
    places = np.argsort(flat.items, kind="stable").astype(index_type(len(flat.items)))
    num_places = np.bincount(flat.items, minlength=flat.num_items)
    starts = np.concatenate([[0], np.cumsum(num_places)])
    for first, last in _blocks(num_places, reach, count.max_items):
        chosen = places[starts[first] : starts[last]]
        if last - first == 1 and _is_dense(len(chosen), reach, flat.num_items):
            yield count.item(first, chosen)
        else:
            yield count.block(first, num_places[first:last], chosen)


@dataclass(frozen=True, eq=False)
class _Counter:
    """
    Counts the pairs of items, given the places where they stand. An event is a place and another item close to it. It
    is a number, whose bits are, from the highest ones on: the item's number in the block, the other item, the
    direction, and the distance minus 1.
    """

    num_before: np.ndarray
    others: np.ndarray
    """The item at each place, as the bits of the other item of an event. Behind the last row stand `reach` more."""
    steps: np.ndarray
    num_items: int
    distance_bits: int
    item_bits: int

    @classmethod
    def of(cls, flat: FlatTargets, reach: int) -> _Counter:
        distance_bits, item_bits = (reach - 1).bit_length(), (flat.num_items - 1).bit_length()
        shift = distance_bits + 1
        is_short = (_MIN_SHORT_BLOCK - 1).bit_length() + item_bits + shift <= 32
        # The added items are no target, so that no index lies outside.
        others = np.zeros(len(flat.items) + reach, dtype=np.uint32 if is_short else np.int64)
        others[: len(flat.items)] = flat.items
        np.left_shift(others, shift, out=others)
        num_before = np.concatenate([flat.num_before, np.zeros(reach, dtype=np.int32)])
        steps = np.arange(1, reach + 1)
        return cls(num_before, others, steps, flat.num_items, distance_bits, item_bits)

    @property
    def max_items(self) -> int:
        """Number of items of a block whose events can be told apart."""
        num_bits = 32 if self.others.dtype == np.uint32 else 63
        return 1 << max(num_bits - self.item_bits - self.distance_bits - 1, 0)

    def item(self, item: int, places: np.ndarray) -> Pairs:
        """Counts the pairs of one item, in two arrays over the catalog."""
        forward, backward = np.zeros(self.num_items), np.zeros(self.num_items)
        before = self.num_before[places]
        for distance in self.steps.tolist():
            later = places + distance
            later = later[self.num_before[later] >= distance]
            earlier = places[before >= distance] - distance
            for weights, found in ((forward, later), (backward, earlier)):
                others = (self.others[found] >> (self.distance_bits + 1)).astype(np.int64)
                weights += np.bincount(others, minlength=self.num_items) / distance
        targets = np.flatnonzero((forward > 0) | (backward > 0))
        kind = index_type(self.num_items)
        return Pairs(item, np.array([0, len(targets)]), targets.astype(kind), forward[targets], backward[targets])

    def block(self, first: int, num_places: np.ndarray, places: np.ndarray) -> Pairs:
        """Counts the pairs of consecutive items, by sorting events. `num_places` has the number of each item's."""
        runs, counts = _runs(self._events(num_places, places))
        distances = (runs & ((1 << self.distance_bits) - 1)) + 1
        # Counts of one pair are added up from the nearest distance to the farthest.
        directed, sums = _sums(runs >> self.distance_bits, counts / distances)
        cells, numbers = _distinct(directed >> 1)
        is_backward = (directed & 1).astype(np.float64)
        forward = np.bincount(numbers, sums * (1 - is_backward), minlength=len(cells))
        backward = np.bincount(numbers, sums * is_backward, minlength=len(cells))
        lengths = np.bincount((cells >> self.item_bits).astype(np.int64), minlength=len(num_places))
        targets = (cells & ((1 << self.item_bits) - 1)).astype(index_type(self.num_items))
        return Pairs(first, np.concatenate([[0], np.cumsum(lengths)]), targets, forward, backward)

    def _events(self, num_places: np.ndarray, places: np.ndarray) -> np.ndarray:
        kind, steps = self.others.dtype, self.steps
        numbers = np.arange(len(num_places)) << (self.item_bits + self.distance_bits + 1)
        items = np.repeat(numbers, num_places).astype(kind)[:, None]
        codes = (steps - 1).astype(kind)
        later = places[:, None] + steps
        forward = (self.others.take(later) + items + codes)[self.num_before.take(later) >= steps]
        # An index below 0 names an added item, which does not count.
        earlier = places[:, None] - steps
        codes += kind.type(1 << self.distance_bits)
        backward = self.others.take(earlier) + items + codes
        return np.concatenate([forward, backward[self.num_before[places][:, None] >= steps]])


def _runs(events: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct events, ascending, and how often each occurs. It sorts the array in place."""
    events.sort()
    begins = np.flatnonzero(_is_new(events))
    return events[begins], np.diff(begins, append=len(events))


def _sums(ascending: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct numbers, and the sum of the weights of each, added up in their order."""
    distinct, numbers = _distinct(ascending)
    return distinct, np.bincount(numbers, weights, minlength=len(distinct))


def _distinct(ascending: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct numbers, and the index of each number among them."""
    is_new = _is_new(ascending)
    return ascending[is_new], np.cumsum(is_new) - 1


def _is_new(ascending: np.ndarray) -> np.ndarray:
    is_new = np.ones(len(ascending), dtype=bool)
    np.not_equal(ascending[1:], ascending[:-1], out=is_new[1:])
    return is_new


class StoredPairs:
    """
    Pairs that are counted once and read several times. Those that are too many for memory are in temporary files,
    which are deleted with this object.

    Args:
        flat ([`FlatTargets`]):
            The targets.
        window (`int`):
            The largest distance (see [`count_pairs`]).
        max_in_memory (`int`, *optional*, defaults to `2**25`):
            Number of pairs that may stay in memory.
    """

    def __init__(self, flat: FlatTargets, window: int, max_in_memory: int = _PAIRS_IN_MEMORY) -> None:
        self._blocks: list[Pairs | Path] = []
        self._directory: tempfile.TemporaryDirectory | None = None
        num_kept = 0
        for pairs in count_pairs(flat, window):
            num_kept += len(pairs.targets)
            self._blocks.append(pairs if num_kept <= max_in_memory else self._write(pairs))

    def __iter__(self) -> Iterator[Pairs]:
        """Reads the pairs in the order in which [`count_pairs`] counts them."""
        for block in self._blocks:
            yield _read(block) if isinstance(block, Path) else block

    def _write(self, pairs: Pairs) -> Path:
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="pairs-")
        path = Path(self._directory.name) / f"{pairs.first_item}.npy"
        with path.open("wb") as file:
            for array in (np.array(pairs.first_item), pairs.offsets, pairs.targets, pairs.forward, pairs.backward):
                np.save(file, array)
        return path


def _read(path: Path) -> Pairs:
    with path.open("rb") as file:
        first_item, offsets, targets, forward, backward = (np.load(file) for _ in range(5))
    return Pairs(int(first_item), offsets, targets, forward, backward)


def _blocks(num_places: np.ndarray, reach: int, max_items: int) -> Iterator[tuple[int, int]]:
    """Yields the first item of each block, and the one behind its last. An item with many places has its own block."""
    limit = _EVENTS_PER_BLOCK // (2 * reach)
    first = size = 0
    for item, count in enumerate(num_places.tolist()):
        is_dense = _is_dense(count, reach, len(num_places))
        if item > first and (is_dense or size + count > limit or item - first == max_items):
            yield first, item
            first, size = item, 0
        size += count
        if is_dense:
            yield item, item + 1
            first, size = item + 1, 0
    if first < len(num_places):
        yield first, len(num_places)


def _is_dense(num_places: int, reach: int, num_items: int) -> bool:
    is_frequent = num_places > _MIN_DENSE and num_places * _DENSE_SHARE > num_items
    return is_frequent or num_places * 2 * reach > _EVENTS_PER_BLOCK


def _empty(first: int, num_these: int) -> Pairs:
    nothing = np.empty(0)
    return Pairs(first, np.zeros(num_these + 1, dtype=np.int64), nothing.astype(np.int32), nothing, nothing)
