"""Jobs wait for one thread, which works on them in batches."""

import threading

import pytest

from patchrec_hf.serving.work_queue import QueueFullError, WorkQueue, each_alone_on_error


class Worker:
    """Doubles numbers, once it is let go. It keeps the batches and the threads that it worked in."""

    def __init__(self, is_open=True):
        self.batches, self.threads, self.started, self.gate = [], set(), threading.Event(), threading.Event()
        if is_open:
            self.gate.set()

    def __call__(self, jobs):
        self.batches.append(list(jobs))
        self.threads.add(threading.current_thread().name)
        self.started.set()
        self.gate.wait()
        return [2 * job for job in jobs]


def blocked(max_batch_size=4, max_wait=0.0, max_length=100, **settings):
    """A queue whose thread is busy with the job 0."""
    worker = Worker(is_open=False)
    queue = WorkQueue("doubles", worker, max_batch_size, max_wait, max_length, **settings)
    first = queue.submit(0)
    worker.started.wait()
    return queue, worker, first


def test_jobs_gather_while_the_thread_works():
    sizes = []
    queue, worker, first = blocked(on_batch=sizes.append)
    futures = [queue.submit(number) for number in range(1, 7)]
    assert len(queue) == 6
    worker.gate.set()
    assert [future.result() for future in (first, *futures)] == [0, 2, 4, 6, 8, 10, 12]
    assert worker.batches == [[0], [1, 2, 3, 4], [5, 6]]
    assert sizes == [1, 4, 2]
    assert worker.threads == {"doubles"}
    assert len(queue) == 0
    queue.close()


def test_heavy_jobs():
    queue, worker, _ = blocked(max_batch_size=4, max_length=6)
    heavy = queue.submit(1, weight=9)
    with pytest.raises(QueueFullError, match="full: 9 of at most 6 wait"):
        queue.submit(2)
    worker.gate.set()
    assert heavy.result() == 2
    assert worker.batches == [[0], [1]]
    queue.close()


def test_weights_fill_a_batch():
    queue, worker, _ = blocked(max_batch_size=4)
    for number, weight in enumerate((3, 2, 2, 1), start=1):
        queue.submit(number, weight)
    worker.gate.set()
    queue.close()
    assert worker.batches == [[0], [1], [2, 3], [4]]


def test_the_oldest_job_waits_for_others():
    worker = Worker()
    queue = WorkQueue("doubles", worker, 2, 3600.0, 10)
    assert [future.result() for future in [queue.submit(1), queue.submit(2)]] == [2, 4]  # the batch is full
    assert worker.batches == [[1, 2]]
    last = queue.submit(3)
    queue.close()  # nobody else comes
    assert last.result() == 6


def test_a_full_queue_refuses_and_closing_answers_all():
    queue, worker, first = blocked(max_length=2)
    waiting = [queue.submit(number) for number in (1, 2)]
    with pytest.raises(QueueFullError, match="full: 2 of at most 2"):
        queue.submit(3)
    closing = threading.Thread(target=queue.close)
    closing.start()
    worker.gate.set()
    closing.join()
    assert [future.result() for future in (first, *waiting)] == [0, 2, 4]
    assert not queue.is_alive
    with pytest.raises(QueueFullError, match="shutting down"):
        queue.submit(4)


def test_canceled_jobs_are_left_out():
    queue, worker, _ = blocked()
    kept, canceled = queue.submit(1), queue.submit(2)
    assert canceled.cancel()
    worker.gate.set()
    assert kept.result() == 2
    queue.close()
    assert worker.batches == [[0], [1]]


def test_canceled_jobs_keep_no_others_out():
    queue, worker, _ = blocked(max_length=2)
    canceled, kept = queue.submit(1), queue.submit(2)
    assert canceled.cancel()
    other = queue.submit(3)
    assert len(queue) == 2
    worker.gate.set()
    assert (kept.result(), other.result()) == (4, 6)
    queue.close()


def test_only_the_job_at_fault_fails():
    def divide(jobs):
        return [12 // job for job in jobs]

    outcomes = each_alone_on_error(divide, [1, 0, 3])
    assert outcomes[::2] == [12, 4]
    assert isinstance(outcomes[1], ZeroDivisionError)
    assert each_alone_on_error(divide, []) == []
    queue = WorkQueue("divides", divide, 8, 0.01, 10)
    futures = [queue.submit(job) for job in (1, 0, 3)]
    assert futures[0].result() == 12
    with pytest.raises(ZeroDivisionError):
        futures[1].result()
    assert futures[2].result() == 4
    assert queue.submit(2).result() == 6  # the thread works on
    queue.close()
