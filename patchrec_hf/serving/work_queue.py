"""Work queues: one thread that works on batches of the requests that wait, and a bound for how many may wait."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar


Job = TypeVar("Job")
Result = TypeVar("Result")
Part = TypeVar("Part")


class QueueFullError(Exception):
    """Too much waits for the thread already, or the queue is closed."""


@dataclass(frozen=True, eq=False)
class _Waiting(Generic[Job, Result]):
    job: Job
    weight: int
    arrived: float
    future: Future[Result]


class WorkQueue(Generic[Job, Result]):
    """
    Jobs that wait for one thread. The thread takes as many of them together as fit into a batch. While it works, the
    next ones gather.

    Args:
        name (`str`):
            Name of the thread.
        work (`Callable[[list[Job]], Sequence[Result | Exception]]`):
            Works on a batch. It returns the result of each job, or the error that the job ends with. It always runs in
            the same thread, so what only `work` touches needs no lock.
        max_batch_size (`int`):
            Largest sum of weights of a batch. A heavier job makes a batch by itself.
        max_wait (`float`):
            How long the oldest job of a batch waits for others, in seconds.
        max_length (`int`):
            Largest sum of weights that waits. A heavier job is accepted while nothing else waits.
        on_batch (`Callable[[int], None]`, *optional*):
            Called with the weight of each batch, before the work.

    Example:
    ```python
    >>> queue = WorkQueue("doubles", lambda jobs: [2 * job for job in jobs], 8, 0.001, 100)
    >>> queue.submit(21).result()
    42
    >>> queue.close()
    ```
    """

    def __init__(
        self,
        name: str,
        work: Callable[[list[Job]], Sequence[Result | Exception]],
        max_batch_size: int,
        max_wait: float,
        max_length: int,
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        self._work, self._on_batch = work, on_batch
        self._max_batch_size, self._max_wait, self._max_length = max_batch_size, max_wait, max_length
        self._waiting: deque[_Waiting[Job, Result]] = deque()
        self._weight = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job, weight: int = 1) -> Future[Result]:
        """
        Puts a job at the end of the queue. It never waits.

        Args:
            job (`Job`):
                The job.
            weight (`int`, *optional*, defaults to `1`):
                How much of a batch the job takes.

        Returns:
            `concurrent.futures.Future`: the job's result. A job whose future is canceled while it waits is left out.

        Raises:
            QueueFullError: If too much waits already, or the queue is closed.
        """
        with self._changed:
            if self._is_closed:
                raise QueueFullError("The service is shutting down.")
            if self._weight + weight > self._max_length:
                self._drop_canceled()
            if self._waiting and self._weight + weight > self._max_length:
                raise QueueFullError(f"The queue is full: {self._weight} of at most {self._max_length} wait.")
            waiting: _Waiting[Job, Result] = _Waiting(job, weight, time.monotonic(), Future())
            self._waiting.append(waiting)
            self._weight += weight
            self._changed.notify()
        return waiting.future

    def _drop_canceled(self) -> None:
        """Lets jobs go that nobody waits for any more, so that they keep no others out."""
        self._waiting = deque(waiting for waiting in self._waiting if not waiting.future.cancelled())
        self._weight = sum(waiting.weight for waiting in self._waiting)

    def __len__(self) -> int:
        """Sum of the weights that wait."""
        return self._weight

    @property
    def is_alive(self) -> bool:
        """Whether the thread takes further jobs."""
        return self._thread.is_alive() and not self._is_closed

    def close(self) -> None:
        """Refuses further jobs, works on all that wait, and ends the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            running = [waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()]
            if not running:
                continue
            if self._on_batch is not None:
                self._on_batch(sum(waiting.weight for waiting in running))
            outcomes = each_alone_on_error(self._work, [waiting.job for waiting in running])
            for waiting, outcome in zip(running, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    waiting.future.set_exception(outcome)
                else:
                    waiting.future.set_result(outcome)

    def _next_batch(self) -> list[_Waiting[Job, Result]]:
        """Waits for jobs, and takes them. Empty when the queue is closed and nothing waits."""
        with self._changed:
            while not self._waiting:
                if self._is_closed:
                    return []
                self._changed.wait()
            deadline = self._waiting[0].arrived + self._max_wait
            while self._weight < self._max_batch_size and not self._is_closed:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                self._changed.wait(remaining)
            batch = [self._waiting.popleft()]
            weight = batch[0].weight
            while self._waiting and weight + self._waiting[0].weight <= self._max_batch_size:
                batch.append(self._waiting.popleft())
                weight += batch[-1].weight
            self._weight -= weight
        return batch


def each_alone_on_error(
    work: Callable[[list[Part]], Sequence[Result | Exception]], parts: list[Part]
) -> list[Result | Exception]:
    """
    Works on parts together. If this fails, it works on each part alone, so that only the part at fault fails.

    Args:
        work (`Callable[[list[Part]], Sequence[Result | Exception]]`):
            Returns a result for each part. If it fails, it has changed nothing, or can be repeated.
        parts (`list[Part]`):
            The parts.

    Returns:
        `list[Result | Exception]`: for each part its result, or its error.
    """
    try:
        return list(work(parts))
    except Exception as error:  # it becomes the answer to the request at fault, and the thread works on
        if len(parts) == 1:
            return [error]
    return [outcome for part in parts for outcome in each_alone_on_error(work, [part])]
