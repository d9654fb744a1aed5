"""Neighbors: how strongly each item recommends others, as a sparse table that a checkpoint can carry."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from safetensors import safe_open

from .array_files import load_arrays, save_arrays
from .catalog import Catalog
from .title_tokens import ragged_arange


_ENTRIES_PER_BLOCK = 2**18
"""Number of scores that are added up at once, which bounds the memory."""
_LONG_ROW = 256
"""Rows of more values are not sorted to find their largest ones."""

_CELLS_PER_VALUE = 8
"""Number of cells for each value up to which values are counted into all cells, instead of sorted by cell."""

_ARRAYS = {
    "offsets": (np.dtype(np.int64),),
    "targets": (np.dtype(np.int32), np.dtype(np.int64)),
    "values": (np.dtype(np.float32),),
    "item_ids": (np.dtype(np.int64),),
}


@dataclass(frozen=True, eq=False, repr=False)
class NeighborTable:
    """
    Scores from item to item, such as the co-visitation counts of [`~patchrec_hf.baselines.CoVisitation`]. Only pairs
    with a score are stored, in the compressed sparse row format (CSR): item `i` gives the items
    `targets[offsets[i] : offsets[i + 1]]` the scores in the same slice of `values`. All items are catalog indices.

    Args:
        offsets (`numpy.ndarray` of shape `(num_items + 1,)`, int64):
            Start of each item's slice of `targets` and `values`, then the end of the last slice.
        targets (`numpy.ndarray` of shape `(num_scores,)`, int32 or int64):
            Catalog indices of the items that get a score. They ascend in each slice.
        values (`numpy.ndarray` of shape `(num_scores,)`, float32):
            The scores.
        item_ids (`numpy.ndarray` of shape `(num_items,)`, int64):
            The catalog's `id_numbers`. [`NeighborTable.check_catalog`] compares them.
        decay (`float`):
            Weight of an item of a history, relative to the item after it.
        num_history_items (`int`):
            Number of latest items of a history that count.

    Raises:
        TypeError: If an array has another dtype.
        ValueError: If the shapes do not fit, the offsets do not ascend from 0 to the number of scores, a target is no
            index of the catalog, or the targets of an item do not ascend.

    Example:
    ```python
    >>> table = CoVisitation(catalog).fit(splits["train"]).table
    >>> table.scores([catalog.indices_of([7, 9])]).shape
    (1, 448)
    ```
    """

    offsets: np.ndarray
    targets: np.ndarray
    values: np.ndarray
    item_ids: np.ndarray
    decay: float
    num_history_items: int

    def __post_init__(self) -> None:
        for name, dtypes in _ARRAYS.items():
            array = getattr(self, name)
            if array.dtype not in dtypes:
                expected = " or ".join(map(str, dtypes))
                raise TypeError(f"`{name}` must be an array of {expected}, got {array.dtype}. Convert it by `astype`.")
        shapes = [self.offsets.shape, self.targets.shape, self.item_ids.shape]
        if shapes != [(self.num_items + 1,), (len(self.values),), (self.num_items,)]:
            raise ValueError(
                f"A table of {self.num_items} items and {len(self.values)} values needs {self.num_items + 1} offsets "
                f"and {len(self.values)} targets, got arrays of the shapes {self.offsets.shape} and "
                f"{self.targets.shape}."
            )
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.values) or (np.diff(self.offsets) < 0).any():
            raise ValueError(
                f"`offsets` must ascend from 0 to the number of scores, {len(self.values)}; they begin with "
                f"{self.offsets[0]}, end with {self.offsets[-1]}, or descend in between."
            )
        is_outside = (self.targets < 0) | (self.targets >= self.num_items)
        if is_outside.any():
            raise ValueError(
                f"`targets` must be catalog indices from 0 to {self.num_items - 1}, got {self.targets[is_outside][0]}."
            )
        descends = np.diff(self.targets, prepend=-1) <= 0
        descends[self.offsets[:-1][np.diff(self.offsets) > 0]] = False  # the first of each slice follows nothing
        if descends.any():
            item = np.searchsorted(self.offsets, np.flatnonzero(descends)[0], side="right") - 1
            raise ValueError(
                f"The targets of each item must ascend, and each may appear once; the targets of index {item} do not. "
                "Sort them and their values, and add up repeated ones."
            )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({len(self.item_ids)} items, {len(self.values)} scores, decay={self.decay}, "
            f"num_history_items={self.num_history_items})"
        )

    @property
    def num_items(self) -> int:
        """Number of items that the table knows: the first ones of the catalog."""
        return len(self.item_ids)

    def scores(self, histories: Sequence[np.ndarray], num_items: int | None = None) -> np.ndarray:
        """
        Scores every item for every history. A score is the sum of what the latest `num_history_items` items
        of the history give to the item. Each of them counts `decay` times as much as the item after it.

        Args:
            histories (`Sequence[numpy.ndarray]`):
                Catalog indices (whole numbers), oldest first. The table skips indices of `num_items` and above, such
                as new items, as if the history did not hold them. A history may be empty.
            num_items (`int`, *optional*):
                Number of items of the catalog. By default the table's. Further items get the score 0.

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, float64, in catalog order. A history of which the table knows no
            item has the score 0 for all items.

        Raises:
            TypeError: If a history is no list of whole numbers.
            ValueError: If an index is negative, or `num_items` is lower than the table's.
        """
        width = self.num_items if num_items is None else num_items
        if width < self.num_items:
            raise ValueError(
                f"`num_items` must be at least {self.num_items}, the number of items of the table, got {num_items}."
            )
        rows, sources, ages = self._latest(histories)
        weights = self.decay**ages
        lengths = np.diff(self.offsets)[sources]
        # Blocks of rows. A row that is larger than a block has a block of its own.
        sizes = np.bincount(rows, lengths, minlength=len(histories)) + self.num_items
        bounds = np.flatnonzero(np.diff(np.cumsum(sizes) // _ENTRIES_PER_BLOCK, prepend=-1, append=np.inf)).tolist()
        scores = np.zeros((len(histories), width))
        for start, stop in pairwise(bounds):
            part = slice(*np.searchsorted(rows, [start, stop]))
            scores[start:stop, : self.num_items] = self._weighted_sums(
                rows[part] - start, sources[part], weights[part], stop - start
            )
        return scores

    def sparse_scores(self, histories: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Scores items as [`NeighborTable.scores`] does, and lists only the pairs with a score.

        Args:
            histories (`Sequence[numpy.ndarray]`):
                Catalog indices, oldest first.

        Returns:
            `tuple` of three arrays of one length: the number of the history (ascending), the item, and the score
            (float64).

        Raises:
            TypeError, ValueError: As [`NeighborTable.scores`] does.
        """
        rows, sources, ages = self._latest(histories)
        lengths = np.diff(self.offsets)[sources]
        entries = np.repeat(self.offsets[sources], lengths) + ragged_arange(lengths)
        cells = np.repeat(rows * self.num_items, lengths) + self.targets[entries]
        values = self.values[entries] * np.repeat(self.decay**ages, lengths)
        distinct, sums = sum_by_cell(cells, values)
        return *np.divmod(distinct, self.num_items), sums

    def _latest(self, histories: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the items that count, of all histories: the history's number, the item's index, and its age."""
        arrays = [np.asarray(history) for history in histories]
        for array in arrays:
            if array.ndim != 1 or (array.size > 0 and array.dtype.kind not in "iu"):
                raise TypeError(f"A history is a list of catalog indices, got {array!r}.")
        lengths = np.fromiter(map(len, arrays), dtype=np.int64, count=len(arrays))
        items = np.concatenate([np.empty(0, dtype=np.int64), *(array.astype(np.int64) for array in arrays)])
        if (items < 0).any():
            raise ValueError(f"Catalog indices begin with 0, got {items[items < 0][0]}.")
        rows, is_known = np.repeat(np.arange(len(arrays)), lengths), items < self.num_items
        rows, items = rows[is_known], items[is_known]
        lengths = np.bincount(rows, minlength=len(arrays))
        ages = np.repeat(np.cumsum(lengths), lengths) - 1 - np.arange(len(items))
        is_late = ages < self.num_history_items
        return rows[is_late], items[is_late], ages[is_late]

    def _weighted_sums(self, rows: np.ndarray, sources: np.ndarray, weights: np.ndarray, num_rows: int) -> np.ndarray:
        """Returns the weighted sums of the sources' scores for each row, shape `(num_rows, num_items)`."""
        lengths = np.diff(self.offsets)[sources]
        entries = np.repeat(self.offsets[sources], lengths) + ragged_arange(lengths)
        cells = np.repeat(rows * self.num_items, lengths) + self.targets[entries]
        sums = np.bincount(
            cells, self.values[entries] * np.repeat(weights, lengths), minlength=num_rows * self.num_items
        )
        return sums.reshape(num_rows, self.num_items)

    def strongest(self, max_neighbors: int) -> NeighborTable:
        """
        Returns a table that keeps only the largest scores of each item. It bounds the size for large catalogs.

        Args:
            max_neighbors (`int`):
                Number of scores that each item keeps at most. Among equal scores, the lower catalog indices stay.

        Returns:
            [`NeighborTable`] of at most `max_neighbors * num_items` scores, 8 bytes each with int32 targets.

        Raises:
            ValueError: If `max_neighbors` is below 1.
        """
        offsets, targets, values = strongest_scores(self.offsets, self.targets, self.values, max_neighbors)
        return self if values is self.values else replace(self, offsets=offsets, targets=targets, values=values)

    def check_catalog(self, catalog: Catalog) -> None:
        """
        Checks that the table's indices mean the same items in a catalog. The catalog may have new items at its end.

        Args:
            catalog ([`Catalog`]):
                The catalog whose indices the table is to read.

        Raises:
            ValueError: If the catalog lacks an item of the table, or has it at another place.
        """
        mend = (
            "Use the catalog for which the pairs were counted, with new items at its end only (`Catalog.with_items`), "
            "or count the pairs anew (`CoVisitation.fit`)."
        )
        check_first_items(self.item_ids, catalog, "the table of neighbors", mend)

    def save(self, path: str | os.PathLike, **settings: Any) -> None:
        """
        Writes the table as one safetensors file, with the format version in its metadata.

        Args:
            path (`str` or `os.PathLike`):
                The file. Its directory is made if there is none.
            **settings:
                JSON-ready values to keep in the metadata (see [`NeighborTable.settings_of`]).
        """
        counting = {"decay": self.decay, "num_history_items": self.num_history_items}
        texts = {
            name: json.dumps(values, default=lambda number: number.item())  # json knows no numbers of NumPy
            for name, values in (("counting", counting), ("settings", settings))
        }
        save_arrays(path, {name: getattr(self, name) for name in _ARRAYS}, texts)

    @classmethod
    def load(cls, path: str | os.PathLike) -> NeighborTable:
        """
        Reads a file that [`NeighborTable.save`] wrote.

        Args:
            path (`str` or `os.PathLike`):
                The file.

        Returns:
            [`NeighborTable`]

        Raises:
            ValueError: If a newer version of the library wrote the file, or it holds no such table.
        """
        arrays, texts = load_arrays(path, "table of neighbors", _ARRAYS, ["counting"])
        counting: dict[str, Any] = json.loads(texts["counting"])
        return cls(**{**arrays, **counting})

    @staticmethod
    def settings_of(path: str | os.PathLike) -> dict[str, Any]:
        """Returns the settings that [`NeighborTable.save`] kept in a file's metadata."""
        with safe_open(path, framework="numpy") as file:
            return json.loads((file.metadata() or {}).get("settings", "{}"))


def check_first_items(item_ids: np.ndarray, catalog: Catalog, name: str, mend: str) -> None:
    """
    Checks that a catalog begins with the items for which something was counted.

    Args:
        item_ids (`numpy.ndarray` of shape `(num_items,)`, int64):
            The `id_numbers` of the catalog for which it was counted.
        catalog ([`Catalog`]):
            The catalog to check. It may have further items at its end.
        name, mend (`str`):
            Name of the counts and the way to mend them, for the error message.

    Raises:
        ValueError: If the catalog lacks an item, or has it at another place.
    """
    numbers = catalog.id_numbers
    if np.array_equal(numbers[: len(item_ids)], item_ids):
        return
    lost = item_ids[~np.isin(item_ids, numbers)]
    if len(lost) > 0:
        named = "" if catalog.has_text_ids else f", such as item {lost[0]}"
        raise ValueError(f"The catalog lacks {len(lost)} of the {len(item_ids)} items of {name}{named}. {mend}")
    index = int(np.flatnonzero(numbers[: len(item_ids)] != item_ids)[0])
    place = int(np.flatnonzero(numbers == item_ids[index])[0])
    raise ValueError(
        f"Item {catalog.item_ids[place]} ({catalog.titles[place]!r}) has the index {index} in {name}, but {place} in "
        f"the catalog. {mend}"
    )


def sum_by_cell(cells: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct `cells` (at least 0), ascending, and the sum of each cell's values (float64)."""
    if len(cells) > 0 and cells.max() < _CELLS_PER_VALUE * len(cells):  # so few cells are counted faster than sorted
        of_cells = np.bincount(cells, values)
        is_named = np.zeros(len(of_cells), dtype=bool)
        is_named[cells] = True
        distinct = np.flatnonzero(is_named)
        return distinct, of_cells[distinct]
    order = np.argsort(cells, kind="stable")
    firsts = np.flatnonzero(np.diff(cells[order], prepend=-1))
    sums = np.add.reduceat(values[order].astype(np.float64), firsts) if len(order) > 0 else np.empty(0)
    return cells[order][firsts], sums


def is_among_largest(rows: np.ndarray, values: np.ndarray, number: int) -> np.ndarray:
    """
    Returns whether each value is among the `number` largest of its row. `rows` ascends. Among equal values, the first
    ones count as larger.
    """
    starts = np.flatnonzero(np.diff(rows, prepend=-1, append=-1))
    is_large = np.empty(len(rows), dtype=bool)
    lengths = np.diff(starts)
    is_long = lengths > max(_LONG_ROW, number)
    for start, stop in zip(starts[:-1][is_long].tolist(), starts[1:][is_long].tolist(), strict=True):
        is_large[start:stop] = _are_largest(values[start:stop], number)
    rest = np.flatnonzero(np.repeat(~is_long, lengths)) if is_long.any() else np.arange(len(rows))
    order = rest[np.lexsort((-values[rest], rows[rest]))]  # stable
    is_large[order] = ragged_arange(lengths[~is_long]) < number
    return is_large


def _are_largest(values: np.ndarray, number: int) -> np.ndarray:
    """As [`is_among_largest`] for one row of more than `number` values, without sorting them."""
    limit = np.partition(values, -number)[-number]
    is_large = values > limit
    is_large[np.flatnonzero(values == limit)[: number - np.count_nonzero(is_large)]] = True
    return is_large


def strongest_scores(
    offsets: np.ndarray, targets: np.ndarray, values: np.ndarray, max_neighbors: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Keeps only the largest scores of each item.

    Args:
        offsets, targets, values (`numpy.ndarray`):
            Scores as in [`NeighborTable`], of all items or of some.
        max_neighbors (`int`):
            Number of scores that each item keeps at most. Among equal scores, those that come first stay.

    Returns:
        `tuple` of offsets, targets and values.

    Raises:
        ValueError: If `max_neighbors` is below 1.
    """
    check_max_neighbors(max_neighbors)
    all_lengths = np.diff(offsets)
    long_items = np.flatnonzero(all_lengths > max_neighbors)
    if len(long_items) == 0:
        return offsets, targets, values
    lengths = all_lengths[long_items]
    entries = np.repeat(offsets[long_items], lengths) + ragged_arange(lengths)
    is_kept = np.ones(len(values), dtype=bool)
    is_kept[entries] = is_among_largest(np.repeat(long_items, lengths), values[entries], max_neighbors)
    kept_offsets = np.concatenate([[0], np.cumsum(np.minimum(all_lengths, max_neighbors))])
    return kept_offsets, targets[is_kept], values[is_kept]


def check_max_neighbors(max_neighbors: int) -> None:
    """
    Checks the number of scores that each item of a table may keep.

    Raises:
        ValueError: If it is below 1.
    """
    if max_neighbors < 1:
        raise ValueError(f"`max_neighbors` must be at least 1, got {max_neighbors}. By default all scores are kept.")
