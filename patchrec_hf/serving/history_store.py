"""History stores: the protocol by which a service keeps and reads the events of its users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


KINDS = ("whole numbers", "texts")
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Event:
    """
    An item that a user chose.

    Args:
        item_id (`int` or `str`):
            The item's id.
        timestamp (`int`):
            When the user chose it, in whole seconds since 1970 UTC.
        event_id (`str`, *optional*):
            A name of the event. A user's event with the same name is stored once, however often it is sent.
    """

    item_id: int | str
    timestamp: int
    event_id: str | None = None


@dataclass(frozen=True)
class Addition:
    """
    Events of one request. They are stored together, or none of them is.

    Args:
        user_id (`str`):
            The user.
        events (`tuple[Event, ...]`):
            The events, in the order in which they happened.
    """

    user_id: str
    events: tuple[Event, ...]


@dataclass(frozen=True)
class Added:
    """
    The acknowledgment of an addition.

    Args:
        num_stored (`int`):
            Number of events that were stored.
        num_known (`int`):
            Number of events that the store held already, by their `event_id`.
        num_events (`int`):
            Number of events that the store holds of the user now.
    """

    num_stored: int
    num_known: int
    num_events: int


@dataclass(frozen=True)
class StoredHistory:
    """
    A user's latest events, in the order of their times. Events of the same second are in the order of their arrival.

    Args:
        num_events (`int`):
            Number of all events that the store holds of the user. It only grows, so it also is the history's version.
        item_ids (`list[int | str]`):
            The items of the latest events, oldest first.
        timestamps (`list[int]`):
            When each was chosen, in whole seconds since 1970 UTC.
    """

    num_events: int
    item_ids: list[Any]
    timestamps: list[int]


class StoreError(Exception):
    """The store does not answer, or cannot write. Whether the latest events were stored may be unknown."""


class EventConflictError(ValueError):
    """An event has the `event_id` of another event of the same user. Nothing of its addition was stored."""

    def __init__(self, event: Event, stored_item_id: int | str) -> None:
        super().__init__(
            f"The event {event.event_id!r} of this user has the item {stored_item_id!r} in the store, and "
            f"{event.item_id!r} now. Give each event an id of its own; no event of this request was stored."
        )


class HistoryStore(Protocol):
    """
    Keeps the events of users. Events that `add` has returned for are never lost. One thread adds while others read.

    Several services may share a store.
    """

    def add(self, additions: Sequence[Addition]) -> list[Added | EventConflictError]:
        """
        Stores the events of several requests.

        Returns:
            `list[Added | EventConflictError]`: for each addition its acknowledgment, or the conflict for which nothing
            of it was stored.

        Raises:
            StoreError: If the store does not answer, or cannot write.
        """

    def num_events(self, user_ids: Sequence[str]) -> list[int]:
        """
        Returns the number of events of each user, 0 for an unknown one.

        Raises:
            StoreError: If the store does not answer.
        """

    def read(self, user_ids: Sequence[str], limit: int) -> list[StoredHistory]:
        """
        Reads the latest events of each user.

        Args:
            user_ids (`Sequence[str]`):
                The users.
            limit (`int`):
                Most events to read of a user.

        Raises:
            StoreError: If the store does not answer.
        """

    def check(self) -> None:
        """
        Checks that the store answers.

        Raises:
            StoreError: If it does not.
        """

    def close(self) -> None:
        """Closes the store."""


def check_kept_facts(where: str, version: int, kind: str, has_text_ids: bool) -> None:
    """
    Checks that a store fits a catalog.

    Args:
        where (`str`):
            Name of the store, for the error message.
        version (`int`):
            The store's format version.
        kind (`str`):
            The kind of item ids that the store holds: one of `KINDS`.
        has_text_ids (`bool`):
            Whether the catalog's item ids are texts.

    Raises:
        ValueError: If a newer version of the library wrote the store, or it holds ids of another kind.
    """
    if version > FORMAT_VERSION:
        raise ValueError(
            f"A newer version of patchrec-hf wrote {where} (its format is {version}, and this version reads "
            f"{FORMAT_VERSION}). Update patchrec-hf."
        )
    if kind != KINDS[has_text_ids]:
        raise ValueError(
            f"The item ids in {where} are {kind}, and the catalog's are {KINDS[has_text_ids]}: it belongs to another "
            "catalog. Name another store."
        )
