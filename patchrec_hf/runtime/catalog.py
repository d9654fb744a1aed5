"""The catalog: items with their ids and titles, and the titles as token ids."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False, repr=False)
class Catalog:
    """
    The items that can be recommended. An item's *index* is its position in the catalog. Its *id* comes from the data
    set.

    Args:
        item_ids (`numpy.ndarray` of shape `(num_items,)`, int64):
            Item ids of the data set. Each id appears once.
        titles (`tuple[str, ...]`):
            One title per item, in the order of `item_ids`. Two items may share a title.

    Raises:
        ValueError: If an id appears twice, a title is empty, or the numbers of ids and titles differ.

    Example:
    ```python
    >>> catalog = Catalog.from_titles({7: "Emma", 9: "Persuasion"})
    >>> catalog.indices_of([9])
    array([1])
    ```
    """

    item_ids: np.ndarray
    titles: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.item_ids) != len(self.titles):
            raise ValueError(
                f"A catalog needs one title per item id, got {len(self.item_ids)} ids and {len(self.titles)} titles."
            )
        if len(self.titles) == 0:
            raise ValueError("A catalog needs at least one item, got none.")
        unique, counts = np.unique(self.item_ids, return_counts=True)
        if len(unique) != len(self.item_ids):
            raise ValueError(
                f"Item id {unique[counts > 1][0]} appears {counts[counts > 1][0]} times in the catalog; "
                "each id may appear once. Drop the repeated rows of the items table."
            )
        for item_id, title in zip(self.item_ids, self.titles, strict=True):
            if not isinstance(title, str) or not title.strip():
                raise ValueError(
                    f"Item {item_id} has an empty title ({title!r}). The model reads an item as its title: give it "
                    "one, or leave the item out."
                )

    @classmethod
    def from_titles(cls, titles: dict[int, str]) -> Catalog:
        """Builds a catalog from a mapping of item id (a whole number) to title."""
        for item_id in titles:
            if not isinstance(item_id, (int, np.integer)):
                raise TypeError(f"An item id must be a whole number, got {item_id!r}. Number the items.")
        return cls(np.fromiter(titles, dtype=np.int64, count=len(titles)), tuple(titles.values()))

    @classmethod
    def from_frame(cls, items: pl.DataFrame) -> Catalog:
        """Builds a catalog from a frame with the columns `item_id` (integer) and `title` (string)."""
        for column in ("item_id", "title"):
            if column not in items.columns:
                raise ValueError(f"The items table has no column {column!r}; its columns are {items.columns}.")
        if not items["item_id"].dtype.is_integer() or items["item_id"].null_count():
            raise ValueError(
                f"`item_id` must be whole numbers without nulls, got {items['item_id'].dtype} with "
                f"{items['item_id'].null_count()} nulls. Number the items, and keep your own ids in another column."
            )
        return cls(items["item_id"].cast(pl.Int64).to_numpy(), tuple(items["title"].to_list()))

    @classmethod
    def from_parquet(cls, path: str | Path) -> Catalog:
        """Reads a catalog from a Parquet file with the columns `item_id` and `title`."""
        return cls.from_frame(pl.read_parquet(path))

    def to_parquet(self, path: str | Path) -> None:
        """Writes the catalog as a Parquet file that [`Catalog.from_parquet`] reads."""
        pl.DataFrame({"item_id": self.item_ids, "title": list(self.titles)}).write_parquet(path)

    def with_items(self, titles: dict[int, str]) -> Catalog:
        """
        Returns a catalog with these items, followed by new ones.

        Args:
            titles (`dict[int, str]`):
                The new items: item id to title.

        Raises:
            ValueError: If an id is already in the catalog, a title is empty, or `titles` is empty.
        """
        new_items = Catalog.from_titles(titles)
        taken = np.intersect1d(self.item_ids, new_items.item_ids)
        if len(taken) > 0:
            raise ValueError(
                f"Item id {taken[0]} is taken by {self.titles[int(self.indices_of(taken[:1])[0])]!r}. Number new "
                f"items from {self.item_ids.max() + 1} upward."
            )
        return Catalog(np.concatenate([self.item_ids, new_items.item_ids]), (*self.titles, *new_items.titles))

    def __repr__(self) -> str:
        first = ", ".join(map(repr, self.titles[:3]))
        return f"Catalog({len(self)} items: {first}{', …' if len(self) > 3 else ''})"

    def __len__(self) -> int:
        return len(self.titles)

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.item_ids, kind="stable")

    @cached_property
    def _indices_by_title(self) -> dict[str, list[int]]:
        indices: dict[str, list[int]] = {}
        for index, title in enumerate(self.titles):
            indices.setdefault(title, []).append(index)
        return indices

    def indices_of(self, item_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """
        Turns item ids into catalog indices.

        Args:
            item_ids (`Sequence[int]`):
                Item ids of the data set.

        Returns:
            `numpy.ndarray` of int64, one index per id.

        Raises:
            KeyError: If an id is not in the catalog.
            TypeError: If an id is not a whole number.
        """
        ids = np.asarray(item_ids)
        if ids.size == 0:
            return np.empty(0, dtype=np.int64)
        if ids.dtype.kind not in "iu":
            raise TypeError(f"Item ids must be whole numbers, got {ids.flat[0]!r} ({ids.dtype}).")
        indices = self._order[np.searchsorted(self.item_ids, ids, sorter=self._order).clip(max=len(self) - 1)]
        is_unknown = self.item_ids[indices] != ids
        if is_unknown.any():
            raise KeyError(
                f"Item id {ids[is_unknown][0]} is not in the catalog of {len(self)} items. Add it to the "
                "items table (`Catalog.with_items`), or drop the interactions that name it."
            )
        return indices

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


@dataclass(frozen=True, eq=False)
class TitleTokens:
    """
    Titles as flat token arrays: title `i` is `ids[offsets[i] : offsets[i + 1]]`.

    Args:
        ids (`numpy.ndarray` of shape `(num_tokens,)`, int64):
            The tokens of all titles, one title after the other.
        offsets (`numpy.ndarray` of shape `(num_titles + 1,)`, int64):
            Index in `ids` of each title's first token, then the end of the last title.
    """

    ids: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens per title, shape `(num_titles,)`, int64."""
        return np.diff(self.offsets)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """Returns the tokens of the titles at `indices`, one title after the other."""
        lengths = self.lengths[indices]
        return self.ids[np.repeat(self.offsets[indices], lengths) + ragged_arange(lengths)]

    def checksum(self, indices: np.ndarray) -> int:
        """Checksum of the titles at `indices`, the same on every machine."""
        return zlib.crc32(self.gather(indices).tobytes())

    def extended(self, more: TitleTokens) -> TitleTokens:
        """Returns these titles, followed by the titles of `more`."""
        return TitleTokens(
            np.concatenate([self.ids, more.ids]), np.concatenate([self.offsets, self.offsets[-1] + more.offsets[1:]])
        )

    def num_prefix_titles(self) -> int:
        """Number of titles whose tokens are a prefix of another, longer title."""
        # In lexicographic order, a prefix of any other title is a prefix of the next different title.
        unique = sorted({tuple(self[index].tolist()) for index in range(len(self))})
        prefixes = {short for short, long in pairwise(unique) if long[: len(short)] == short}
        return sum(tuple(self[index].tolist()) in prefixes for index in range(len(self)))


