"""Draws the results of a table or figure."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any


_SERIES = ("Vanilla", "PatchRec-I", "PatchRec-S")
_COLORS = dict(zip(_SERIES, ("tab:gray", "tab:blue", "tab:orange"), strict=True))
_MARKERS = dict(zip(_SERIES, ("o", "s", "^"), strict=True))


def require_matplotlib() -> None:
    """Ends the script if the plots cannot be drawn."""
    if find_spec("matplotlib") is None:
        raise SystemExit('The plots need matplotlib: pip install "patchrec-hf[plots]".')


def plot(values: dict[str, Any], path: Path) -> None:
    """
    Draws HR@20 of each method with its interval, along the axis of the plan.

    Args:
        values (`dict[str, Any]`):
            The content of a `results.json`.
        path (`pathlib.Path`):
            The SVG file to write.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows, axis = values["methods"], values.get("axis", "HR@20")
    height = max(3, 0.9 + 0.32 * len(rows)) if axis == "HR@20" else 4
    figure = Figure(figsize=(7, height), layout="constrained")
    axes = figure.subplots()
    if axis == "HR@20":
        heights, errors = _values_and_errors(rows)
        colors = ["tab:blue" if is_llm_alone(row) else "tab:gray" for row in rows]
        axes.barh([row["method"] for row in rows], heights, xerr=errors, color=colors, capsize=2)
        axes.invert_yaxis()
        axes.set(xlabel="HR@20 with its 95% interval (blue: an LLM alone)")
    else:
        _draw_series(axes, rows, axis)
    axes.spines[["top", "right"]].set_visible(False)
    with rc_context({"svg.hashsalt": "patchrec-hf"}):  # so that equal values give equal files
        figure.savefig(path, metadata={"Date": None})


def is_llm_alone(row: dict[str, Any]) -> bool:
    """Returns whether a method is an LLM that no counts join."""
    return row["budget"] is not None and "weights" not in row["settings"]


def _draw_series(axes: Any, rows: Sequence[dict[str, Any]], axis: str) -> None:
    """Draws a point for each method, and a line through the points of each series."""
    for series in _SERIES:
        points = [row for row in rows if row["method"].split(" (")[0] == series]
        points = [row for row in points if _place(row, axis) is not None]
        points.sort(key=lambda row: _place(row, axis))
        if points:
            axes.errorbar(
                [_place(row, axis) for row in points],
                *_values_and_errors(points),
                color=_COLORS[series],
                marker=_MARKERS[series],
                capsize=3,
                label=series,
            )
    labels = {
        "items": "items of a history",
        "tokens": "tokens of a history (mean)",
        "compression ratio": "compression ratio (tokens of the history before / after)",
        "time": "time to rank, relative to the first method",
    }
    axes.set(xlabel=labels[axis], ylabel="HR@20 with its 95% interval")
    if axis == "compression ratio":
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
    if axes.containers:
        axes.legend(frameon=False)


def _place(row: dict[str, Any], axis: str) -> float | None:
    if axis == "items":
        return row["settings"]["max_history"]
    return row[{"tokens": "history_tokens", "compression ratio": "compression_ratio", "time": "latency"}[axis]]


def _values_and_errors(rows: Sequence[dict[str, Any]]) -> tuple[list[float], list[list[float]]]:
    """Returns HR@20, and the distances to the lower and upper bound of its interval."""
    triples = [row["test"]["hr@20"] for row in rows]
    below, above = [value - low for value, low, _ in triples], [high - value for value, _, high in triples]
    return [value for value, _, _ in triples], [below, above]
