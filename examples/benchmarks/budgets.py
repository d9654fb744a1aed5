"""
Compares one checkpoint for any budget with checkpoints for one budget each, at equal time. A budget is the largest
number of positions that a history may take (`BudgetLayout`). The script trains a new backbone by the all-patch recipe
on budgets that each row draws, and one for each budget. Then it ranks validation rows within each budget.

On the embedded sample, in about a minute:

    python examples/benchmarks/budgets.py --quick

On a data set (a prepared directory, raw files, or a name), with the results as JSON and a plot:

    python examples/benchmarks/budgets.py --data data/goodreads --minutes 5 --json budgets.json --plot budgets.png

The time of each checkpoint is computing time of this process: minutes times the number of torch's threads. Nothing is
excluded from the rankings. Milliseconds are computing time of the one checkpoint, with encoding and ranking.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import torch
from equal_time import PROMPTS, difference, seconds_of, train_all_patch

from patchrec_hf import (
    BudgetLayout,
    EvaluationReport,
    evaluate_model,
    load_recommendation_data,
)


METRICS = ("hr@10", "ndcg@10", "hr@20", "ndcg@20")


def main(args: argparse.Namespace) -> None:
    options = {} if args.ties is None else {"ties": args.ties}
    targets_per_row = min(args.targets_per_row, args.max_history)
    splits, catalog = load_recommendation_data(args.data, args.max_history, targets_per_row=targets_per_row, **options)
    train_rows, rows = splits["train"], splits["validation"]
    seconds = 60 * args.minutes * torch.get_num_threads()
    budgets = sorted(set(args.budgets))
    layouts: dict[str, BudgetLayout] = {"any": BudgetLayout(budgets[-1], min_tokens=budgets[0], num_text_items=0)}
    layouts |= {str(budget): BudgetLayout(budget, num_text_items=0) for budget in budgets}
    reports: dict[tuple[str, int], EvaluationReport] = {}
    steps: dict[str, int] = {}
    milliseconds: dict[int, float] = {}
    for name, layout in layouts.items():
        for _ in range(1 if steps else 2):  # the first trial warms up
            trial = partial(train, args, train_rows, catalog, layout, args.trial_steps)
            per_step = seconds_of(trial) / args.trial_steps
        steps[name] = max(args.trial_steps, int(seconds / per_step))
        model, processor = train(args, train_rows, catalog, layout, steps[name])
        for budget in budgets if name == "any" else [layout.max_tokens]:
            start = time.process_time()
            reports[name, budget] = evaluate_model(
                model,
                processor,
                rows,
                max_tokens=budget,
                max_rows=args.max_rows,
                batch_size=16,
                show_progress=False,
            )
            if name == "any":
                milliseconds[budget] = 1000 * (time.process_time() - start) / len(reports[name, budget].targets)
        print(f"trained on {'budgets of each row' if name == 'any' else f'{name} positions'}: {steps[name]} steps")
    results = [
        {
            "budget": budget,
            "history_tokens": reports["any", budget].targets["history_tokens"].mean(),
            "one checkpoint": metrics_of(reports["any", budget]),
            "own checkpoint": metrics_of(reports[str(budget), budget]),
            "hr@20 of one minus own": difference(reports["any", budget], reports[str(budget), budget]),
            "milliseconds": milliseconds[budget],
        }
        for budget in budgets
    ]
    num_targets = len(reports["any", budgets[0]].targets)
    print(
        f"\n{num_targets} validation rows, {len(catalog)} items to rank, up to {args.max_history} items a history, "
        f"{args.minutes:g} min a checkpoint, {torch.get_num_threads()} threads, seed {args.seed}\n"
    )
    print_table(results)
    if args.json:
        settings = {"data": args.data, "minutes": args.minutes, "seed": args.seed, "rows": num_targets, "steps": steps}
        args.json.write_text(json.dumps({**settings, "results": results}, indent=2) + "\n", encoding="utf-8")
    if args.plot:
        plot(results, args.plot)


def train(args, dataset, catalog, layout, num_steps):
    """Trains a new model by the all-patch recipe. Returns it with its processor."""
    # Histories that exceed a budget are no longer one sequence for all targets. Packed, they share their beginnings.
    return train_all_patch(
        dataset,
        catalog,
        args.prompt,
        layout,
        args.max_history,
        args.hidden_size,
        num_steps,
        args.seed,
        tree_packing=True,
        train_sampling_strategy="random",
    )


def metrics_of(report: EvaluationReport) -> dict[str, float]:
    return {name: report.metrics()[name] for name in METRICS}


def print_table(results: list[dict]) -> None:
    columns = "HR@20, one checkpoint | HR@20, its own checkpoint | one minus own, 95% interval by users"
    print(f"| budget | {columns} | ms a history |")
    print("|---|---|---|---|---|")
    for row in results:
        one, own = row["one checkpoint"]["hr@20"], row["own checkpoint"]["hr@20"]
        cell = "{:+.3f} ({:+.3f} to {:+.3f})".format(*row["hr@20 of one minus own"])
        print(f"| {row['budget']} | {one:.3f} | {own:.3f} | {cell} | {row['milliseconds']:.1f} |")


def plot(results: list[dict], path: Path) -> None:
    import matplotlib.pyplot as plt

    budgets = [row["budget"] for row in results]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.plot(budgets, [row["one checkpoint"]["hr@20"] for row in results], "o-", label="one checkpoint")
    left.plot(budgets, [row["own checkpoint"]["hr@20"] for row in results], "s--", label="one for each budget")
    left.set(ylabel="HR@20 on validation rows")
    left.legend()
    right.plot(budgets, [row["milliseconds"] for row in results], "o-")
    right.set(ylabel="milliseconds a history")
    for axes in (left, right):
        axes.set(xlabel="budget, in positions", xscale="log", xticks=budgets, xticklabels=budgets)
        axes.set_ylim(0, 1.1 * axes.dataLim.ymax)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample", help="a data set, as `load_recommendation_data` takes it")
    parser.add_argument("--prompt", choices=[*PROMPTS], default="books")
    parser.add_argument("--minutes", type=float, default=1.0, help="time of a checkpoint, in minutes of all threads")
    parser.add_argument("--budgets", type=int, nargs="+", default=[25, 50, 100, 200], help="positions of a history")
    parser.add_argument("--max_history", type=int, default=100, help="items of a history")
    parser.add_argument("--targets_per_row", type=int, default=16)
    parser.add_argument("--max_rows", type=int, help="validation rows, evenly spaced; by default all")
    parser.add_argument("--hidden_size", type=int, default=64, help="width of the backbone, which has two layers")
    parser.add_argument("--ties", choices=["stable", "release"], help="order of simultaneous interactions in raw data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trial_steps", type=int, default=30, help="steps that find out the time of a step")
    parser.add_argument("--quick", action="store_true", help="few seconds a checkpoint, and few rows")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--plot", type=Path, help="image file for a plot")
    parsed = parser.parse_args()
    if parsed.quick:
        quick = {"minutes": min(parsed.minutes, 0.1), "max_rows": 100, "targets_per_row": 8, "trial_steps": 5}
        parsed = argparse.Namespace(**{**vars(parsed), **quick})
    main(parsed)
