"""Histories in a SQLite file: what is acknowledged stays, and files of other kinds are refused."""

import itertools
import multiprocessing
import os
import signal
import sqlite3
from contextlib import closing, suppress

import pytest

from patchrec_hf.serving.history_store import Addition, Event, StoreError
from patchrec_hf.serving.sqlite_histories import SqliteHistories


def write_forever(path, pipe):
    store = SqliteHistories(path, False)
    for number in itertools.count():
        store.add([Addition("ada", (Event(number, 0), Event(number, 1)))])
        pipe.send(number)


def test_a_killed_process_loses_nothing(tmp_path):
    path = tmp_path / "histories.sqlite"
    receiver, sender = multiprocessing.Pipe(duplex=False)
    writer = multiprocessing.get_context("fork").Process(target=write_forever, args=(path, sender))
    writer.start()
    sender.close()
    numbers = [receiver.recv() for _ in range(20)]
    os.kill(writer.pid, signal.SIGKILL)
    with suppress(EOFError):
        while True:
            numbers.append(receiver.recv())
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    acknowledged = len(numbers)
    with closing(SqliteHistories(path, False)) as store:
        (history,) = store.read(["ada"], 100_000)
    # The latest request may be stored without its acknowledgment; both events of a request are, or none is.
    assert history.num_events == len(history.item_ids)
    assert history.num_events in (2 * acknowledged, 2 * acknowledged + 2)
    assert sorted(history.item_ids) == sorted([*range(history.num_events // 2)] * 2)


def test_each_commit_reaches_the_disk(tmp_path):
    with closing(SqliteHistories(tmp_path / "new" / "histories.sqlite", False)) as store:
        assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_wrong_files(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"Name a file, such as .*histories.sqlite"):
        SqliteHistories(tmp_path, False)
    (tmp_path / "notes.txt").write_text("No database, but a text that is long enough. " * 50)
    with pytest.raises(ValueError, match=r"notes.txt is no SQLite database"):
        SqliteHistories(tmp_path / "notes.txt", False)
    with closing(sqlite3.connect(tmp_path / "shop.sqlite")) as other:
        other.execute("CREATE TABLE orders (id)")
        other.commit()
    with pytest.raises(ValueError, match=r"another program; its tables are \['orders'\]"):
        SqliteHistories(tmp_path / "shop.sqlite", False)


def test_a_failed_write_stores_nothing(tmp_path):
    with closing(SqliteHistories(tmp_path / "histories.sqlite", False)) as store:
        store.add([Addition("ada", (Event(1, 0),))])
        store._writer.execute(
            "CREATE TRIGGER full BEFORE INSERT ON events WHEN NEW.item_id = 3 "
            "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
        with pytest.raises(StoreError, match=r"histories.sqlite cannot be read or written: disk full"):
            store.add([Addition("ada", (Event(2, 0),)), Addition("ben", (Event(3, 0),))])
        assert store.num_events(["ada", "ben"]) == [1, 0]
        store.add([Addition("ada", (Event(2, 0),))])
        assert store.num_events(["ada"]) == [2]
    with pytest.raises(StoreError):
        store.check()
