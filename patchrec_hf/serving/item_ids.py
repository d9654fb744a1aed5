"""Item ids of requests: looks them up in the catalog, also those that a path holds as text."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from ..runtime.catalog import Catalog


MAX_SHOWN = 80


class UnknownItemError(Exception):
    """
    A request names an item that the catalog lacks.

    Args:
        where (`str`):
            Where the request names it.
        item_id (`int` or `str`):
            The id.
    """

    def __init__(self, where: str, item_id: int | str) -> None:
        super().__init__(where, item_id)
        self.where, self.item_id = where, item_id


class ItemIds:
    """
    The ids of a catalog. A lookup costs the same for any catalog, so that it can stand in a route.

    Args:
        catalog ([`Catalog`]):
            The catalog.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._ids = catalog.item_ids.tolist()
        self._indices = {item_id: index for index, item_id in enumerate(self._ids)}
        self._sorted_numbers = [] if catalog.has_text_ids else sorted(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def has_text_ids(self) -> bool:
        """Whether the ids are texts."""
        return self._catalog.has_text_ids

    @property
    def first(self) -> list[int | str]:
        """The first three ids, as examples."""
        return self._ids[:3]

    def check(self, item_ids: Sequence[int | str], where: str) -> None:
        """
        Checks that the catalog has all ids of a request.

        Args:
            item_ids (`Sequence[int | str]`):
                The ids.
            where (`str`):
                Where the request has them, such as `"history"`.

        Raises:
            UnknownItemError: If it lacks one. `describe` says more, which takes longer.
        """
        for place, item_id in enumerate(item_ids):
            if item_id not in self._indices:
                raise UnknownItemError(f"{where}[{place}]", item_id)

    def from_path(self, text: str) -> int | str:
        """
        Reads an item id in a path. Everything in a path is text, so the catalog decides: if its ids are whole numbers,
        "17" is the number 17.

        Raises:
            UnknownItemError: If the catalog lacks the id.
        """
        item_id: int | str = text
        if not self.has_text_ids and len(text) <= 20 and text.removeprefix("-").isascii():
            digits = text.removeprefix("-")
            if digits.isdigit() and str(int(text)) == text:
                item_id = int(text)
        if item_id not in self._indices:
            raise UnknownItemError("path", item_id)
        return item_id

    def known_indices(self, item_ids: Sequence[int | str]) -> np.ndarray:
        """
        Returns the catalog indices of stored items, in their order; -1 for an item that has left the catalog.

        Returns:
            `numpy.ndarray` of shape `(n,)`, int64.
        """
        return np.fromiter((self._indices.get(item_id, -1) for item_id in item_ids), np.int64, len(item_ids))

    def describe(self, error: UnknownItemError) -> str:
        """
        Returns the sentences that say that an item is unknown, with the nearest ids. Among texts, all are compared,
        which takes long in a large catalog.
        """
        item_id, num_items = error.item_id, len(self)
        shown = repr(item_id) if len(str(item_id)) <= MAX_SHOWN else f"{str(item_id)[:MAX_SHOWN]!r}…"
        if isinstance(item_id, str) == self.has_text_ids:
            near = self._nearest_numbers(item_id) if isinstance(item_id, int) else self._nearest_texts(item_id)
            return f"{shown} is not in the catalog of {num_items} items.{near}"
        if self.has_text_ids:
            near = self._nearest_texts(str(item_id))
            return f"{shown} is a number, and the ids of this catalog are texts, such as {self._ids[0]!r}.{near}"
        named = self._catalog.indices_of_title(str(item_id))
        hint = f" It is the title of item {self._ids[named[0]]}." if named else ""
        return f"{shown} is a text, and the ids of this catalog are whole numbers, such as {self._ids[0]}.{hint}"

    def _nearest_texts(self, text: str) -> str:
        return self._catalog.name_nearest_ids(text[:MAX_SHOWN])

    def _nearest_numbers(self, number: int) -> str:
        place = bisect_left(self._sorted_numbers, number)
        nearest = self._sorted_numbers[max(0, place - 1) : place + 1]
        return f" The nearest {'ids are' if len(nearest) > 1 else 'id is'} {' and '.join(map(str, nearest))}."
