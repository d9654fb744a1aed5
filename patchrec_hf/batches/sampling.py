"""Sampling: assigns each row to the optimizer step that learns from it, before any worker reads the row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import NamedTuple, cast

import numpy as np
from datasets import Dataset, IterableDataset
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset as TorchIterableDataset
from torch.utils.data import Sampler, get_worker_info
from transformers import TrainerState

from ..data.rows import Row


_BATCHES_PER_POOL = 50
_BUFFER_ROWS = 10_000
_CHUNK_ROWS = 100


class ScheduledIndex(NamedTuple):
    """
    The number of a row, and the optimizer step that learns from it.

    Args:
        row_number (`int`):
            Index of the row in the data set.
        step (`int`):
            The optimizer step that learns from the row; the first is 0.
        progress (`float`):
            `step` / total steps: at least 0, below 1.
    """

    row_number: int
    step: int
    progress: float


class ScheduledRow(NamedTuple):
    """
    A row, and the optimizer step that learns from it.

    Args:
        row ([`Row`]):
            The row.
        step, progress:
            As in [`ScheduledIndex`].
    """

    row: Row
    step: int
    progress: float


class StepSampler(Sampler[ScheduledIndex]):
    """
    Shuffles rows and assigns each to an optimizer step. The order and the steps are pure functions of the seed and of
    the step at which the epoch began. So they are the same with any number of workers, under gradient accumulation and
    after resuming. The sampler ends with the last step of the run.

    Args:
        num_rows (`int`):
            Rows of the data set.
        rows_per_micro_batch (`int`):
            Rows that all processes together read for one forward.
        accumulation_steps (`int`):
            Forwards per optimizer step.
        num_processes (`int`):
            Number of processes. If there are several, rows from the epoch's start fill up the last micro-batch, so
            that every process gets a full one.
        drop_last (`bool`):
            Whether to leave out an epoch's incomplete last micro-batch.
        seed (`int`):
            Seed of the order.
        get_state (`Callable[[], TrainerState]`):
            Returns the trainer's state. The sampler calls it when an epoch begins.
        lengths (`numpy.ndarray` of shape `(num_rows,)`, *optional*):
            Length of each row. If given, micro-batches hold rows of similar length, and come in random order.
    """

    def __init__(
        self,
        num_rows: int,
        rows_per_micro_batch: int,
        accumulation_steps: int,
        num_processes: int,
        drop_last: bool,
        seed: int,
        get_state: Callable[[], TrainerState],
        lengths: np.ndarray | None = None,
    ) -> None:
        self.rows_per_micro_batch = rows_per_micro_batch
        self.accumulation_steps = accumulation_steps
        self.seed = seed
        self.get_state = get_state
        self.lengths = lengths
        self.num_rows = num_rows
        whole, rest = divmod(num_rows, rows_per_micro_batch)
        self.num_micro_batches = whole if rest == 0 or drop_last else whole + 1
        is_filled = rest > 0 and num_processes > 1 and not drop_last
        self.num_indices = self.num_micro_batches * rows_per_micro_batch if is_filled else num_rows

    def __len__(self) -> int:
        return self.num_indices

    def __iter__(self) -> Iterator[ScheduledIndex]:
        state = self.get_state()
        steps_per_epoch = max(-(-self.num_micro_batches // self.accumulation_steps), 1)
        # The whole epoch is sampled: after resuming within an epoch, Trainer skips the batches that are done.
        epoch = state.global_step // steps_per_epoch
        generator = np.random.default_rng((self.seed, epoch))
        shuffled = generator.permutation(self.num_rows)
        if self.lengths is not None:
            shuffled = _grouped(shuffled, self.lengths, self.rows_per_micro_batch, generator)
        order = shuffled.tolist()
        for index in range(self.num_indices):
            step = epoch * steps_per_epoch + index // self.rows_per_micro_batch // self.accumulation_steps
            if 0 < state.max_steps <= step:  # else Trainer would take one more step when it resumes after the last one
                return
            yield ScheduledIndex(order[index % self.num_rows], step, step / max(state.max_steps, 1))


def _grouped(order: np.ndarray, lengths: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Rearranges `order` into batches of similar length. Rows that do not fill a batch stay at the end."""
    num_whole = len(order) // size * size
    whole, rest = order[:num_whole].copy(), order[num_whole:]
    # Rows are sorted within pools only, so that batches differ from epoch to epoch.
    pool = size * _BATCHES_PER_POOL
    for start in range(0, num_whole, pool):
        rows = whole[start : start + pool]
        whole[start : start + pool] = rows[np.argsort(lengths[rows], kind="stable")]
    return np.concatenate([generator.permutation(whole.reshape(-1, size)).ravel(), rest])


