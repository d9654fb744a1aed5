"""Curves: a picture of what a training run has logged."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any


# HR and NDCG of items; of one evaluation set among several, after its name.
_METRIC = re.compile(r"(?!(?:.+_)?title_)(?:.+_)?(?:hr|ndcg)@\d+")
_COLORS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860")


def plot_curves(
    log_history: Sequence[Mapping[str, Any]], path: str | os.PathLike, title: str | None = None
) -> Path | None:
    """
    Draws the losses, HR and NDCG of a run over its steps.

    Args:
        log_history (`Sequence[Mapping[str, Any]]`):
            The log of a run: `trainer.state.log_history`.
        path (`str` or `os.PathLike`):
            Image file to write. Its extension selects the format, and its directory is made if there is none.
        title (`str`, *optional*):
            Title of the picture.

    Returns:
        `pathlib.Path`, *optional*: the file; `None` if matplotlib is not installed, or no loss was logged.

    Example:
    ```python
    >>> plot_curves(trainer.state.log_history, "outputs/final/curves.png")
    ```
    """
    losses, metrics = _curves(log_history)
    if not losses or find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure

    panels = [("loss", losses), *([("metric on evaluation rows", metrics)] if metrics else [])]
    figure = Figure(figsize=(5 * len(panels), 3.5), layout="constrained")
    for axes, (label, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, (name, (steps, values)) in enumerate(curves.items()):
            # A line through few points would hide them.
            marker = "o" if len(steps) < 30 else None
            color = _COLORS[number % len(_COLORS)]
            axes.plot(steps, values, label=name, color=color, marker=marker, markersize=3, linewidth=1.5)
        axes.set(xlabel="optimizer step", ylabel=label)
        axes.set_xlim(left=0)
        if label != "loss":
            axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    if title is not None:
        figure.suptitle(title)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


_Curve = tuple[list[int], list[float]]


def _curves(log_history: Sequence[Mapping[str, Any]]) -> tuple[dict[str, _Curve], dict[str, _Curve]]:
    """Returns the curves of losses and of ranking metrics by their names: steps and values."""
    losses: dict[str, _Curve] = {}
    metrics: dict[str, _Curve] = {}
    for entry in log_history:
        for key, value in entry.items():
            name = key.removeprefix("eval_")
            if key == "loss":
                curves, name = losses, "training"
            elif name != key and name.endswith("loss"):
                curves, name = losses, f"evaluation {name.removesuffix('loss').strip('_')}".strip()
            elif name != key and _METRIC.fullmatch(name):
                curves = metrics
            else:
                continue
            steps, values = curves.setdefault(name, ([], []))
            steps.append(entry["step"])
            values.append(float(value))
    return losses, metrics
