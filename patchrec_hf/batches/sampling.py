"""The curriculum's clock: which optimizer step learns from which row, known before any worker touches the row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, IterableDataset
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset as TorchIterableDataset
from torch.utils.data import Sampler, get_worker_info
from transformers import TrainerState


_BATCHES_IN_POOL = 50
_ROWS_IN_BUFFER = 10_000
_ROWS_AT_A_TIME = 100


class Stamp(NamedTuple):
    """
    A row on its way to the collator.

    Args:
        row_index (`int`):
            Which row of the data set.
        step (`int`):
            The optimizer step, from 0, that learns from it.
        progress (`float`):
            `step` over the total number of steps: from 0 towards 1.
    """

    row_index: int
    step: int
    progress: float


class StampedSampler(Sampler[Stamp]):
    """
    Shuffles rows and stamps each with its optimizer step. The order and the stamps are pure functions of the seed and
    of the step at which the epoch began, so they are the same with any number of workers, under gradient
    accumulation, and after resuming.

    Args:
        num_rows (`int`):
            Rows of the data set.
        rows_per_micro_batch (`int`):
            Rows that all processes together read for one forward.
        accumulation_steps (`int`):
            Forwards per optimizer step.
        num_processes (`int`):
            With more than one, the last micro-batch is filled up with rows of the epoch's start, so that every process
            gets a full one.
        drop_last (`bool`):
            Whether an epoch's incomplete last micro-batch is left out.
        seed (`int`):
            Seed of the order.
        get_state (`Callable[[], TrainerState]`):
            Returns the trainer's state, read when an epoch begins.
        lengths (`numpy.ndarray` of shape `(num_rows,)`, *optional*):
            If given, rows of about one length come together in a micro-batch. Micro-batches come in random order.
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
        fills_up = rest > 0 and num_processes > 1 and not drop_last
        self.num_stamps = self.num_micro_batches * rows_per_micro_batch if fills_up else num_rows

    def __len__(self) -> int:
        return self.num_stamps

    def __iter__(self) -> Iterator[Stamp]:
        state = self.get_state()
        steps_per_epoch = max(-(-self.num_micro_batches // self.accumulation_steps), 1)
        # After resuming in the middle of an epoch, Trainer skips what the epoch has already given.
        epoch = state.global_step // steps_per_epoch
        generator = np.random.default_rng((self.seed, epoch))
        shuffled = generator.permutation(self.num_rows)
        if self.lengths is not None:
            shuffled = _grouped(shuffled, self.lengths, self.rows_per_micro_batch, generator)
        order = shuffled.tolist()
        for place in range(self.num_stamps):
            step = epoch * steps_per_epoch + place // self.rows_per_micro_batch // self.accumulation_steps
            yield Stamp(order[place % self.num_rows], step, step / max(state.max_steps, 1))


def _grouped(order: np.ndarray, lengths: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """`order` with batches of about one length; what is left over stays at the end."""
    num_whole = len(order) // size * size
    whole, rest = order[:num_whole].copy(), order[num_whole:]
    # Sorted within pools only, so that batches differ from epoch to epoch.
    pool = size * _BATCHES_IN_POOL
    for start in range(0, num_whole, pool):
        rows = whole[start : start + pool]
        whole[start : start + pool] = rows[np.argsort(lengths[rows], kind="stable")]
    return np.concatenate([generator.permutation(whole.reshape(-1, size)).ravel(), rest])


class StampedDataset(TorchDataset[dict[str, Any]]):
    """
    A data set indexed by [`Stamp`]: its rows carry `step` and `progress`.

    Args:
        dataset ([`~datasets.Dataset`]):
            Example rows.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, stamp: Stamp) -> dict[str, Any]:
        return {**self.dataset[stamp.row_index], "step": stamp.step, "progress": stamp.progress}

    def __getitems__(self, stamps: Sequence[Stamp]) -> list[dict[str, Any]]:
        rows = self.dataset.__getitems__([stamp.row_index for stamp in stamps])
        return [
            {**row, "step": stamp.step, "progress": stamp.progress} for row, stamp in zip(rows, stamps, strict=True)
        ]


class StampedStream(TorchIterableDataset[dict[str, Any]]):
    """
    A stream of the rows of a whole run, which carry `step` and `progress`. Where the data ends, it begins anew in
    another order. What is learned at a step is a pure function of the seed and the step, with any number of workers
    and processes.

    Args:
        dataset ([`~datasets.IterableDataset`]):
            Example rows. They are shuffled within a buffer.
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
        """The optimizer step to begin at: where a run is resumed, rows of earlier steps are passed over."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        num_workers, own = (1, 0) if worker is None else (worker.num_workers, worker.id)
        first = self.first_step * self.accumulation_steps
        for place, row in enumerate(self._endless_rows()):
            micro_batch = place // self.rows_per_micro_batch
            # Batches are taken from the workers in turn, so each makes every so many of them.
            if micro_batch >= self.max_steps * self.accumulation_steps:
                return
            if micro_batch >= first and (micro_batch - first) % num_workers == own:
                step = micro_batch // self.accumulation_steps
                yield {**row, "step": step, "progress": step / max(self.max_steps, 1)}

    def _endless_rows(self) -> Iterator[dict[str, Any]]:
        for epoch in count():
            # A new shuffle: `set_epoch` writes to memory that all workers share, so one could get another's epoch.
            generator = np.random.default_rng((self.seed, epoch))
            shuffled = self.dataset.shuffle(generator=generator, buffer_size=_ROWS_IN_BUFFER)
            # By batches: an iteration by rows would share them out to the workers.
            for batch in shuffled.iter(batch_size=_ROWS_AT_A_TIME):
                names = list(batch)
                for values in zip(*batch.values(), strict=True):
                    yield dict(zip(names, values, strict=True))
