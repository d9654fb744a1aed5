"""Run directories: let an interrupted script continue, and never overwrite a finished run."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list


T = TypeVar("T")


def process_state() -> PartialState:
    """
    Returns the number of processes of this run, and which of them this process is.

    Raises:
        RuntimeError: If a launcher started several processes, but they do not know of each other.
    """
    state = PartialState()
    if state.num_processes == 1 and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise RuntimeError(
            f"A launcher started {os.environ['WORLD_SIZE']} processes, but this process runs as if it were alone. "
            "On a CPU, call `accelerate.PartialState(cpu=True)` before anything else."
        )
    return state


def from_main_process(make: Callable[[], T]) -> T:
    """
    Calls a function on the main process, and returns its result on every process. The others wait.

    Args:
        make (`Callable[[], T]`):
            Takes nothing. Its result is copied to the other processes.

    Raises:
        Exception: On every process, if the function raises it.
    """
    state = PartialState()
    if state.num_processes == 1:
        return make()
    outcome: list[Any] = [None, None]
    if state.is_main_process:
        try:
            outcome = [make(), None]
        except Exception as error:  # otherwise, the others would wait until they are killed
            outcome = [None, error]
    result, failure = broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    return result


def claim_run(output_dir: str | Path, settings: Mapping[str, Any], scratch: Sequence[str] = ()) -> None:
    """
    Claims a directory for this run. The first call writes `settings` to the directory's `run.json`.

    A run that ended before it wrote anything else does not keep its directory: a run with other settings claims it.

    Args:
        output_dir (`str` or `pathlib.Path`):
            Directory of the run. It is created if it does not exist.
        settings (`Mapping[str, Any]`):
            JSON-ready values that determine the results.
        scratch (`Sequence[str]`, *optional*):
            Names of directories in it that a run writes before its first step. A run with other settings deletes them
            and writes its own.

    Raises:
        ValueError: If a setting is NaN or infinite. Nothing is written then.
        FileExistsError: If the directory holds a finished run (`results.json`) or a run with other settings.
    """
    for name, value in _flat(settings).items():  # NaN is unequal to itself, and JSON has neither
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"`{name}` must be a finite number, got {number}.")
    output_dir = Path(output_dir)
    state = PartialState()
    with state.main_process_first():
        if (output_dir / "results.json").exists():
            raise FileExistsError(f"{output_dir} holds a finished run. Choose another directory, or delete it.")
        is_new = not (output_dir / "run.json").exists()
        if is_new or (state.is_main_process and not _holds_work(output_dir, scratch)):
            output_dir.mkdir(parents=True, exist_ok=True)
            if not is_new and _flat(_read_settings(output_dir)) != _flat(settings):
                for name in scratch:
                    shutil.rmtree(output_dir / name, ignore_errors=True)
            write_json(output_dir / "run.json", dict(settings))
        saved = _read_settings(output_dir)
    old, new = _flat(saved), _flat(settings)
    changed = [
        f"{name}: old {old.get(name)!r}, new {new.get(name)!r}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if changed:
        raise FileExistsError(
            f"{output_dir} holds a run with other settings ({'; '.join(changed)}). Repeat the old settings to "
            "continue that run, or choose another directory."
        )


def _read_settings(output_dir: Path) -> dict[str, Any]:
    return json.loads((output_dir / "run.json").read_text(encoding="utf-8"))


def _holds_work(output_dir: Path, scratch: Sequence[str]) -> bool:
    """Whether a run has written something to continue from. TensorBoard's logs begin before the first step."""
    ignored = {"run.json", "run.part", *scratch}
    return any(
        path.is_file()
        and path.relative_to(output_dir).parts[0] not in ignored
        and not path.name.startswith("events.out.tfevents")
        for path in output_dir.rglob("*")
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested settings to names such as `outer.inner`, so that an error names only the values that differ."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def finish_run(output_dir: str | Path, results: Any) -> None:
    """
    Writes `results.json`, which marks the run as finished. Only the main process writes.

    Args:
        output_dir (`str` or `pathlib.Path`):
            Directory of the run.
        results (`Any`):
            JSON-ready values.
    """
    if PartialState().is_main_process:
        write_json(Path(output_dir) / "results.json", results)


def write_json(path: Path, values: Any) -> None:
    """Writes JSON-ready values to a file atomically: if interrupted, the file keeps its old content."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(values, indent=2), encoding="utf-8")
    part.replace(path)
