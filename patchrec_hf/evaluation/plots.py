"""Plots: pictures of evaluation reports, of their metrics and of the calibration of their scores."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import polars as pl

from .report import EvaluationReport


_COLORS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860")


def plot_reports(reports: Mapping[str, EvaluationReport], path: str | os.PathLike) -> None:
    """
    Draws HR@k over k, and the HR at the largest cut-off for each slice of the targets, with its 95% interval. A report
    that has metrics at one cut-off alone is one point.

    Args:
        reports (`Mapping[str, EvaluationReport]`):
            At least one report, by the name to show. The cut-offs are the first report's.
        path (`str` or `os.PathLike`):
            Image file to write. Its extension selects the format, and its directory is made if there is none.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: If `reports` is no mapping.
        ValueError: If there is no report, or a report has no metrics at the largest cut-off.

    Example:
    ```python
    >>> plot_reports({"all-patch": report, "co-visitation": baseline}, "outputs/report.png")
    ```
    """
    _check_reports(reports)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('`plot_reports` needs matplotlib: pip install "patchrec-hf[plots]".') from error
    depth = max(next(iter(reports.values())).ks)
    metric = f"hr@{depth}"
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    slices: list[str] = []
    for number, (name, report) in enumerate(reports.items()):
        color = _COLORS[number % len(_COLORS)]
        ks = range(depth if report.only_at_depth else 1, depth + 1)
        values = report.metrics(ks)
        left.plot(ks, [values[f"hr@{k}"] for k in ks], label=name, color=color, marker="o" if len(ks) == 1 else None)
        if depth not in report.ks:
            report = replace(report, ks=(depth,))
        rows = report.intervals().filter(pl.col("metric") == metric)
        slices += [part for part in rows["slice"] if part not in slices]
        # The reports stand beside each other within a slice.
        shift = (number - (len(reports) - 1) / 2) * 0.6 / len(reports)
        places = [slices.index(part) + shift for part in rows["slice"]]
        spread = (rows["value"] - rows["low"], rows["high"] - rows["value"])
        right.errorbar(places, rows["value"], spread, fmt="o", color=color, markersize=4, capsize=3)
    left.set(xlabel="k", ylabel="HR@k")
    left.set_xlim(0, depth + 0.5)
    left.xaxis.get_major_locator().set_params(integer=True)
    left.legend(frameon=False)
    right.set(ylabel=f"HR@{depth}, with its 95% interval by users")
    right.set_xticks(range(len(slices)), slices, rotation=30, ha="right")
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def plot_calibration(reports: Mapping[str, EvaluationReport], path: str | os.PathLike) -> None:
    """
    Draws the share of hits over the mean probability, for each bin of [`EvaluationReport.calibration`]. On the
    diagonal, items of probability p are the target in a share p of the cases. A larger point stands for more items.
    The axes are logarithmic, so bins without a hit are not drawn.

    Args:
        reports (`Mapping[str, EvaluationReport]`):
            At least one report with log-probabilities, by the name to show.
        path (`str` or `os.PathLike`):
            Image file to write. Its extension selects the format, and its directory is made if there is none.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: If `reports` is no mapping.
        ValueError: If there is no report, or a report holds no log-probabilities.

    Example:
    ```python
    >>> plot_calibration({"all-patch": report, "co-visitation": baseline}, "outputs/calibration.png")
    ```
    """
    _check_reports(reports)
    tables = {name: report.calibration() for name, report in reports.items()}
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('`plot_calibration` needs matplotlib: pip install "patchrec-hf[plots]".') from error
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([1e-5, 1], [1e-5, 1], color="#333333", linestyle="--", linewidth=1)
    for number, (name, report) in enumerate(reports.items()):
        table = tables[name].filter(pl.col("num_hits") > 0)
        sizes = 20 + 20 * table["num_items"].log10()
        label = f"{name} (calibration error {report.beyond_accuracy()['calibration_error']:.4f})"
        color = _COLORS[number % len(_COLORS)]
        axes.plot(table["mean_probability"], table["hit_share"], color=color, linewidth=1)
        axes.scatter(table["mean_probability"], table["hit_share"], sizes, color=color, label=label)
    axes.set(xscale="log", yscale="log", xlabel="probability of a listed item", ylabel="share of hits")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _check_reports(reports: Mapping[str, EvaluationReport]) -> None:
    if not isinstance(reports, Mapping):
        raise TypeError(
            f"`reports` must be a mapping from names to reports, such as {{'my model': report}}, got "
            f"`{type(reports).__name__}`."
        )
    if not reports:
        raise ValueError("There is nothing to draw: `reports` is empty.")
