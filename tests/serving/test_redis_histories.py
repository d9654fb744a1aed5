"""Histories in Redis: a server that does not answer, and one that goes away."""

import sys

import pytest
from redis_server import free_port, redis_server

from patchrec_hf.serving.history_store import Addition, Event, StoreError
from patchrec_hf.serving.redis_histories import RedisHistories


def test_a_redis_that_does_not_answer():
    port = free_port()
    with pytest.raises(ConnectionError, match=rf"Redis at redis://127.0.0.1:{port} does not answer .* Start Redis"):
        RedisHistories(f"redis://127.0.0.1:{port}", False)


def test_passwords_are_not_shown():
    port = free_port()
    with pytest.raises(ConnectionError) as caught:
        RedisHistories(f"redis://ada:secret@127.0.0.1:{port}/0", False)
    assert "secret" not in str(caught.value)
    assert f"redis://***@127.0.0.1:{port}/0" in str(caught.value)
    with pytest.raises(ValueError, match=r"localhost is no address of Redis: .*such as redis://localhost:6379/0"):
        RedisHistories("localhost", False)


def test_a_redis_that_goes_away_and_returns_with_all_events(tmp_path):
    with redis_server(tmp_path) as url:
        store = RedisHistories(url, False)
        store.add([Addition("ada", (Event(1, 0), Event(2, 0, "a")))])
    with pytest.raises(StoreError, match="does not answer as it should"):
        store.add([Addition("ada", (Event(3, 0),))])
    with pytest.raises(StoreError):
        store.check()
    store.close()
    with redis_server(tmp_path) as url:
        store = RedisHistories(url, False)
        assert store.read(["ada"], 10)[0].item_ids == [1, 2]
        store.close()


def test_without_redis_py(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ImportError, match=r"patchrec-hf\[redis\]"):
        RedisHistories("redis://localhost", False)
