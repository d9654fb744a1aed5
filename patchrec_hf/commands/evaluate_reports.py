"""Reports of `patchrec evaluate`: writes them, prints their tables, and compares and draws them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from ..evaluation.plots import plot_calibration, plot_reports
from ..evaluation.report import EvaluationReport
from ..runs import finish_run
from .evaluate_arguments import EvaluateArguments


def write_reports(
    args: EvaluateArguments, reports: Mapping[str, EvaluationReport], other: EvaluationReport | None
) -> None:
    """
    Writes reports to `output_dir`, and prints them. The last one is the report of the run.

    Args:
        args ([`EvaluateArguments`]):
            The arguments of the run.
        reports (`Mapping[str, EvaluationReport]`):
            The reports of its evaluations, by the name of the protocol.
        other ([`EvaluationReport`], *optional*):
            The report to compare with.
    """
    *others, last = reports.values()
    last.save(args.output_dir)
    metrics = {**last.metrics(), **last.beyond_accuracy()}
    if last.only_at_depth:
        for report in others:
            report.save(Path(args.output_dir, f"at_{report.depth}"))
            metrics = {**report.metrics(), **metrics}
    finish_run(args.output_dir, metrics)
    shutil.rmtree(Path(args.output_dir, "parts"), ignore_errors=True)
    if last.only_at_depth:
        rows_of_table = [
            {"k": k, "HR@k": metrics[f"hr@{k}"], "NDCG@k": metrics[f"ndcg@{k}"]} for k in sorted(set(args.ks))
        ]
        print("Each k was decoded anew, so that HR and NDCG at two k can contradict each other:\n")
        _show(pl.DataFrame(rows_of_table), Path(args.output_dir, "release.md"))
        saved = [f"{Path(args.output_dir, f'at_{report.depth}')}" for report in others] + [args.output_dir]
        print(f"\nThe reports, with intervals and settings: {', '.join(saved)}.")
    else:
        print(last.to_markdown())
        if others:
            k = max(args.ks)
            table = pl.DataFrame([{"protocol": name, **report.metrics()} for name, report in reports.items()])
            table = table.select("protocol", f"hr@{k}", f"ndcg@{k}", f"title_hr@{k}")
            _show(table, Path(args.output_dir, "effects.md"))
    show_report(args, last, other)


def show_report(args: EvaluateArguments, report: EvaluationReport, other: EvaluationReport | None) -> None:
    """
    Prints the comparison with another report, and draws the reports, as far as the arguments ask for it.

    Args:
        args ([`EvaluateArguments`]):
            The arguments of the run.
        report ([`EvaluationReport`]):
            The report of the run.
        other ([`EvaluationReport`], *optional*):
            The report to compare with.
    """
    if other is not None:
        print(
            f"{args.output_dir} (this), {args.compare} (other), and this minus other with its 95% interval by users:\n"
        )
        _show(report.compare(other), Path(args.output_dir, "comparison.md"))
    if args.plot:
        shown = {args.output_dir: report, **({str(args.compare): other} if other else {})}
        plot_reports(shown, args.plot)
        drawn = [args.plot]
        calibrated = {name: one for name, one in shown.items() if "top_log_probs" in one.targets.columns}
        if calibrated:
            path = Path(args.plot)
            drawn.append(str(path.with_name(f"{path.stem}_calibration{path.suffix}")))
            plot_calibration(calibrated, drawn[1])
        print(f"Drawn in {' and '.join(drawn)}.")


def _show(table: pl.DataFrame, path: Path) -> None:
    with pl.Config(
        tbl_formatting="ASCII_MARKDOWN",
        tbl_hide_column_data_types=True,
        float_precision=4,
        tbl_hide_dataframe_shape=True,
        tbl_rows=-1,
        tbl_cols=-1,
        tbl_width_chars=200,
        fmt_str_lengths=100,
    ):
        print(table)
        path.write_text(f"{table}\n", encoding="utf-8")
