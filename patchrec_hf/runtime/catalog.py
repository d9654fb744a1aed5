"""The catalog: items with their ids and titles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl

from .ids import as_ids, id_numbers, is_text, name_nearest


_NAMED_CHARACTERS = 60
"""Number of characters of a title that an error shows."""


@dataclass(frozen=True, eq=False, repr=False)
class Catalog:
    """
    The items that can be recommended. An item's *index* is its position in the catalog. Its *id* comes from the data
    set: a whole number, or a text.

    Args:
        item_ids (`numpy.ndarray` of shape `(num_items,)`, or a sequence of ids):
            Item ids of the data set: all of them whole numbers, or all of them texts. Each id appears once. They are
            kept as an int64 array, or as an object array of `str`.
        titles (`tuple[str, ...]`):
            One title per item, in the order of `item_ids`. Two items may share a title.

    Raises:
        TypeError: If an id is neither a whole number nor a text, or ids are of both kinds.
        ValueError: If an id appears twice, a title is empty, or the numbers of ids and titles differ.

    Example:
    ```python
    >>> catalog = Catalog.from_titles({"B-17": "Emma", "B-09": "Persuasion"})
    >>> catalog.indices_of(["B-09"])
    array([1])
    ```
    """

    item_ids: np.ndarray
    titles: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "item_ids", as_ids(self.item_ids))
        if len(self.item_ids) != len(self.titles):
            raise ValueError(
                f"A catalog needs one title per item id, got {len(self.item_ids)} ids and {len(self.titles)} titles."
            )
        if len(self.titles) == 0:
            raise ValueError("A catalog needs at least one item, got none.")
        if _num_distinct(self.item_ids) != len(self.item_ids):
            unique, counts = np.unique(self.item_ids, return_counts=True)
            raise ValueError(
                f"Item id {unique[counts > 1][0]} appears {counts[counts > 1][0]} times in the catalog; "
                "each id may appear once. Drop the repeated rows of the items table."
            )
        if not _are_titles(self.titles):
            for item_id, title in zip(self.item_ids, self.titles, strict=True):
                if not isinstance(title, str) or not title.strip():
                    raise ValueError(
                        f"Item {item_id} has an empty title ({title!r}). The model reads an item as its title: give "
                        "it one, or leave the item out."
                    )

    @classmethod
    def from_titles(cls, titles: Mapping[int, str] | Mapping[str, str]) -> Catalog:
        """Builds a catalog from a mapping of item id (a whole number or a text) to title."""
        return cls(as_ids(titles), tuple(titles.values()))

    @classmethod
    def from_frame(cls, items: Any) -> Catalog:
        """
        Builds a catalog from a frame.

        Args:
            items (`polars.DataFrame`, or a frame of pandas or Arrow):
                The columns `item_id` (whole numbers or texts) and `title` (texts).

        Raises:
            TypeError: If ids are of several kinds.
            ValueError: If a column is missing, an id is missing, repeated or of another kind, or a title is empty.
        """
        items = pl.DataFrame(items)
        for column in ("item_id", "title"):
            if column not in items.columns:
                raise ValueError(f"The items table has no column {column!r}; its columns are {items.columns}.")
        ids = items["item_id"]
        if ids.dtype in (pl.Categorical, pl.Enum):
            ids = ids.cast(pl.String)
        if ids.null_count() or not (ids.dtype.is_integer() or ids.dtype == pl.String):
            raise ValueError(
                f"`item_id` must hold whole numbers or texts without nulls, got {ids.dtype} with {ids.null_count()} "
                "nulls. Give each item an id."
            )
        return cls(ids.to_numpy(), tuple(items["title"].to_list()))

    @classmethod
    def from_parquet(cls, path: str | Path) -> Catalog:
        """Reads a catalog from a Parquet file with the columns `item_id` and `title`."""
        return cls.from_frame(pl.read_parquet(path))

    def to_parquet(self, path: str | Path) -> None:
        """Writes the catalog as a Parquet file that [`Catalog.from_parquet`] reads."""
        pl.DataFrame({"item_id": self.item_ids.tolist(), "title": list(self.titles)}).write_parquet(path)

    def with_items(self, titles: Mapping[int, str] | Mapping[str, str]) -> Catalog:
        """
        Returns a catalog with these items, followed by new ones. Items that the catalog has already, with the same
        titles, stay where they are.

        Args:
            titles (`Mapping[int, str]` or `Mapping[str, str]`):
                The new items: item id to title.

        Raises:
            TypeError: If the new ids are texts and the catalog's are whole numbers, or the reverse.
            ValueError: If an id is already in the catalog with another title, or a title is empty.
        """
        if len(titles) == 0:
            return self
        present = dict(zip(self.item_ids.tolist(), self.titles, strict=True))
        new_titles: dict[Any, str] = {
            item_id: title for item_id, title in titles.items() if present.get(item_id) != title
        }
        if not new_titles:
            return self
        new_items = Catalog.from_titles(new_titles)
        self._check_kind(new_items.item_ids)
        taken = np.intersect1d(self.item_ids, new_items.item_ids)
        if len(taken) > 0:
            free = "Choose another id" if self.has_text_ids else f"Number new items from {self.item_ids.max() + 1} on"
            raise ValueError(f"Item id {taken[0]!s} is taken by {present[taken[0]]!r}. {free}.")
        return Catalog(np.concatenate([self.item_ids, new_items.item_ids]), (*self.titles, *new_items.titles))

    def __repr__(self) -> str:
        first = ", ".join(map(repr, self.titles[:3]))
        return f"Catalog({len(self)} items: {first}{', …' if len(self) > 3 else ''})"

    def __len__(self) -> int:
        return len(self.titles)

    @property
    def has_text_ids(self) -> bool:
        """Whether the item ids are texts."""
        return is_text(self.item_ids)

    @cached_property
    def id_numbers(self) -> np.ndarray:
        """The item ids as whole numbers, int64 of shape `(num_items,)` (see [`id_numbers`])."""
        return id_numbers(self.item_ids)

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.item_ids, kind="stable")

    @cached_property
    def _indices_by_text_id(self) -> dict[str, int]:
        return {item_id: index for index, item_id in enumerate(self.item_ids.tolist())}

    @cached_property
    def _indices_by_title(self) -> dict[str, list[int]]:
        indices: dict[str, list[int]] = {}
        for index, title in enumerate(self.titles):
            indices.setdefault(title, []).append(index)
        return indices

    def __contains__(self, item_id: object) -> bool:
        if self.has_text_ids:
            return isinstance(item_id, str) and item_id in self._indices_by_text_id
        if not isinstance(item_id, (int, np.integer)):
            return False
        place = min(int(np.searchsorted(self.item_ids, item_id, sorter=self._order)), len(self) - 1)
        return bool(self.item_ids[self._order[place]] == item_id)

    def indices_of(self, item_ids: Sequence[int | str] | np.ndarray) -> np.ndarray:
        """
        Turns item ids into catalog indices.

        Args:
            item_ids (`Sequence[int | str]` or `numpy.ndarray`):
                Item ids of the data set.

        Returns:
            `numpy.ndarray` of int64, one index per id.

        Raises:
            KeyError: If an id is not in the catalog.
            TypeError: If the ids are not of the catalog's kind (whole numbers or texts).
        """
        ids = as_ids(item_ids)
        if len(ids) == 0:
            return np.empty(0, dtype=np.int64)
        self._check_kind(ids)
        # A worker is forked from a process that has used polars, and would wait forever for polars' threads. So the
        # lookup does without polars.
        if self.has_text_ids:
            indices_by_id = self._indices_by_text_id
            indices = np.fromiter((indices_by_id.get(item_id, -1) for item_id in ids), np.int64, len(ids))
            is_unknown = indices < 0
        else:
            indices = self._order[np.searchsorted(self.item_ids, ids, sorter=self._order).clip(max=len(self) - 1)]
            is_unknown = self.item_ids[indices] != ids
        if is_unknown.any():
            raise KeyError(
                f"Item id {ids[is_unknown][0]!s} is not in the catalog of {len(self)} items."
                f"{self.name_nearest_ids(ids[is_unknown][0])} Add it to the items table (`Catalog.with_items`), or "
                "drop the interactions that name it."
            )
        return indices

    def _check_kind(self, ids: np.ndarray) -> None:
        """Checks that ids are of the catalog's kind."""
        if is_text(ids) != self.has_text_ids:
            kinds = ("whole numbers", "texts")
            raise TypeError(
                f"The catalog's item ids are {kinds[self.has_text_ids]}, such as {self.item_ids.tolist()[0]!r}, but "
                f"{ids.tolist()[0]!r} is not. Name items by their ids in the catalog."
            )

    def name_nearest_ids(self, text: str) -> str:
        """Returns a sentence that names the ids that are spelled most like a text, if the catalog's ids are texts."""
        return name_nearest("ids", text, self.item_ids.tolist()) if self.has_text_ids else ""

    def name_item(self, index: int) -> str:
        """Returns the id of the item with a catalog index and the beginning of its title, for an error message."""
        (item_id,), title = self.item_ids[[index]].tolist(), self.titles[index]
        shown = title if len(title) <= _NAMED_CHARACTERS else f"{title[:_NAMED_CHARACTERS].rstrip()}…"
        return f"item {item_id!r}, {shown!r}"

    def check_same_titles(self, other: Catalog) -> None:
        """
        Checks that an item id that is in both catalogs has the same title in both.

        Raises:
            ValueError: If an id has two titles, so that it names different items.
        """
        titles = dict(zip(other.item_ids.tolist(), other.titles, strict=True))
        for item_id, title in zip(self.item_ids.tolist(), self.titles, strict=True):
            if titles.get(item_id, title) != title:
                raise ValueError(
                    f"Item {item_id} is {title!r} in one catalog and {titles[item_id]!r} in the other. The "
                    "catalogs belong to different data sets."
                )

    def indices_of_title(self, title: str) -> list[int]:
        """Returns the catalog indices of all items with exactly this title; an empty list if there are none."""
        return self._indices_by_title.get(title, [])

    def num_shared_titles(self) -> int:
        """Number of items that share their title with another item."""
        return sum(len(indices) for indices in self._indices_by_title.values() if len(indices) > 1)


