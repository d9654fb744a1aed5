"""Histories in Redis: events in a database that several services share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .history_store import (
    FORMAT_VERSION,
    KINDS,
    Added,
    Addition,
    EventConflictError,
    StoredHistory,
    StoreError,
    check_kept_facts,
)


if TYPE_CHECKING:
    from redis import Redis

# Redis runs a script as one step: nothing else comes between its checks and its writes. A member of the sorted set is
# the number of the event and its item as JSON; its score is the time. So members of one second are in the order of
# their arrival, and two events are never equal.
_ADD = """
local items = {}
for i = 1, #ARGV, 3 do
  local id = ARGV[i + 2]
  if id ~= '' then
    local known = items[id] or redis.call('HGET', KEYS[2], id)
    if known and known ~= ARGV[i] then return {-1, (i - 1) / 3, known} end
    items[id] = ARGV[i]
  end
end
local stored, before = 0, redis.call('ZCARD', KEYS[1])
for i = 1, #ARGV, 3 do
  local id = ARGV[i + 2]
  if id == '' or redis.call('HSETNX', KEYS[2], id, ARGV[i]) == 1 then
    redis.call('ZADD', KEYS[1], ARGV[i + 1], string.format('%016d:', before + stored) .. ARGV[i])
    stored = stored + 1
  end
end
return {stored, #ARGV / 3 - stored, before + stored}
"""
_TIMEOUT_SECONDS = 5.0


class RedisHistories:
    """
    Keeps histories in Redis: a [`HistoryStore`]. It never sends a command twice by itself, because the first one may
    have been carried out although its answer was lost.

    An acknowledged event is as safe as Redis keeps it. With `appendonly yes` and `appendfsync always` in its
    configuration, Redis writes each event to disk before it answers.

    Args:
        url (`str`):
            The address, such as `"redis://localhost:6379/0"`.
        has_text_ids (`bool`):
            Whether item ids are texts instead of whole numbers.
        prefix (`str`, *optional*, defaults to `"patchrec"`):
            Beginning of the keys. Services with one prefix share their histories.

    Raises:
        ImportError: If redis-py is not installed.
        ValueError: If the address is none, or the keys were written by a newer version of the library or hold item ids
            of another kind.
        OSError: If Redis does not answer.
    """

    def __init__(self, url: str, has_text_ids: bool, prefix: str = "patchrec") -> None:
        try:
            from redis import Redis
            from redis.backoff import NoBackoff
            from redis.exceptions import RedisError
            from redis.retry import Retry
        except ImportError as error:
            raise ImportError('Histories in Redis need redis-py: pip install "patchrec-hf[redis]".') from error
        self._error: type[Exception] = RedisError
        self._where = _without_password(url)
        self._prefix = prefix
        try:
            self._redis: Redis = Redis.from_url(
                url,
                decode_responses=True,
                socket_connect_timeout=_TIMEOUT_SECONDS,
                socket_timeout=_TIMEOUT_SECONDS,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            raise ValueError(
                f"{self._where} is no address of Redis: {error}. An address is such as redis://localhost:6379/0."
            ) from error
        self._script = self._redis.register_script(_ADD)
        try:
            kept = self._facts(has_text_ids)
        except StoreError as error:
            raise ConnectionError(
                f"{error} Start Redis, or name its address, such as redis://localhost:6379/0."
            ) from (error)
        check_kept_facts(
            f"{self._where} under {prefix!r}", int(kept["format_version"]), kept["item_ids"], has_text_ids
        )

    def _facts(self, has_text_ids: bool) -> dict[str, str]:
        """Writes the facts where there are none, and reads them."""
        key = f"{self._prefix}:facts"
        with self._store_errors(), self._redis.pipeline() as pipe:
            pipe.hsetnx(key, "format_version", str(FORMAT_VERSION))
            pipe.hsetnx(key, "item_ids", KINDS[has_text_ids])
            pipe.hgetall(key)
            facts: dict[str, str] = pipe.execute()[-1]
        return facts

    def _key(self, kind: str, user_id: str) -> str:
        # In a cluster, the braces put both keys of a user into one place, as a script needs it.
        return f"{self._prefix}:{{{user_id}}}:{kind}"

    def add(self, additions: Sequence[Addition]) -> list[Added | EventConflictError]:
        """See [`HistoryStore.add`]."""
        with self._store_errors(), self._redis.pipeline(transaction=False) as pipe:
            for addition in additions:
                keys = [self._key(kind, addition.user_id) for kind in ("events", "ids")]
                values = [
                    value
                    for event in addition.events
                    for value in (json.dumps(event.item_id), event.timestamp, event.event_id or "")
                ]
                self._script(keys, values, client=pipe)
            answers: list[list[Any]] = pipe.execute()
        return [
            EventConflictError(addition.events[second], json.loads(third))
            if first < 0
            else Added(first, second, third)
            for addition, (first, second, third) in zip(additions, answers, strict=True)
        ]

    def num_events(self, user_ids: Sequence[str]) -> list[int]:
        """See [`HistoryStore.num_events`]."""
        with self._store_errors(), self._redis.pipeline(transaction=False) as pipe:
            for user_id in user_ids:
                pipe.zcard(self._key("events", user_id))
            numbers: list[int] = pipe.execute()
        return numbers

    def read(self, user_ids: Sequence[str], limit: int) -> list[StoredHistory]:
        """See [`HistoryStore.read`]."""
        with self._store_errors(), self._redis.pipeline(transaction=True) as pipe:
            for user_id in user_ids:
                pipe.zcard(self._key("events", user_id))
                pipe.zrevrange(self._key("events", user_id), 0, limit - 1, withscores=True)
            answers = pipe.execute()
        histories = []
        for num_events, members in zip(answers[::2], answers[1::2], strict=True):
            latest = members[::-1]
            item_ids = [json.loads(member.partition(":")[2]) for member, _ in latest]
            histories.append(StoredHistory(num_events, item_ids, [int(score) for _, score in latest]))
        return histories

    def check(self) -> None:
        """See [`HistoryStore.check`]."""
        with self._store_errors():
            self._redis.ping()

    def close(self) -> None:
        """See [`HistoryStore.close`]."""
        self._redis.close()

    @contextmanager
    def _store_errors(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            raise StoreError(f"Redis at {self._where} does not answer as it should: {error}.") from error


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return parts._replace(netloc=f"***@{parts.netloc.rpartition('@')[2]}").geturl()
