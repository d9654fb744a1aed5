"""Service settings: the limits of requests, batches and memory, and how the service ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..runtime.ranking_config import Method


@dataclass(frozen=True)
class ServiceSettings:
    """
    The limits of a service. They bound the work and the memory of each request, and so of the whole process.

    Args:
        max_k (`int`, *optional*, defaults to `100`):
            Most items that a request may ask for.
        max_histories (`int`, *optional*, defaults to `64`):
            Most histories of one request.
        max_items (`int`, *optional*, defaults to `1000`):
            Most items of a history in a request, and most events of one request.
        max_candidates (`int`, *optional*, defaults to `10_000`):
            Most candidates of a request.
        max_body_bytes (`int`, *optional*, defaults to `1_048_576`):
            Largest body of a request, in bytes.
        max_batch_size (`int`, *optional*, defaults to `32`):
            Most histories that the model reads together.
        max_wait_ms (`float`, *optional*, defaults to `1.0`):
            How long the oldest request of a batch waits for others, in milliseconds. 0 takes what is there.
        max_queue (`int`, *optional*, defaults to `256`):
            Most histories that wait for the model, and most requests with events that wait for the store. A request
            that finds the queue full is answered with 503.
        timeout_seconds (`float`, *optional*, defaults to `30.0`):
            How long a request waits for its answer, in seconds. Then it is answered with 503.
        cache_bytes (`int`, *optional*, defaults to `1_073_741_824`):
            Most bytes of user states in memory. 0 keeps none.
        max_stored_items (`int`, *optional*, defaults to `10_000`):
            How many of a user's latest stored events are read, so that none of their items is recommended again. The
            store keeps all of them.
        block_size (`int`, *optional*):
            How many items leave a user state together (see [`PatchRecommender.start`]). By default half of the
            checkpoint's `max_history`.
        method (`str`, *optional*):
            The method of ranking (see [`RankingConfig`]). By default the checkpoint's own.
        max_title_tokens (`int`, *optional*, defaults to `1000`):
            For the method `"exact"`: how many title tokens are read for a history at most (see [`RankingConfig`]).

    Raises:
        ValueError: If a number is out of its range, or the service has no such method.
        TypeError: If a number is of another type.
    """

    max_k: int = 100
    max_histories: int = 64
    max_items: int = 1000
    max_candidates: int = 10_000
    max_body_bytes: int = 1 << 20
    max_batch_size: int = 32
    max_wait_ms: float = 1.0
    max_queue: int = 256
    timeout_seconds: float = 30.0
    cache_bytes: int = 1 << 30
    max_stored_items: int = 10_000
    block_size: int | None = None
    method: Method | None = None
    max_title_tokens: int = 1000

    def __post_init__(self) -> None:
        may_be_zero = ("cache_bytes", "max_title_tokens")
        for name in (
            *("max_k", "max_histories", "max_items", "max_candidates", "max_body_bytes", "max_batch_size"),
            *("max_queue", "max_stored_items", *may_be_zero),
        ):
            value, least = getattr(self, name), int(name not in may_be_zero)
            if type(value) is not int:
                raise TypeError(f"`{name}` must be a whole number, got {value!r}.")
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        for name, is_right, expected in (
            ("max_wait_ms", 0 <= self.max_wait_ms < math.inf, "a number of milliseconds of at least 0"),
            ("timeout_seconds", 0 < self.timeout_seconds < math.inf, "a number of seconds above 0"),
        ):
            if not is_right:
                raise ValueError(f"`{name}` must be {expected}, got {getattr(self, name)}.")
        methods = ("fusion", "item", "exact", "beam")
        if self.method is not None and self.method not in methods:
            raise ValueError(f"`method` must be one of {', '.join(map(repr, methods))}, got {self.method!r}.")
