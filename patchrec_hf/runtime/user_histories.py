"""Histories as users write them: ids and titles in lists, arrays or frames, turned into catalog indices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import polars as pl
import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from .catalog import Catalog
from .ids import name_nearest
from .moments import check_seconds
from .title_tokens import TitleTokens, tokenize_titles


logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Title:
    """
    An item of a history that is named by its title. The catalog need not contain the title.

    Args:
        text (`str`):
            The title.

    Example:
    ```python
    >>> recommender.recommend(["B-17", Title("A Study in Scarlet")])
    ```
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise TypeError(f"A title must be a text, got {self.text!r}.")


Item = int | str | Title
"""An item of a history: an id of the catalog, or a title."""


@runtime_checkable
class _Frame(Protocol):
    """A table or a column of polars, pandas or Arrow, by the protocol that all of them share."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any: ...


@dataclass(frozen=True, eq=False)
class CatalogHistories:
    """
    Histories whose items were looked up in a catalog.

    Args:
        items (`list[numpy.ndarray]`):
            Indices into `titles` of each history's items, oldest first. An index beyond the catalog is a new title.
        matches (`list[numpy.ndarray]`):
            Catalog indices of all items that each history may mean: one for each id, and for each title all items
            that have it.
        titles ([`TitleTokens`]):
            The titles of the catalog, followed by the new ones.
    """

    items: list[np.ndarray]
    matches: list[np.ndarray]
    titles: TitleTokens


def as_batch(histories: Any) -> tuple[bool, list[list[Any]]]:
    """
    Turns one history or several into lists.

    Args:
        histories (`Sequence`, `numpy.ndarray`, `torch.Tensor`, or a frame with the column `item_ids`):
            One history, or a sequence of them. A frame of polars, pandas or Arrow holds a list of ids in each row.

    Returns:
        `tuple[bool, list[list]]`: whether a single history was given, and the batch of histories.

    Raises:
        TypeError: If this is no history.
        ValueError: If a history is empty, or a frame has no column `item_ids`.
    """
    example = "A history is a list of item ids and titles, oldest first, such as [3, 14]"
    if isinstance(histories, (str, int, float, Title)) or _is_number(histories):
        raise TypeError(f"{example}, got {histories!r}.")
    if isinstance(histories, (Mapping, Set)):
        raise TypeError(f"{example}, got a {type(histories).__name__}, {_mend(histories)}.")
    values = _as_list(histories)
    is_single = not values or isinstance(values[0], (int, np.integer, str, Title))
    for row, history in enumerate(() if is_single else values):
        if isinstance(history, (Mapping, Set)):
            raise TypeError(f"{example}, got a {type(history).__name__} in row {row}, {_mend(history)}.")
        if not isinstance(history, (Iterable, torch.Tensor)) or isinstance(history, (str, Title)):
            raise TypeError(f"{example}, got {history!r} in row {row}.")
    batch = [_as_list(history) for history in ([values] if is_single else values)]
    for row, history in enumerate(batch):
        if not history:
            raise ValueError(f"The history is empty (row {row}); a recommendation needs at least one earlier item.")
        _check_items(history, row)
    return is_single, batch


def as_additions(items: Any, num_histories: int, is_single: bool) -> list[list[Any]]:
    """
    Turns items that are added to histories into lists.

    Args:
        items (`int`, `str`, [`Title`] or `Sequence`):
            For a single history an item or a sequence of items. For a batch a sequence of items for each history,
            which may be empty.
        num_histories (`int`):
            Number of histories B.
        is_single (`bool`):
            Whether there is a single history instead of a batch.

    Returns:
        `list[list]`: B lists.

    Raises:
        TypeError: If these are no items.
        ValueError: If there is not one sequence for each history.
    """
    is_item = isinstance(items, (str, int, float, np.number, Title)) or _is_number(items)
    has_order = isinstance(items, (Iterable, torch.Tensor)) and not isinstance(items, (Mapping, Set))
    if is_single:
        if not (is_item or has_order):
            raise TypeError(f"A history takes an item or a list of items, oldest first, got {items!r}.")
        batch = [_as_list([items] if is_item else items)]
    elif is_item or not has_order:
        raise TypeError(f"A batch of {num_histories} histories takes a list of items for each of them, got {items!r}.")
    else:
        values = _as_list(items)
        if len(values) != num_histories:
            raise ValueError(
                f"A batch of {num_histories} histories takes a list of items for each of them, which may be empty; "
                f"got {len(values)}."
            )
        for row, value in enumerate(values):
            if isinstance(value, (str, Title, Mapping, Set)) or not isinstance(value, (Iterable, torch.Tensor)):
                raise TypeError(f"Each history takes a list of items, which may be empty; got {value!r} in row {row}.")
        batch = [_as_list(value) for value in values]
    for row, history in enumerate(batch):
        _check_items(history, row)
    return batch


def _check_items(history: Sequence[Any], row: int) -> None:
    for item in history:
        if isinstance(item, bool) or not isinstance(item, (int, np.integer, str, Title)):
            raise TypeError(f"An item is an id (a whole number or a text) or a `Title`, got {item!r} in row {row}.")


def known_indices(history: Sequence[Item], catalog: Catalog, row: int) -> np.ndarray:
    """
    Looks up the items of a user state, which holds no new titles.

    Args:
        history (`Sequence[int | str | Title]`):
            Items.
        catalog ([`Catalog`]):
            The catalog.
        row (`int`):
            Number of the history, for the error message.

    Returns:
        `numpy.ndarray` of int64: the first catalog index that each item may mean.

    Raises:
        KeyError: If an id is not in the catalog, or a text is neither an id nor a title of it.
        TypeError: If an item is a whole number, but the catalog's ids are texts.
    """
    try:
        indices = [match_item(item, catalog, row, allows_new=False)[0] for item in history]
    except KeyError as error:
        raise KeyError(
            f"{error.args[0]} A user state holds items of the catalog only. To add one, make a recommender with "
            "`PatchRecommender(model, processor.with_catalog(processor.catalog.with_items({item_id: title})))`."
        ) from None
    return np.array(indices, dtype=np.int64)


def as_timestamps(timestamps: Any, batch: Sequence[Sequence[Item]], is_single: bool) -> list[np.ndarray] | None:
    """
    Turns the times of histories into arrays.

    Args:
        timestamps (`Sequence[int]`, or a sequence of them, *optional*):
            When each item was chosen, in whole seconds since 1970 UTC: in the form of the histories, as lists, arrays
            or tensors.
        batch (`Sequence[Sequence[int | str | Title]]`):
            The histories, as [`as_batch`] returns them.
        is_single (`bool`):
            Whether a single history was given.

    Returns:
        `list[numpy.ndarray]`, *optional*: int64, one array for each history; `None` without timestamps.

    Raises:
        TypeError: If a time is no whole number.
        ValueError: If there is not one time for each item, or times are no seconds.
    """
    if timestamps is None:
        return None
    values = [timestamps] if is_single else _as_list(timestamps)
    if len(values) != len(batch):
        raise ValueError(f"`timestamps` needs one list for each of {len(batch)} histories, got {len(values)}.")
    arrays = []
    for row, (times, history) in enumerate(zip(values, batch, strict=True)):
        array = np.asarray(times)
        if array.shape == (0,):  # an empty list has no dtype of its own
            array = array.astype(np.int64)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise TypeError(
                f"`timestamps` must hold a list of whole numbers for each history (seconds since 1970 UTC), got "
                f"{times!r} in row {row}."
            )
        if len(array) != len(history):
            raise ValueError(
                f"The history in row {row} has {len(history)} items, but {len(array)} timestamps. Give one for each."
            )
        check_seconds(array)
        arrays.append(array.astype(np.int64))
    return arrays


def _mend(value: Any) -> str:
    return "which has no order" if isinstance(value, Set) else "so pass its list of ids, such as row['item_ids']"


def _is_number(value: Any) -> bool:
    """Whether a value is an array or a tensor without dimensions."""
    return isinstance(value, (torch.Tensor, np.ndarray)) and value.ndim == 0


def _as_list(values: Any) -> list[Any]:
    if isinstance(values, (torch.Tensor, np.ndarray)):
        return list(values.tolist())
    if isinstance(values, pl.LazyFrame):
        values = values.collect()
    if isinstance(values, pl.Series):
        return values.to_list()
    if isinstance(values, pl.DataFrame):
        return _item_lists(values)
    if isinstance(values, _Frame):
        series = pl.Series(values=values)
        return _item_lists(series.struct.unnest()) if series.dtype == pl.Struct else series.to_list()
    return [value.item() if _is_number(value) else value for value in values]


def _item_lists(frame: pl.DataFrame) -> list[Any]:
    """Returns the column `item_ids` of a frame."""
    if "item_ids" not in frame.columns or not isinstance(frame["item_ids"].dtype, pl.List | pl.Array):
        schema = ", ".join(f"{name} ({dtype})" for name, dtype in frame.schema.items())
        raise ValueError(
            "A frame of histories needs the column 'item_ids' with a list of ids in each row; its columns are "
            f"{schema}. From one interaction in each row, polars makes such lists: "
            "`frame.group_by('user_id', maintain_order=True).agg('item_ids')`."
        )
    return frame["item_ids"].to_list()


def candidate_indices(candidates: Any, num_histories: int, catalog: Catalog) -> list[np.ndarray] | None:
    """
    Turns the ids of items that may be recommended into catalog indices.

    Args:
        candidates (`Collection[int | str]`, or a sequence of them, *optional*):
            Item ids: one collection for all histories, or one for each.
        num_histories (`int`):
            Number of histories B.
        catalog ([`Catalog`]):
            The catalog.

    Returns:
        `list[numpy.ndarray]`, *optional*: B arrays of catalog indices; `None` if there are no candidates.

    Raises:
        KeyError: If an id is not in the catalog.
        TypeError: If the ids are not of the catalog's kind.
        ValueError: If the number of collections is not the number of histories, or a collection is empty.
    """
    if candidates is None:
        return None
    values = _as_list(candidates)
    is_one = not values or isinstance(values[0], (int, np.integer, str))
    lists = [values] if is_one else [_as_list(ids) for ids in values]
    if not is_one and len(lists) != num_histories:
        raise ValueError(
            f"`candidates` holds {len(lists)} lists for {num_histories} histories. Give one list of ids for all "
            "histories, or one for each."
        )
    for row, item_ids in enumerate(lists):
        if not item_ids:
            raise ValueError(f"Row {row} has no candidates. Leave out `candidates` to recommend from all items.")
    try:
        arrays = [catalog.indices_of(item_ids) for item_ids in lists]
        return arrays * num_histories if is_one else arrays
    except KeyError as error:
        raise KeyError(f"`candidates` are ids of the catalog. {error.args[0]}") from None


def find_items(
    batch: Sequence[Sequence[Item]],
    catalog: Catalog,
    titles: TitleTokens,
    tokenizer: PreTrainedTokenizerBase,
) -> CatalogHistories:
    """
    Looks up the items of histories in a catalog.

    A whole number is an id. In a catalog whose ids are texts, a text is an id or a title of the catalog. In a catalog
    whose ids are whole numbers, a text is a title, which may be new; a warning names new ones. A [`Title`] is a title,
    which may be new.

    Args:
        batch (`Sequence[Sequence[int | str | Title]]`):
            The histories, as [`as_batch`] returns them.
        catalog ([`Catalog`]):
            The catalog.
        titles ([`TitleTokens`]):
            The catalog's titles.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizes new titles.

    Returns:
        [`CatalogHistories`]

    Raises:
        KeyError: If an id is not in the catalog, or a text is neither an id nor a title of it.
        TypeError: If an item is a whole number, but the catalog's ids are texts.
        ValueError: If a new title is blank or holds an added token (see [`tokenize_titles`]).
    """
    found: dict[Item, list[int]] = {}
    new: dict[str, int] = {}
    for row, history in enumerate(batch):
        for item in history:
            if item in found:
                continue
            found[item] = indices = match_item(item, catalog, row)
            if not indices:
                text = item.text if isinstance(item, Title) else str(item)
                new.setdefault(text, len(catalog) + len(new))
    if new:
        titles = titles.extended(tokenize_titles(new, tokenizer))
    firsts = {
        item: indices[0] if indices else new[item.text if isinstance(item, Title) else str(item)]
        for item, indices in found.items()
    }
    return CatalogHistories(
        items=[np.array([firsts[item] for item in history], dtype=np.int64) for history in batch],
        matches=[np.array([i for item in history for i in found[item]], dtype=np.int64) for history in batch],
        titles=titles,
    )


def match_item(item: Item, catalog: Catalog, row: int | None = None, allows_new: bool = True) -> list[int]:
    """
    Returns the catalog indices of the items that an id or a title means; an empty list for a new title.

    Args:
        item (`int`, `str` or [`Title`]):
            See [`find_items`].
        catalog ([`Catalog`]):
            The catalog.
        row (`int`, *optional*):
            The number of the history that holds the item, for the error message.
        allows_new (`bool`, *optional*, defaults to `True`):
            Whether a title may be new.

    Raises:
        KeyError: If an id is not in the catalog, a text is neither an id nor a title of it, or a title is new and new
            ones are not allowed.
        TypeError: If an item is a whole number, but the catalog's ids are texts.
    """
    if not isinstance(item, Title) and (not isinstance(item, str) or (catalog.has_text_ids and item in catalog)):
        return catalog.indices_of([item]).tolist()
    text = item.text if isinstance(item, Title) else item
    if indices := catalog.indices_of_title(text):
        return indices
    where = "" if row is None else f" in row {row}"
    near = name_nearest("titles", text, catalog.titles)
    if isinstance(item, str):
        near = catalog.name_nearest_ids(text) + near
    is_title = isinstance(item, Title) or not (catalog.has_text_ids or text.strip().lstrip("-").isdecimal())
    if is_title and not allows_new:
        raise KeyError(
            f"{text!r}{where} is no title of the catalog of {len(catalog)} items.{near} Only the items of the catalog "
            "are known here; a `PatchRecommender` also reads new titles."
        )
    if isinstance(item, Title):
        return []
    if is_title:
        logger.warning_once(
            f"{item!r}{where} is no title of the catalog of {len(catalog)} items, and is read as a new title.{near} "
            f"Write `Title({item!r})` to say that it is new."
        )
        return []
    kind = "neither an id nor a title" if catalog.has_text_ids else "a text, and no title"
    mend = "" if catalog.has_text_ids else " Ids of this catalog are whole numbers: write them without quotes."
    new = f" Write `Title({item!r})` for a title that the catalog lacks." if allows_new else ""
    raise KeyError(f"{item!r}{where} is {kind} of the catalog of {len(catalog)} items.{near}{mend}{new}")
