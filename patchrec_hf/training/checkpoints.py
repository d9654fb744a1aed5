"""Checkpoints of a training run: which of them are whole, and whether a run can go on from one as it began."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import PROCESSOR_NAME

from ..runs import write_json
from ..runtime.layouts import layout_to_dict
from ..runtime.processing import PatchRecProcessor


RUN_NAME = "patchrec_run.json"
"""Written into a checkpoint when everything else in it is; so a checkpoint without it is not whole."""
_UNFINISHED_NAME = "patchrec_unfinished"


def mark_whole(checkpoint: str | os.PathLike, facts: Mapping[str, Any]) -> None:
    """
    Marks a checkpoint as whole.

    Args:
        checkpoint (`str` or `os.PathLike`):
            The directory, in which every process has written what it has to.
        facts (`Mapping[str, Any]`):
            JSON-ready values: what a run must share to go on from here (see [`check_resumable`]).
    """
    write_json(Path(checkpoint) / RUN_NAME, dict(facts))
    mark_written(checkpoint)


def mark_written(checkpoint: str | os.PathLike) -> None:
    """Says of a checkpoint that its writing is over, whether a run can go on from it or not."""
    (Path(checkpoint) / _UNFINISHED_NAME).unlink(missing_ok=True)


def unmark(checkpoint: str | os.PathLike) -> None:
    """Says of a checkpoint that it is not whole, as it is about to be written or deleted."""
    Path(checkpoint).mkdir(parents=True, exist_ok=True)
    (Path(checkpoint) / _UNFINISHED_NAME).touch()
    (Path(checkpoint) / RUN_NAME).unlink(missing_ok=True)


def last_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """
    The newest whole checkpoint of a trainer, or `None`. A checkpoint whose writing was interrupted is passed over.

    Args:
        output_dir (`str` or `os.PathLike`):
            The trainer's output directory.

    Example:
    ```python
    >>> trainer.train(resume_from_checkpoint=last_checkpoint(args.output_dir))  # begins anew if there is none
    ```
    """
    whole = [path for path in _checkpoints(output_dir) if (path / RUN_NAME).is_file()]
    return str(whole[-1]) if whole else None


def delete_old_checkpoints(output_dir: str | os.PathLike, limit: int | None, *kept: str | None) -> None:
    """
    Deletes checkpoints beyond a number, those of the earliest steps first, and those that were begun and never
    finished. What others have written (or `save_only_model`) stays.

    Args:
        output_dir (`str` or `os.PathLike`):
            The trainer's output directory.
        limit (`int`, *optional*):
            How many to keep; nothing is deleted without it.
        *kept (`str`, *optional*):
            Checkpoints that stay: the latest and the best.
    """
    if not limit or limit < 0:
        return
    stay = {Path(checkpoint) for checkpoint in kept if checkpoint is not None}
    others = [path for path in _checkpoints(output_dir) if path not in stay]
    whole = [path for path in others if (path / RUN_NAME).is_file()]
    surplus = whole[: max(len(whole) - max(limit - len(stay), 0), 0)]
    unfinished = [path for path in others if path not in whole and (path / _UNFINISHED_NAME).is_file()]
    for path in (*unfinished, *surplus):
        unmark(path)  # first, as deleting may be interrupted too
        shutil.rmtree(path, ignore_errors=True)


def _checkpoints(output_dir: str | os.PathLike) -> list[Path]:
    """Whole or not, in the order of their steps."""
    found = [path for path in Path(output_dir).glob("checkpoint-*") if path.is_dir()]
    numbered = [path for path in found if path.name.rpartition("-")[2].isdigit()]
    return sorted(numbered, key=lambda path: int(path.name.rpartition("-")[2]))


def check_resumable(
    checkpoint: str | os.PathLike, facts: Mapping[str, Any], processor: PatchRecProcessor
) -> dict[str, Any]:
    """
    Checks that a run is the one that wrote a checkpoint, as far as its data, prompts and steps go.

    Args:
        checkpoint (`str` or `os.PathLike`):
            The directory.
        facts (`Mapping[str, Any]`):
            What the run and the checkpoint must share; the checkpoint's other facts are not looked at.
        processor ([`PatchRecProcessor`]):
            The run's processor.

    Returns:
        `dict[str, Any]`: all facts of the checkpoint.

    Raises:
        ValueError: If the checkpoint is not whole, or something differs.
    """
    checkpoint = Path(checkpoint)
    if not (checkpoint / RUN_NAME).is_file():
        raise ValueError(
            f"{checkpoint} is not a whole checkpoint of this library (it has no {RUN_NAME}): its writing was "
            "interrupted, or the path is wrong. Resume from an earlier one; `resume_from_checkpoint=True` takes the "
            "last whole one."
        )
    found: dict[str, Any] = json.loads((checkpoint / RUN_NAME).read_text(encoding="utf-8"))
    there = PatchRecProcessor.from_pretrained(checkpoint, layout=processor.layout)
    layout = json.loads((checkpoint / PROCESSOR_NAME).read_text(encoding="utf-8"))["layout"]
    pairs = [(name, found.get(name), value) for name, value in facts.items()]
    pairs += [
        ("layout", layout, json.loads(json.dumps(layout_to_dict(processor.layout)))),
        ("max_history", there.max_history, processor.max_history),
        ("separate_patches", there.separate_patches, processor.separate_patches),
    ]
    changed = [f"{name}: {old!r} there, {new!r} now" for name, old, new in pairs if old != new]
    if there.prompt != processor.prompt:
        changed.append("the prompt's tokens")
    same_items = np.array_equal(there.catalog.item_ids, processor.catalog.item_ids)
    if not same_items or there.catalog.titles != processor.catalog.titles:
        changed.append(f"the catalog ({len(there.catalog)} items there, {len(processor.catalog)} now)")
    if changed:
        raise ValueError(
            f"The run cannot go on from {checkpoint} as it began, for these differ: {'; '.join(changed)}. Repeat its "
            "settings, or load the checkpoint as a model and train in another output directory."
        )
    return found
