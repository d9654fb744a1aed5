"""Recent popularity: how often each item was chosen in the days before a moment, as sparse counts by day."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Self

import numpy as np
from transformers.utils import logging

from .array_files import load_arrays, save_arrays
from .catalog import Catalog
from .moments import SECONDS_PER_DAY, as_moments, check_seconds, days_of
from .neighbors import check_first_items


logger = logging.get_logger(__name__)

_COUNTED = ("days", "known_days", "items", "counts")
_ARRAYS = {**dict.fromkeys(_COUNTED, np.dtype(np.int32)), "item_ids": np.dtype(np.int64)}


@dataclass(frozen=True, eq=False, repr=False)
class RecentPopularity:
    """
    Counts of interactions by day and item, from which the counts of the days before any moment follow. A day is a
    calendar day (UTC), written as the number of days since 1970. Only days and items with interactions are stored.

    Rows hold a user's first interactions only from the user's first target on. A recommender that was asked between
    the two did not have these interactions. So an interaction also has the day from which on it is known, and counts
    after this day only. Otherwise, an evaluation would learn from a user's early interactions that the user stayed.

    Args:
        days (`numpy.ndarray` of shape `(n,)`, int32):
            Days of the interactions, ascending.
        known_days (`numpy.ndarray` of shape `(n,)`, int32):
            The day from which on the interactions are known: their own, or a later one.
        items (`numpy.ndarray` of shape `(n,)`, int32):
            Catalog indices.
        counts (`numpy.ndarray` of shape `(n,)`, int32):
            Number of interactions with this day, this day of being known, and this item.
        item_ids (`numpy.ndarray` of shape `(num_items,)`, int64):
            The catalog's `id_numbers`. [`RecentPopularity.check_catalog`] compares them.

    Raises:
        TypeError: If an array has another dtype.
        ValueError: If nothing was counted, the shapes differ, the days do not ascend, an interaction is known before
            its day, an item is no index of the catalog, or a count is below 1.

    Example:
    ```python
    >>> recent = Popularity(catalog, window=7).fit(splits).recent
    >>> recent.counts_before(np.array([1_500_000_000]), window=7).shape
    (1, 448)
    ```
    """

    days: np.ndarray
    known_days: np.ndarray
    items: np.ndarray
    counts: np.ndarray
    item_ids: np.ndarray

    def __post_init__(self) -> None:
        for name, dtype in _ARRAYS.items():
            found = getattr(self, name).dtype
            if found != dtype:
                raise TypeError(f"`{name}` must be an array of {dtype}, got {found}. Convert it by `astype`.")
        shapes = [getattr(self, name).shape for name in _COUNTED]
        if len(self.days) == 0 or shapes != [(len(self.days),)] * len(_COUNTED):
            raise ValueError(
                f"`{'`, `'.join(_COUNTED)}` must be arrays of one length, at least 1, got the shapes {shapes}."
            )
        problems = {
            "`days` must ascend": np.diff(self.days, prepend=self.days[0]) < 0,
            "`known_days` must not lie before `days`": self.known_days < self.days,
            f"`items` must be catalog indices from 0 to {self.num_items - 1}": (
                (self.items < 0) | (self.items >= self.num_items)
            ),
            "`counts` must be at least 1": self.counts < 1,
        }
        for problem, is_bad in problems.items():
            if is_bad.any():
                entry = {name: int(getattr(self, name)[is_bad.argmax()]) for name in _COUNTED}
                raise ValueError(f"{problem}; entry {is_bad.argmax()} is {entry}.")

    def __repr__(self) -> str:
        first, last = np.array([self.days[0], self.days[-1]], dtype="datetime64[D]")
        return f"{type(self).__name__}({self.num_items} items, {self.counts.sum()} interactions, {first} to {last})"

    @classmethod
    def count(
        cls, items: np.ndarray, times: np.ndarray, item_ids: np.ndarray, known_at: np.ndarray | None = None
    ) -> Self:
        """
        Counts interactions.

        Args:
            items (`numpy.ndarray` of shape `(n,)`, integers):
                Catalog index of each interaction.
            times (`numpy.ndarray` of shape `(n,)`, integers):
                Their times, in whole seconds since 1970 UTC.
            item_ids (`numpy.ndarray` of shape `(num_items,)`, int64):
                The catalog's `id_numbers`.
            known_at (`numpy.ndarray` of shape `(n,)`, integers, *optional*):
                The time from which on each interaction is known. Its own time if not given.

        Returns:
            [`RecentPopularity`]

        Raises:
            ValueError: If there is no interaction, or a time is beyond the year 3000.
        """
        known_at = times if known_at is None else known_at
        check_seconds(times)
        check_seconds(known_at)
        keys = [days_of(times), days_of(known_at), items]
        order = np.lexsort(keys[::-1])
        is_first = np.ones(len(order), dtype=bool)
        is_first[1:] = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
        firsts = np.flatnonzero(is_first)
        counts = np.diff(firsts, append=len(order))
        days, known_days, counted = (key[order[firsts]].astype(np.int32) for key in keys)
        return cls(days, known_days, counted, counts.astype(np.int32), item_ids)

    @property
    def num_items(self) -> int:
        """Number of items that were counted: the first ones of the catalog."""
        return len(self.item_ids)

    @property
    def end_time(self) -> int:
        """The beginning of the day after the last counted one, in seconds since 1970 UTC."""
        return (int(self.known_days.max()) + 1) * SECONDS_PER_DAY

    def counts_before(self, times: np.ndarray, window: int, num_items: int | None = None) -> np.ndarray:
        """
        Counts the interactions with each item in the whole days before some moments. The day of a moment is never
        counted, so nothing that happens after the moment can change its counts. A warning says so, once, if all of
        these days lie after the counted ones.

        Args:
            times (`numpy.ndarray` of shape `(B,)`, integers):
                The moments, in whole seconds since 1970 UTC.
            window (`int`):
                Number of days.
            num_items (`int`, *optional*):
                Number of items of the catalog. By default the counted ones. Further items get the count 0.

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, float64, in catalog order.

        Raises:
            TypeError: If `window` or a moment is no whole number.
            ValueError: If `window` is below 1, `num_items` is lower than the number of counted items, or a moment is
                beyond the year 3000.
        """
        check_window(window)
        width = self.num_items if num_items is None else num_items
        if width < self.num_items:
            raise ValueError(f"`num_items` must be at least {self.num_items}, the counted items, got {num_items}.")
        distinct, rows = np.unique(days_of(as_moments(times, len(times))), return_inverse=True)
        if len(distinct) > 0 and (distinct[-1] - window) * SECONDS_PER_DAY >= self.end_time:
            last_day = np.datetime64(self.end_time // SECONDS_PER_DAY - 1, "D")
            logger.warning_once(
                f"Recent popularity: the counts end with {last_day} (UTC), and are asked for moments more than "
                f"{window} days later. Nothing was counted in the {window} days before these moments, so all items "
                f"are equally popular there. Fit `Popularity(catalog, window={window})` on all interactions up to "
                "that moment: in an evaluation on all splits, in use on the log until now. `fit_fusion` takes it as "
                "`popularity`."
            )
        counts = np.empty((len(distinct), width))
        for row, day in enumerate(distinct.tolist()):
            part = slice(*np.searchsorted(self.days, [day - window, day]))
            weights = np.where(self.known_days[part] < day, self.counts[part], 0)
            counts[row] = np.bincount(self.items[part], weights, minlength=width)
        return counts[rows]

    def check_catalog(self, catalog: Catalog) -> None:
        """
        Checks that the counted indices mean the same items in a catalog. The catalog may have new items at its end.

        Args:
            catalog ([`Catalog`]):
                The catalog whose indices are to be read.

        Raises:
            ValueError: If the catalog lacks a counted item, or has it at another place.
        """
        mend = (
            "Use the catalog for which the interactions were counted, with new items at its end only "
            "(`Catalog.with_items`), or count them anew (`Popularity.fit`)."
        )
        check_first_items(self.item_ids, catalog, "the recent popularity", mend)

    def save(self, path: str | os.PathLike) -> None:
        """
        Writes the counts as one safetensors file, with the format version in its metadata.

        Args:
            path (`str` or `os.PathLike`):
                The file. Its directory is made if there is none.
        """
        save_arrays(path, {name: getattr(self, name) for name in _ARRAYS}, {})

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """
        Reads a file that [`RecentPopularity.save`] wrote.

        Args:
            path (`str` or `os.PathLike`):
                The file.

        Returns:
            [`RecentPopularity`]

        Raises:
            ValueError: If a newer version of the library wrote the file, or it holds no such counts.
        """
        arrays, _ = load_arrays(path, "recent popularity", _ARRAYS)
        return cls(**arrays)


def check_window(window: int) -> None:
    """
    Checks a number of days.

    Raises:
        TypeError: If it is no whole number.
        ValueError: If it is below 1.
    """
    if isinstance(window, bool) or not isinstance(window, int | np.integer):
        raise TypeError(f"`window` must be a whole number of days, such as 7, got {window!r}.")
    if window < 1:
        raise ValueError(f"`window` must be at least 1 day, got {window}.")
