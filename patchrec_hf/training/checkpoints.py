"""Checkpoints of a training run: marks whole ones, finds the last, and checks that a run can resume from it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import PROCESSOR_NAME, logging

from ..runs import write_json
from ..runtime.catalog import Catalog
from ..runtime.hub_files import CATALOG_NAME
from ..runtime.processing import PatchRecProcessor


logger = logging.get_logger(__name__)

RUN_NAME = "patchrec_run.json"
"""The last file that is written into a checkpoint. A checkpoint without it is not whole."""
_UNFINISHED_NAME = "patchrec_unfinished"


def mark_whole(checkpoint: str | os.PathLike, facts: Mapping[str, Any]) -> None:
    """
    Marks a checkpoint as whole.

    Args:
        checkpoint (`str` or `os.PathLike`):
            The checkpoint's directory. Every process must have written its files.
        facts (`Mapping[str, Any]`):
            JSON-ready values that a run must share to resume from this checkpoint (see [`check_resumable`]).
    """
    write_json(Path(checkpoint) / RUN_NAME, dict(facts))
    mark_written(checkpoint)


def mark_written(checkpoint: str | os.PathLike) -> None:
    """Marks a checkpoint as completely written, whether or not a run can resume from it."""
    (Path(checkpoint) / _UNFINISHED_NAME).unlink(missing_ok=True)


def unmark(checkpoint: str | os.PathLike) -> None:
    """Marks a checkpoint as unfinished, before it is written or deleted."""
    Path(checkpoint).mkdir(parents=True, exist_ok=True)
    (Path(checkpoint) / _UNFINISHED_NAME).touch()
    (Path(checkpoint) / RUN_NAME).unlink(missing_ok=True)


def last_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """
    Finds the newest whole checkpoint of a trainer. It skips checkpoints whose writing was interrupted.

    Args:
        output_dir (`str` or `os.PathLike`):
            The trainer's output directory.

    Returns:
        `str`, *optional*: the checkpoint's directory; `None` if there is none.

    Example:
    ```python
    >>> trainer.train(resume_from_checkpoint=last_checkpoint(args.output_dir))  # without one, starts from scratch
    ```
    """
    whole = [path for path in _checkpoints(output_dir) if (path / RUN_NAME).is_file()]
    return str(whole[-1]) if whole else None


def delete_old_checkpoints(output_dir: str | os.PathLike, limit: int | None, *kept: str | None) -> None:
    """
    Deletes the earliest checkpoints beyond `limit`, and all checkpoints whose writing was interrupted. It keeps
    checkpoints that other programs have written, and checkpoints that were saved with `save_only_model`.

    Args:
        output_dir (`str` or `os.PathLike`):
            The trainer's output directory.
        limit (`int`, *optional*):
            Number of checkpoints to keep; if not given, nothing is deleted.
        *kept (`str`, *optional*):
            Checkpoints to keep in any case, such as the latest and the best.
    """
    if not limit or limit < 0:
        return
    protected = {Path(checkpoint) for checkpoint in kept if checkpoint is not None}
    others = [path for path in _checkpoints(output_dir) if path not in protected]
    whole = [path for path in others if (path / RUN_NAME).is_file()]
    surplus = whole[: max(len(whole) - max(limit - len(protected), 0), 0)]
    unfinished = [path for path in others if path not in whole and (path / _UNFINISHED_NAME).is_file()]
    for path in (*unfinished, *surplus):
        unmark(path)  # deleting may be interrupted, and must not leave a checkpoint that looks whole
        shutil.rmtree(path, ignore_errors=True)


def _checkpoints(output_dir: str | os.PathLike) -> list[Path]:
    """Lists all checkpoints, whole or not, by step."""
    directories = [path for path in Path(output_dir).glob("checkpoint-*") if path.is_dir()]
    numbered = [path for path in directories if path.name.rpartition("-")[2].isdigit()]
    return sorted(numbered, key=lambda path: int(path.name.rpartition("-")[2]))


def found_batch_size(checkpoint: str | os.PathLike) -> int | None:
    """
    Returns the rows per forward of a process, with which the run that wrote a checkpoint went on. With
    `auto_find_batch_size`, they can be fewer than it asked for.

    Args:
        checkpoint (`str` or `os.PathLike`):
            The checkpoint's directory.

    Returns:
        `int`, *optional*: `None` if the checkpoint does not say.
    """
    path = Path(checkpoint) / TRAINER_STATE_NAME
    return TrainerState.load_from_json(str(path)).train_batch_size if path.is_file() else None


def check_resumable(
    checkpoint: str | os.PathLike, facts: Mapping[str, Any], processor: PatchRecProcessor
) -> dict[str, Any]:
    """
    Checks that a run has the same data, prompts and steps as the run that wrote a checkpoint.

    Args:
        checkpoint (`str` or `os.PathLike`):
            The checkpoint's directory.
        facts (`Mapping[str, Any]`):
            Values that run and checkpoint must share. Other facts of the checkpoint are ignored.
        processor ([`PatchRecProcessor`]):
            The run's processor.

    Returns:
        `dict[str, Any]`: all facts of the checkpoint.

    Raises:
        ValueError: If the checkpoint is not whole, or if a fact, a setting of the processor, the prompt or the catalog
            differs.
    """
    checkpoint = Path(checkpoint)
    if not (checkpoint / RUN_NAME).is_file():
        raise ValueError(
            f"{checkpoint} is not a whole checkpoint of this library (it has no {RUN_NAME}): its writing was "
            "interrupted, or the path is wrong. Resume from an earlier checkpoint; `resume_from_checkpoint=True` "
            "takes the last whole one."
        )
    # Checkpoints of earlier versions do not name what could not be chosen then.
    old_facts: dict[str, Any] = {
        "objective": "title",
        "twin": "compressed",
        "title_normalizer": "vocabulary",
        "title_temperature": 1.0,
        "patcher": "mean",
        "patcher_layers": 1,
        "distillation_weight": 0.0,
        "distillation_temperature": 1.0,
        **json.loads((checkpoint / RUN_NAME).read_text(encoding="utf-8")),
    }
    old_settings: dict[str, Any] = {
        "item_residuals": 0,
        "time_gaps": 0,
        **json.loads((checkpoint / PROCESSOR_NAME).read_text(encoding="utf-8")),
    }
    settings = json.loads(json.dumps(processor.to_dict()))
    if "class" not in old_settings["layout"]:  # an earlier version kept no import paths
        settings["layout"].pop("class", None)
    pairs = [(name, old_facts.get(name), value) for name, value in facts.items()]
    names = ("layout", "max_history", "separate_patches", "item_residuals", "time_gaps")
    pairs += [(name, old_settings[name], settings[name]) for name in names]
    changed = [f"{name}: old {old!r}, new {new!r}" for name, old, new in pairs if old != new]
    if old_settings["prompt"] != settings["prompt"]:
        changed.append("the prompt's tokens")
    old_catalog, catalog = Catalog.from_parquet(checkpoint / CATALOG_NAME), processor.catalog
    if not np.array_equal(old_catalog.item_ids, catalog.item_ids) or old_catalog.titles != catalog.titles:
        changed.append(f"the catalog (old {len(old_catalog)} items, new {len(catalog)} items)")
    if changed:
        raise ValueError(
            f"Cannot resume from {checkpoint}: these settings differ: {'; '.join(changed)}. Restore the old settings, "
            "or load the checkpoint as a model and train in another output directory."
        )
    return old_facts


def warn_of_ignored_settings(
    checkpoint: str | os.PathLike, facts: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    """
    Logs one warning if a run changes settings that it takes from the checkpoint's optimizer.

    Args:
        checkpoint (`str` or `os.PathLike`):
            The checkpoint's directory.
        facts (`Mapping[str, Any]`):
            All facts of the checkpoint (see [`check_resumable`]). A checkpoint of an earlier version lacks these.
        settings (`Mapping[str, Any]`):
            The run's own values.
    """
    changed = [
        f"{name}: old {facts[name]!r}, new {value!r}"
        for name, value in settings.items()
        if name in facts and facts[name] != value
    ]
    if changed:
        logger.warning(
            f"A resumed run keeps the optimizer's settings, so these changes have no effect: {'; '.join(changed)}. "
            f"To train with the new values, pass {checkpoint} as `model` and choose another output directory."
        )