def check_learned_items(
    catalog: Catalog, learned: np.ndarray, in_order: bool = True, learned_ids: np.ndarray | None = None
) -> None:
    """
    Checks that a catalog holds all items for which a model has learned something.

    Args:
        catalog ([`Catalog`]):
            The catalog.
        learned (`numpy.ndarray` of shape `(n,)`, int64):
            The items that the model knows, as numbers (see [`id_numbers`]).
        in_order (`bool`, *optional*, defaults to `True`):
            Whether the catalog must begin with these items, in their order.
        learned_ids (`numpy.ndarray` of shape `(n,)`, *optional*):
            The ids of these items, for the error message.

    Raises:
        ValueError: If the catalog lacks an item, or has another order.
    """
    if np.array_equal(catalog.id_numbers[: len(learned)], learned):  # at once, also for a million items
        return
    is_lost = ~np.isin(learned, catalog.id_numbers)
    if is_lost.any():
        ids = learned if learned_ids is None and not catalog.has_text_ids else learned_ids
        lost = [] if ids is None else ids[is_lost].tolist()
        named = f": {', '.join(map(str, lost[:5]))}{', …' if len(lost) > 5 else ''}" if lost else ""
        raise ValueError(
            f"The catalog of {len(catalog)} items lacks {is_lost.sum()} of the {len(learned)} items that the model "
            f"has learned{named}. Keep them in the catalog, and pass `candidates` to recommend other items only."
        )
    if in_order:
        raise ValueError(
            "The catalog holds the items that the model has learned, but in another order, so their numbers would be "
            "mixed up. Use the checkpoint's processor with `processor.with_catalog(catalog)`, which keeps the order."
        )


def _num_distinct(ids: np.ndarray) -> int:
    """Number of different ids, at least one. Texts are hashed, because sorting a million of them takes seconds."""
    return len(set(ids.tolist())) if is_text(ids) else 1 + int(np.count_nonzero(np.diff(np.sort(ids))))


def _are_titles(titles: Sequence[object]) -> bool:
    """Whether all titles are plain texts that are not blank; found without a loop of Python over the titles."""
    return set(map(type, titles)) == {str} and all(map(str.strip, cast(Sequence[str], titles)))
