"""User requests: the rows of histories, looked up in a catalog, with a reason for each row that cannot be ranked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from ..runtime.catalog import Catalog
from ..runtime.moments import check_seconds


@dataclass(frozen=True, eq=False)
class UserRequest:
    """
    A user for whom items are recommended.

    Args:
        row (`int`):
            The row of the user in the histories, counted from 0.
        user_id (`int` or `str`):
            The user's id.
        items (`numpy.ndarray` of shape `(n,)`, int64):
            Catalog indices of the history's items, oldest first.
        timestamps (`numpy.ndarray` of shape `(n,)`, int64, *optional*):
            When each item was chosen, in seconds since 1970 UTC.
        excluded (`numpy.ndarray`, int64, *optional*):
            Catalog indices of items that may not be recommended.
        candidates (`numpy.ndarray`, int64, *optional*):
            Catalog indices of the only items that may be recommended.
        num_dropped (`int`, *optional*, defaults to `0`):
            Number of ids that were left out because the catalog lacks them.
    """

    row: int
    user_id: int | str
    items: np.ndarray
    timestamps: np.ndarray | None = None
    excluded: np.ndarray | None = None
    candidates: np.ndarray | None = None
    num_dropped: int = 0


@dataclass(frozen=True)
class Fault:
    """
    A user for whom nothing can be recommended.

    Args:
        row (`int`):
            The row of the user in the histories, counted from 0.
        user_id (`int` or `str`, *optional*):
            The user's id; `None` if it is missing.
        reason (`str`):
            A sentence that says why.
        unknown_id (`int` or `str`, *optional*):
            An id that the catalog lacks, if this is the reason.
    """

    row: int
    user_id: int | str | None
    reason: str
    unknown_id: int | str | None = None

    def __str__(self) -> str:
        return f"Row {self.row}, user {self.user_id!r}: {self.reason}"


class UsersError(ValueError):
    """Some users cannot be ranked, and a job stops at such users."""


class _UnknownIdError(ValueError):
    def __init__(self, message: str, item_id: int | str) -> None:
        super().__init__(message)
        self.item_id = item_id


class RequestReader:
    """
    Looks up the items of histories in a catalog. Ids are the catalog's: a text that is written like a whole number
    stands for this number, and a number for its text, whichever of them the catalog has.

    Args:
        catalog ([`Catalog`]):
            The catalog.
        drop_unknown (`bool`, *optional*, defaults to `False`):
            Whether ids that the catalog lacks are left out. Otherwise they are a fault.
    """

    def __init__(self, catalog: Catalog, drop_unknown: bool = False) -> None:
        self.catalog, self.drop_unknown = catalog, drop_unknown
        self._indices: dict[Any, int] = {item_id: index for index, item_id in enumerate(catalog.item_ids.tolist())}

    def read(self, rows: pl.DataFrame, first_row: int) -> Iterator[UserRequest | Fault]:
        """
        Looks up rows of users.

        Args:
            rows (`polars.DataFrame`):
                `user_id` and `item_ids`, and optionally `timestamps`, `exclude` and `candidates`, as
                [`HistoryFile.expressions`] reads them.
            first_row (`int`):
                The number of the first row, counted from 0 in the whole file.

        Returns:
            `Iterator[UserRequest | Fault]`: one for each row, in their order.
        """
        for row, values in enumerate(rows.iter_rows(named=True), start=first_row):
            try:
                yield self._request(row, values)
            except _UnknownIdError as error:
                yield Fault(row, values["user_id"], str(error), error.item_id)
            except ValueError as error:
                yield Fault(row, values["user_id"], str(error))

    def check(self, users: Iterable[UserRequest | Fault], total: int) -> None:
        """
        Checks that all users can be looked up.

        Args:
            users (`Iterable[UserRequest | Fault]`):
                The users, as [`RequestReader.read`] returns them.
            total (`int`):
                Number of users of the job.

        Raises:
            UsersError: If one of them cannot. The message counts them, names the first one and the ids that are
                spelled most like an unknown one, and says what to do.
        """
        first, count = None, 0
        for user in users:
            if isinstance(user, Fault):
                first, count = first or user, count + 1
        if first is None:
            return
        near, mend = "", ""
        if first.unknown_id is not None:
            near = self.catalog.name_nearest_ids(str(first.unknown_id))
            mend = ", set `drop_unknown` to leave out ids that the catalog lacks"
        raise UsersError(
            f"{count} of {total} users cannot be ranked. The first of them: {first}{near} Mend the histories{mend}, "
            "or choose `on_error='skip'`, which leaves such users out and lists the reasons in a file."
        )

    def _request(self, row: int, values: dict[str, Any]) -> UserRequest:
        if values["user_id"] is None:
            raise ValueError("The user has no id.")
        listed = values["item_ids"] or []
        if not listed:
            raise ValueError("The history is empty; a recommendation needs at least one earlier item.")
        found = self._look_up(listed, "history")
        known = found >= 0
        times = self._times(values["timestamps"], len(listed)) if "timestamps" in values else None
        items, num_dropped = found[known], int((~known).sum())
        if len(items) == 0:
            raise ValueError(f"The catalog has none of the {len(listed)} items of the history, such as {listed[0]!r}.")
        lists: dict[str, np.ndarray] = {}
        for name in ("exclude", "candidates"):
            if values.get(name) is not None:
                indices = self._look_up(values[name], name)
                lists[name] = indices[indices >= 0]
                num_dropped += int((indices < 0).sum())
        if "candidates" in lists and len(lists["candidates"]) == 0:
            listed = values["candidates"]
            raise ValueError(
                f"The catalog has none of the {len(listed)} candidates, such as {listed[0]!r}."
                if listed
                else "The list of candidates is empty. Without a list, all items are candidates."
            )
        return UserRequest(
            row,
            values["user_id"],
            items,
            None if times is None else times[known],
            lists.get("exclude"),
            lists.get("candidates"),
            num_dropped,
        )

    def _look_up(self, item_ids: Sequence[Any], name: str) -> np.ndarray:
        """Returns the catalog indices of ids; -1 for ids that are dropped."""
        find = self._indices.get
        found = np.array([find(item_id, -1) for item_id in item_ids], dtype=np.int64)
        for place in np.flatnonzero(found < 0).tolist():
            found[place] = find(_other_form(item_ids[place]), -1)
        if (found < 0).any() and not self.drop_unknown:
            item_id = item_ids[int(np.argmin(found))]
            where = "history" if name == "history" else f"column {name!r}"
            if item_id is None:
                raise ValueError(f"An item id in the {where} is missing.")
            message = f"Item id {item_id!r} in the {where} is not in the catalog of {len(self.catalog)} items."
            raise _UnknownIdError(message, item_id)
        return found

    def _times(self, listed: Sequence[int | None] | None, num_items: int) -> np.ndarray:
        if listed is None or len(listed) != num_items:
            number = "no" if listed is None else len(listed)
            raise ValueError(f"The history has {num_items} items, but {number} timestamps. Give one for each.")
        if None in listed:
            raise ValueError("A timestamp of the history is missing.")
        times = np.array(listed, dtype=np.int64)
        check_seconds(times)
        return times


def _other_form(item_id: int | str | None) -> int | str | None:
    """Returns a number as a text, and a text that is written like a whole number as this number."""
    if not isinstance(item_id, str):
        return None if item_id is None else str(item_id)
    is_number = item_id.isascii() and item_id.removeprefix("-").isdigit()
    return int(item_id) if is_number and str(int(item_id)) == item_id else item_id
