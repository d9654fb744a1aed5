"""Run directories: an interrupted script goes on where it stopped, and never overwrites what it has finished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState


def claim_run(output_dir: str | Path, settings: Mapping[str, Any]) -> None:
    """
    Makes a directory this run's: on first use `settings` are written to its `run.json`.

    Args:
        output_dir (`str` or `pathlib.Path`):
            The directory; made if it does not exist.
        settings (`Mapping[str, Any]`):
            JSON-ready values on which the results depend.

    Raises:
        FileExistsError: If the directory holds a finished run (`results.json`), or one with other settings.
    """
    output_dir = Path(output_dir)
    with PartialState().main_process_first():
        if (output_dir / "results.json").exists():
            raise FileExistsError(f"{output_dir} holds a finished run. Choose another directory, or delete it.")
        if not (output_dir / "run.json").exists():
            output_dir.mkdir(parents=True, exist_ok=True)
            write_json(output_dir / "run.json", dict(settings))
        found = json.loads((output_dir / "run.json").read_text(encoding="utf-8"))
    there, now = _flat(found), _flat(settings)
    changed = [
        f"{name}: {there.get(name)!r} there, {now.get(name)!r} now"
        for name in sorted({*there, *now})
        if there.get(name) != now.get(name)
    ]
    if changed:
        raise FileExistsError(
            f"{output_dir} holds a run with other settings ({'; '.join(changed)}). Repeat its settings to go on with "
            "it, or choose another directory."
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings within settings by names such as `outer.inner`, so that a difference is told by itself."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def finish_run(output_dir: str | Path, results: Any) -> None:
    """
    Writes `results.json`, which marks the run as finished. Only the main process writes.

    Args:
        output_dir (`str` or `pathlib.Path`):
            The run's directory.
        results (`Any`):
            JSON-ready values.
    """
    if PartialState().is_main_process:
        write_json(Path(output_dir) / "results.json", results)


def write_json(path: Path, values: Any) -> None:
    """Writes JSON-ready values to a file, which holds either what it held before or all of them."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(values, indent=2), encoding="utf-8")
    part.replace(path)
