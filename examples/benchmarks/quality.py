"""
Trains the all-patch recipe within a budget, and compares it with baselines on all test rows, in one run.

On the embedded sample, in a few minutes:

    python examples/benchmarks/quality.py --data sample --minutes 1

On a data set (a prepared directory, raw files, or a name), with the results as JSON:

    python examples/benchmarks/quality.py --data data/goodreads --minutes 15 --json quality.json

The budget is computing time of this process for each trained LLM: minutes times the number of torch's threads. All
settings, also the number of epochs and the fusion's weights, are chosen on validation rows. Nothing is excluded from
the rankings, except in the row `co-visitation-unseen`, which leaves out the items of the history.
"""

import argparse
import json
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import torch
from quality_methods import METHODS, VARIANTS, Study
from transformers import set_seed

from patchrec_hf import EvaluationReport
from patchrec_hf.runs import claim_run


def main(args: argparse.Namespace) -> None:
    set_seed(args.seed)
    with tempfile.TemporaryDirectory() as directory:
        if args.output_dir:  # a run continues only with its own settings
            names = ["data", "minutes", "seed", "hidden_size", "ties", "variant", "model", "num_layers"]
            names.append("learning_rate")
            claim_run(args.output_dir, {name: getattr(args, name) for name in names})
        study = Study(
            args.data,
            args.minutes,
            args.seed,
            args.hidden_size,
            args.ties,
            args.output_dir or Path(directory),
            VARIANTS[args.variant],
            args.model,
            args.num_layers,
            args.learning_rate,
        )
        print(
            f"{len(study.splits['test'])} test rows of {len(set(study.splits['test']['user_id']))} users, "
            f"{len(study.catalog)} items to rank, {torch.get_num_threads()} threads, seed {args.seed}"
        )
        reports, train_seconds, users_per_second = {}, {}, {}
        for method in args.method or METHODS:
            start = time.perf_counter()
            rank = METHODS[method](study)
            train_seconds[method] = time.perf_counter() - start
            start = time.perf_counter()
            reports[method] = rank(study.splits["test"])
            users_per_second[method] = len(study.splits["test"]) / (time.perf_counter() - start)
            print(f"{method}: trained in {train_seconds[method]:.0f} s", flush=True)
        is_cold = next(iter(reports.values())).targets["is_cold"]
        print(f"{is_cold.mean():.1%} of the test targets are in no training row")
        results = {
            "data": args.data,
            "minutes": args.minutes,
            "seed": args.seed,
            "variant": args.variant,
            "metrics": {name: report.metrics() for name, report in reports.items()},
            "cold": {name: study.cold_hr(report) for name, report in reports.items()},
            "hr@20_intervals": {name: hr_interval(report) for name, report in reports.items()},
            "train_seconds": train_seconds,
            "users_per_second": users_per_second,
            "minus_co_visitation": {},
            "notes": study.notes,
        }
        if "co-visitation" in reports:
            for name, report in reports.items():
                row = report.compare(reports["co-visitation"]).row(
                    by_predicate=pl.col("metric") == "hr@20", named=True
                )
                results["minus_co_visitation"][name] = [row["difference"], row["low"], row["high"]]
    print_table(results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if args.plot:
        plot(results, args.plot)


def hr_interval(report: EvaluationReport) -> list[float]:
    row = report.intervals().row(by_predicate=(pl.col("slice") == "all") & (pl.col("metric") == "hr@20"), named=True)
    return [row["low"], row["high"]]


def plot(results: dict, path: Path) -> None:
    import matplotlib.pyplot as plt

    names = list(results["metrics"])[::-1]
    values = [results["metrics"][name]["hr@20"] for name in names]
    intervals = [results["hr@20_intervals"][name] for name in names]
    errors = [
        [value - low for value, (low, _) in zip(values, intervals, strict=True)],
        [high - value for value, (_, high) in zip(values, intervals, strict=True)],
    ]
    figure, axes = plt.subplots(figsize=(7, 0.5 + 0.45 * len(names)), layout="constrained")
    colors = ["C0" if name.startswith("item-head") else "0.7" for name in names]
    axes.barh(names, values, xerr=errors, color=colors, error_kw={"elinewidth": 1})
    axes.set(xlabel="HR@20 on all test rows, with the 95% interval by users", xlim=(0, None))
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=150)


def print_table(results: dict) -> None:
    columns = "HR@10 | HR@20 | NDCG@10 | HR@20 on cold targets | HR@20 minus co-visitation, 95% interval"
    print(f"\n| method | {columns} | training, s | users per second |\n|---|---|---|---|---|---|---|---|")
    for name, metrics in results["metrics"].items():
        difference = results["minus_co_visitation"].get(name)
        paired = "–" if difference is None else "{:+.3f} ({:+.3f} to {:+.3f})".format(*difference)
        cold = results["cold"][name]
        print(
            f"| {name} | {metrics['hr@10']:.3f} | {metrics['hr@20']:.3f} | {metrics['ndcg@10']:.3f} | "
            f"{'–' if cold is None else format(cold, '.3f')} | {paired} | {results['train_seconds'][name]:.0f} | "
            f"{results['users_per_second'][name]:.0f} |"
        )
    for note in results["notes"]:
        print(note)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample", help="a data set, as `load_recommendation_data` takes it")
    parser.add_argument("--minutes", type=float, default=1.0, help="budget of each LLM, in minutes of all threads")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--plot", type=Path, help="file for a picture (PNG or SVG)")
    parser.add_argument("--method", nargs="+", choices=[*METHODS], help="methods to run; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden_size", type=int, default=64, help="width of the backbone, which has two layers")
    parser.add_argument("--ties", choices=["stable", "release"], help="order of simultaneous interactions in raw data")
    parser.add_argument("--model", help="a backbone for the recipe; by default a tiny, new one")
    parser.add_argument("--output_dir", type=Path, help="directory in which an interrupted run continues")
    parser.add_argument("--num_layers", type=int, help="number of the backbone's first layers to use; by default all")
    parser.add_argument("--learning_rate", type=float, help="of the recipe; the default suits a new backbone")
    parser.add_argument("--variant", default="recipe", choices=[*VARIANTS], help="a change of the recipe")
    arguments = parser.parse_args()
    if arguments.plot and find_spec("matplotlib") is None:  # said now, and not after the measurements
        raise SystemExit('`--plot` needs matplotlib: pip install "patchrec-hf[plots]"')
    main(arguments)