class ScheduledDataset(TorchDataset[ScheduledRow]):
    """
    A data set that is indexed by [`ScheduledIndex`] and returns [`ScheduledRow`].

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: ScheduledIndex) -> ScheduledRow:
        return ScheduledRow(self.dataset[index.row_number], index.step, index.progress)

    def __getitems__(self, indices: Sequence[ScheduledIndex]) -> list[ScheduledRow]:
        rows = self.dataset.__getitems__([index.row_number for index in indices])
        return [ScheduledRow(row, index.step, index.progress) for row, index in zip(rows, indices, strict=True)]


class ScheduledStream(TorchIterableDataset[ScheduledRow]):
    """
    A stream of the rows of a whole run. When the data ends, it starts again in another order. The rows of a step are a
    pure function of the seed and the step, with any number of workers and processes.

    Args:
        dataset ([`~datasets.IterableDataset`]):
            Rows. The stream shuffles them within a buffer.
        rows_per_micro_batch (`int`):
            Rows that all processes together read for one forward.
        accumulation_steps (`int`):
            Forwards per optimizer step.
        seed (`int`):
            Seed of the order.
        max_steps (`int`):
            Optimizer steps of the whole run.
    """

    def __init__(
        self, dataset: IterableDataset, rows_per_micro_batch: int, accumulation_steps: int, seed: int, max_steps: int
    ) -> None:
        self.dataset = dataset
        self.rows_per_micro_batch = rows_per_micro_batch
        self.accumulation_steps = accumulation_steps
        self.seed = seed
        self.max_steps = max_steps
        self.first_step = 0
        """The optimizer step to begin at. A resumed run sets it, and the stream skips rows of earlier steps."""

    def __iter__(self) -> Iterator[ScheduledRow]:
        if self.first_step >= self.max_steps:
            return
        worker = get_worker_info()
        num_workers, worker_id = (1, 0) if worker is None else (worker.num_workers, worker.id)
        first = self.first_step * self.accumulation_steps
        for index, row in enumerate(self._endless_rows()):
            micro_batch = index // self.rows_per_micro_batch
            if micro_batch >= self.max_steps * self.accumulation_steps:
                return
            # The DataLoader asks workers in turn, so worker i makes micro-batches i, i + num_workers, …
            if micro_batch >= first and (micro_batch - first) % num_workers == worker_id:
                step = micro_batch // self.accumulation_steps
                yield ScheduledRow(row, step, step / max(self.max_steps, 1))

    def _endless_rows(self) -> Iterator[Row]:
        for epoch in count():
            # A new shuffle instead of `set_epoch`, which writes to memory that all workers share: a worker could read
            # the epoch of another one.
            generator = np.random.default_rng((self.seed, epoch))
            shuffled = self.dataset.shuffle(generator=generator, buffer_size=_BUFFER_ROWS)
            # In batches, because an iteration by rows would divide the rows among the workers.
            for batch in shuffled.iter(batch_size=_CHUNK_ROWS):
                names = list(batch)
                for values in zip(*batch.values(), strict=True):
                    yield cast(Row, dict(zip(names, values, strict=True)))
