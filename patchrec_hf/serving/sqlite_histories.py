"""Histories in SQLite: one file, which keeps every acknowledged event when the process is killed or power fails."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .history_store import (
    FORMAT_VERSION,
    KINDS,
    Added,
    Addition,
    Event,
    EventConflictError,
    StoredHistory,
    StoreError,
    check_kept_facts,
)


# A user's events lie side by side, in the order in which they are read. Item ids have no declared type, so SQLite
# keeps whole numbers and texts as they are: "007" stays a text.
_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE users (user_id TEXT PRIMARY KEY, num_events INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE events (
    user_id TEXT NOT NULL, timestamp INTEGER NOT NULL, number INTEGER NOT NULL, item_id NOT NULL, event_id TEXT,
    PRIMARY KEY (user_id, timestamp, number)
) WITHOUT ROWID;
CREATE UNIQUE INDEX events_by_id ON events (user_id, event_id) WHERE event_id IS NOT NULL;
"""
_BUSY_SECONDS = 5.0


class SqliteHistories:
    """
    Keeps histories in one SQLite file: a [`HistoryStore`].

    The write-ahead log lets readers read while an event is written. A commit is in that log before `add` returns, so a
    killed process loses nothing. With `synchronous=FULL` SQLite also waits until the disk has it, so a power failure
    loses nothing either. One commit holds the events of all requests that wait, so they share this wait.

    Args:
        path (`str` or `os.PathLike`):
            The file. It is made if there is none, with its directory.
        has_text_ids (`bool`):
            Whether item ids are texts instead of whole numbers.

    Raises:
        ValueError: If the file is no database of this class, was written by a newer version of the library, or holds
            item ids of another kind.
        OSError: If the file cannot be opened or made.
    """

    def __init__(self, path: str | os.PathLike, has_text_ids: bool) -> None:
        self._path = Path(path)
        if self._path.is_dir():
            raise IsADirectoryError(f"{path} is a directory. Name a file, such as {self._path / 'histories.sqlite'}.")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._write_lock, self._read_lock = threading.Lock(), threading.Lock()
        try:
            self._writer = self._connect()
            self._prepare(has_text_ids)
            self._reader = self._connect()
        except sqlite3.OperationalError as error:
            raise OSError(f"SQLite cannot open {path}: {error}.") from error
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{path} is no SQLite database: {error}. Name another file.") from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise ValueError(
                f"SQLite cannot keep a write-ahead log beside {self._path} (its journal mode is {mode!r}). Choose a "
                "file on a local disk."
            )
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _prepare(self, has_text_ids: bool) -> None:
        """Makes the tables in a new file, and checks the facts of an old one."""
        connection = self._writer
        connection.execute("BEGIN IMMEDIATE")  # two services may open a new file at once
        try:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables:
                for statement in _TABLES.split(";"):
                    connection.execute(statement)
                facts = [("format_version", str(FORMAT_VERSION)), ("item_ids", KINDS[has_text_ids])]
                connection.executemany("INSERT INTO facts VALUES (?, ?)", facts)
            elif not {"facts", "users", "events"} <= tables:
                raise ValueError(
                    f"{self._path} is the database of another program; its tables are {sorted(tables)}. Name another "
                    "file."
                )
            kept = dict(connection.execute("SELECT name, value FROM facts"))
            check_kept_facts(str(self._path), int(kept["format_version"]), kept["item_ids"], has_text_ids)
        finally:
            connection.execute("COMMIT")

    def add(self, additions: Sequence[Addition]) -> list[Added | EventConflictError]:
        """See [`HistoryStore.add`]."""
        with self._write_lock, _store_errors(self._path):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                results = [self._add(addition) for addition in additions]
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
        return results

    def _add(self, addition: Addition) -> Added | EventConflictError:
        user_id, execute = addition.user_id, self._writer.execute
        new: list[Event] = []
        items_by_id: dict[str, int | str] = {}
        for event in addition.events:
            if event.event_id is not None:
                row = execute(
                    "SELECT item_id FROM events WHERE user_id = ? AND event_id = ?", (user_id, event.event_id)
                ).fetchone()
                known = row[0] if row else items_by_id.get(event.event_id)
                if known is not None:
                    if known != event.item_id:
                        return EventConflictError(event, known)
                    continue
                items_by_id[event.event_id] = event.item_id
            new.append(event)
        before = _num_events(self._writer, user_id)
        self._writer.executemany(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?)",
            [
                (user_id, event.timestamp, number, event.item_id, event.event_id)
                for number, event in enumerate(new, start=before)
            ],
        )
        num_events = before + len(new)
        execute("INSERT OR REPLACE INTO users VALUES (?, ?)", (user_id, num_events))
        return Added(len(new), len(addition.events) - len(new), num_events)

    def num_events(self, user_ids: Sequence[str]) -> list[int]:
        """See [`HistoryStore.num_events`]."""
        with self._read_lock, _store_errors(self._path):
            return [_num_events(self._reader, user_id) for user_id in user_ids]

    def read(self, user_ids: Sequence[str], limit: int) -> list[StoredHistory]:
        """See [`HistoryStore.read`]."""
        histories = []
        with self._read_lock, _store_errors(self._path):
            self._reader.execute("BEGIN")  # the number and the events are of one moment
            try:
                for user_id in user_ids:
                    rows = self._reader.execute(
                        "SELECT item_id, timestamp FROM events WHERE user_id = ? "
                        "ORDER BY timestamp DESC, number DESC LIMIT ?",
                        (user_id, limit),
                    ).fetchall()[::-1]
                    histories.append(
                        StoredHistory(
                            _num_events(self._reader, user_id), [row[0] for row in rows], [row[1] for row in rows]
                        )
                    )
            finally:
                self._reader.execute("COMMIT")
        return histories

    def check(self) -> None:
        """See [`HistoryStore.check`]."""
        self.num_events([""])

    def close(self) -> None:
        """See [`HistoryStore.close`]."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()


def _num_events(connection: sqlite3.Connection, user_id: str) -> int:
    row = connection.execute("SELECT num_events FROM users WHERE user_id = ?", (user_id,)).fetchone()
    return row[0] if row else 0


@contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"The histories in {path.name} cannot be read or written: {error}.") from error