def ragged_arange(lengths: np.ndarray) -> np.ndarray:
    """Concatenates the ranges `[0..lengths[0]), [0..lengths[1]), …` into one flat int64 array."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def tokenize_titles(titles: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> TitleTokens:
    """
    Tokenizes each title once. A title is data: no token in it may act as markup of the prompt.

    Args:
        titles (`Iterable[str]`):
            The titles.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The backbone's tokenizer.

    Returns:
        [`TitleTokens`]

    Raises:
        ValueError: If a title is blank or tokenizes to nothing, or if it holds an added token that the tokenizer does
            not split. Such a token could end the turn or close the history.
    """
    titles = list(titles)
    encoded = tokenizer(titles, add_special_tokens=False, split_special_tokens=True)["input_ids"] if titles else []
    lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
    is_blank = (lengths == 0) | np.fromiter((not title.strip() for title in titles), dtype=bool, count=len(titles))
    if is_blank.any():
        title = titles[int(np.flatnonzero(is_blank)[0])]
        raise ValueError(
            f"The title {title!r} is blank or tokenizes to nothing with {type(tokenizer).__name__}. Rename the item "
            "or leave it out."
        )
    ids = np.fromiter((token for title in encoded for token in title), dtype=np.int64, count=int(lengths.sum()))
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    # `split_special_tokens` does not split added tokens that are not marked special, such as `<think>`. Runs of
    # spaces are text. The unknown token is text too, unless the same token begins or ends a text.
    added = {token_id for token, token_id in tokenizer.get_added_vocab().items() if not token.isspace()}
    markup = added | set(tokenizer.all_special_ids)
    if tokenizer.unk_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        markup.discard(tokenizer.unk_token_id)
    forbidden = np.isin(ids, np.fromiter(markup, dtype=np.int64, count=len(markup)))
    if forbidden.any():
        position = int(np.flatnonzero(forbidden)[0])
        title = titles[int(np.searchsorted(offsets, position, side="right")) - 1]
        token = tokenizer.convert_ids_to_tokens(int(ids[position]))
        raise ValueError(
            f"The title {title!r} holds the special token {token!r}, which would act as markup of the "
            "prompt. Rename the item."
        )
    return TitleTokens(ids, offsets)


def check_learned_items(item_ids: np.ndarray, learned: np.ndarray, in_order: bool = True) -> None:
    """
    Checks that a catalog holds all items for which a model has learned something.

    Args:
        item_ids (`numpy.ndarray` of shape `(num_items,)`, int64):
            The catalog's ids.
        learned (`numpy.ndarray` of shape `(n,)`, int64):
            The ids of the items that the model knows.
        in_order (`bool`, *optional*, defaults to `True`):
            Whether the catalog must begin with these items, in their order.

    Raises:
        ValueError: If the catalog lacks an item, or has another order.
    """
    lost = learned[~np.isin(learned, item_ids)]
    if len(lost) > 0:
        named = ", ".join(map(str, lost[:5])) + (", …" if len(lost) > 5 else "")
        raise ValueError(
            f"The catalog of {len(item_ids)} items lacks {len(lost)} of the {len(learned)} items that the model has "
            f"learned: {named}. Keep them in the catalog, and pass `candidates` to recommend other items only."
        )
    if in_order and not np.array_equal(item_ids[: len(learned)], learned):
        raise ValueError(
            "The catalog holds the items that the model has learned, but in another order, so their numbers would be "
            "mixed up. Use the checkpoint's processor with `processor.with_catalog(catalog)`, which keeps the order."
        )
