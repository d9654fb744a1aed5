"""Parts: splits an evaluation into parts that are kept, and each part into equal shares of all processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather

from ..runs import claim_run, from_main_process, process_state
from ..runtime.progress import progress_bar


_BATCHES_PER_PART = 8


def run_in_parts(
    rank: Callable[[np.ndarray], np.ndarray],
    num_targets: int,
    batch_size: int,
    resume_dir: str | Path | None,
    settings: Mapping[str, Any],
    show_progress: bool,
) -> np.ndarray:
    """
    Calls `rank` on all targets, in parts. The processes of a distributed run rank equal shares of each part. When all
    of them are done, the main process writes the part to `resume_dir`.

    Args:
        rank (`Callable`):
            Takes the numbers of some targets, and returns an array with one entry per target.
        num_targets (`int`):
            Number of targets.
        batch_size (`int`):
            Histories per forward; a part holds a few batches of each process.
        resume_dir (`str` or `pathlib.Path`, *optional*):
            Directory of the parts. Parts that it holds already are not ranked again.
        settings (`Mapping[str, Any]`):
            JSON-ready values that the results depend on. They are written beside the parts.
        show_progress (`bool`):
            Whether to show a progress bar, on the main process.

    Returns:
        `numpy.ndarray` with `num_targets` entries, the same on every process.

    Raises:
        ValueError: If `batch_size` is less than 1.
        FileExistsError: If `resume_dir` holds parts that were made with other settings.
        RuntimeError: If a launcher started several processes, but they do not know of each other.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    state = process_state()
    if resume_dir is not None:
        claim_run(resume_dir, settings)
    parts = [] if resume_dir is None else from_main_process(lambda: _read_parts(resume_dir))
    num_done, part_size = sum(map(len, parts)), _BATCHES_PER_PART * batch_size * state.num_processes
    is_shown = show_progress and state.is_main_process
    with progress_bar(is_shown, total=num_targets, initial=num_done, desc="Ranking", unit="target") as progress:
        for start in range(num_done, num_targets, part_size):
            stop = min(start + part_size, num_targets)
            # All shares are equal, so that all processes run equally many forwards. The last target is repeated to
            # fill up the last share.
            share = -(-(stop - start) // state.num_processes)
            first = start + state.process_index * share
            part = rank(np.minimum(np.arange(first, first + share), stop - 1))
            parts.append(_gather(part, state)[: stop - start] if state.num_processes > 1 else part)
            if resume_dir is not None and state.is_main_process:
                _write_part(Path(resume_dir), start, parts[-1])
            progress.update(stop - start)
    return np.concatenate(parts)


def _gather(part: np.ndarray, state: PartialState) -> np.ndarray:
    """Concatenates the parts of all processes."""
    values = torch.from_numpy(np.ascontiguousarray(part).view(np.uint8).reshape(len(part), -1))  # bytes of any dtype
    return gather(values.to(state.device)).cpu().numpy().reshape(-1).view(part.dtype).reshape(-1, *part.shape[1:])


def _read_parts(directory: str | Path) -> list[np.ndarray]:
    """Reads parts from the first target on, up to the first gap."""
    parts: list[np.ndarray] = []
    for path in sorted(Path(directory).glob("part-*.npy")):
        if int(path.stem.removeprefix("part-")) == sum(map(len, parts)):
            parts.append(np.load(path, allow_pickle=False))
    return parts


def _write_part(directory: Path, start: int, part: np.ndarray) -> None:
    path = directory / f"part-{start:010d}.npy"
    with open(path.with_suffix(".tmp"), "wb") as file:
        np.save(file, part, allow_pickle=False)
    path.with_suffix(".tmp").replace(path)
