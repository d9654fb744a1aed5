"""Metrics of the service, in the form that Prometheus reads."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4


_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ServiceMetrics:
    """
    The metrics of one service, in a registry of its own.

    Attributes:
        requests (`Counter`):
            Answered requests by route, method and status.
        seconds (`Histogram`):
            Seconds from a request's arrival to its answer, by route.
        batch_size (`Histogram`):
            Weights of the batches by queue: histories for the model, requests for the store.
        events (`Counter`):
            Acknowledged events: stored ones, and ones that the store knew already.
        states (`Counter`):
            Lookups of user states: a hit, an appended one (behind the stored history), or a miss.
        evictions (`Counter`):
            States that left the cache for others.
        cache_bytes, cache_states (`Gauge`):
            Bytes and number of the states in the cache.
    """

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "patchrec_requests", "Answered requests.", ["route", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "patchrec_request_seconds", "Seconds until a request is answered.", ["route"], registry=registry,
            buckets=_SECONDS,
        )  # fmt: skip
        self.batch_size = Histogram(
            "patchrec_batch_size", "Weights of batches.", ["queue"], registry=registry, buckets=_SIZES
        )
        self.events = Counter("patchrec_events", "Acknowledged events.", ["result"], registry=registry)
        self.states = Counter("patchrec_states", "Lookups of user states.", ["result"], registry=registry)
        self.evictions = Counter("patchrec_evictions", "User states that left the cache.", registry=registry)
        self.cache_bytes = Gauge("patchrec_cache_bytes", "Bytes of user states in memory.", registry=registry)
        self.cache_states = Gauge("patchrec_cache_states", "User states in memory.", registry=registry)
        self._queue_length = Gauge(
            "patchrec_queue_length", "Histories or requests that wait.", ["queue"], registry=registry
        )

    def watch_queue(self, queue: str, length: Callable[[], int]) -> None:
        """Shows the length of a queue, as it is when the metrics are read."""
        self._queue_length.labels(queue).set_function(length)

    def text(self) -> bytes:
        """Returns all metrics."""
        return generate_latest(self._registry)
