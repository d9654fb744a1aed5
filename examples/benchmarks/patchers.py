"""
Compares patchers at equal time: how the embeddings of title tokens become a patch. It trains one new backbone by the
all-patch recipe with each patcher and seed, and ranks validation rows by the item head.

On the embedded sample, in some minutes:

    python examples/benchmarks/patchers.py --minutes 0.5

On a data set (a prepared directory, raw files, or a name), with the results as JSON:

    python examples/benchmarks/patchers.py --data data/goodreads --minutes 5 --seeds 0 1 2 --json patchers.json

The budget of each patcher and seed is computing time of this process: minutes times the number of torch's threads.
With `--num_negatives`, every patcher learns items among a sample of the catalog. Without it, the contextual patcher
reads the titles of the whole catalog in each step. Nothing is excluded from the rankings. The rows over all seeds
average each target's hits over the seeds before users are drawn for the interval, so an interval holds the choice of
users and not the choice of seeds.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from equal_time import PROMPTS, seconds_of, train_all_patch

from patchrec_hf import (
    ALL_PATCH_PRESET,
    EvaluationReport,
    evaluate_model,
    load_recommendation_data,
)
from patchrec_hf.evaluation.metrics import bootstrap_interval
from patchrec_hf.runtime.configuration import PATCHERS


TRIAL_STEPS = 20
REFERENCE = "mean"
CUT_OFF = 20


def main(args: argparse.Namespace) -> None:
    options = {} if args.ties is None else {"ties": args.ties}
    max_history = 20 if args.data == "sample" else ALL_PATCH_PRESET.rows["max_history"]
    splits, catalog = load_recommendation_data(args.data, max_history, targets_per_row=max_history, **options)
    rows = load_recommendation_data(args.data, max_history, **options)[0]["validation"]
    seconds = 60 * args.minutes * torch.get_num_threads()
    steps: dict[str, int] = {}
    reports: dict[tuple[str, int], EvaluationReport] = {}
    for patcher in args.patchers:
        for _ in range(2):  # the first trial warms up
            trial = partial(train, args, splits["train"], catalog, max_history, TRIAL_STEPS, patcher, args.seeds[0])
            per_step = seconds_of(trial) / TRIAL_STEPS
        steps[patcher] = max(TRIAL_STEPS, int(seconds / per_step))
        for seed in args.seeds:
            model, processor = train(args, splits["train"], catalog, max_history, steps[patcher], patcher, seed)
            reports[patcher, seed] = evaluate_model(
                model,
                processor,
                rows,
                method="item",
                max_rows=args.max_rows,
                train_dataset=splits["train"],
                batch_size=64,
                show_progress=False,
            )
            hit_rate = reports[patcher, seed].metrics()[f"hr@{CUT_OFF}"]
            print(f"{patcher}, seed {seed}: {steps[patcher]} steps, HR@{CUT_OFF} {hit_rate:.4f}", flush=True)
    results = []
    for patcher in args.patchers:
        for seed in (*args.seeds, None):
            results.append({"patcher": patcher, "seed": seed, "steps": steps[patcher], **row(reports, patcher, seed)})
    num_targets = len(next(iter(reports.values())).targets)
    print(
        f"\n{num_targets} validation rows, {len(catalog)} items to rank, {args.minutes:g} min a patcher and seed, "
        f"{torch.get_num_threads()} threads\n"
    )
    print_table(results)
    if args.json:
        given = {name: getattr(args, name) for name in ("data", "minutes", "seeds", "num_negatives")}
        settings = {**given, "rows": num_targets}
        args.json.write_text(json.dumps({**settings, "results": results}, indent=2) + "\n", encoding="utf-8")


def train(args, dataset, catalog, max_history, num_steps, patcher, seed):
    """Trains a new model by the all-patch recipe. Returns it with its processor."""
    layout = ALL_PATCH_PRESET.processor["layout"]
    settings = {"patcher": patcher, "num_negatives": args.num_negatives}
    return train_all_patch(
        dataset, catalog, args.prompt, layout, max_history, args.hidden_size, num_steps, seed, **settings
    )


def row(reports: dict[tuple[str, int], EvaluationReport], patcher: str, seed: int | None) -> dict:
    """Metrics of a patcher with one seed, or with all seeds together, and their intervals by users."""
    seeds = [one for name, one in reports if name == patcher] if seed is None else [seed]
    users = reports[patcher, seeds[0]].targets["user_id"].to_numpy()
    own = np.mean([hits(reports[patcher, one]) for one in seeds], axis=0)
    metrics = [reports[patcher, one].metrics() for one in seeds]
    means = {name: float(np.mean([one[name] for one in metrics])) for name in ("hr@10", "ndcg@10", f"ndcg@{CUT_OFF}")}
    values = {f"hr@{CUT_OFF}": interval(own, users), **means, "minus mean": None}
    if patcher != REFERENCE and (REFERENCE, seeds[0]) in reports:
        other = np.mean([hits(reports[REFERENCE, one]) for one in seeds], axis=0)
        values["minus mean"] = interval(own - other, users)
    return values


def hits(report: EvaluationReport) -> np.ndarray:
    """For each target, whether it is among the best items."""
    return report.targets["item_rank"].to_numpy() <= CUT_OFF


def interval(values: np.ndarray, users: np.ndarray) -> list[float]:
    low, high = bootstrap_interval(values, users)
    return [float(np.mean(values)), float(low), float(high)]


def print_table(results: list[dict]) -> None:
    columns = f"HR@{CUT_OFF}, 95% interval | HR@10 | NDCG@10 | NDCG@{CUT_OFF} | HR@{CUT_OFF} minus the mean's"
    print(f"| patcher | seed | steps | {columns} |")
    print("|---|---|---|---|---|---|---|---|")
    for one in results:
        difference = one["minus mean"]
        cell = "–" if difference is None else "{:+.3f} ({:+.3f} to {:+.3f})".format(*difference)
        rate = "{:.3f} ({:.3f} to {:.3f})".format(*one[f"hr@{CUT_OFF}"])
        metrics = " | ".join(f"{one[name]:.3f}" for name in ("hr@10", "ndcg@10", f"ndcg@{CUT_OFF}"))
        seed = "all" if one["seed"] is None else one["seed"]
        print(f"| {one['patcher']} | {seed} | {one['steps']:,} | {rate} | {metrics} | {cell} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample", help="a data set, as `load_recommendation_data` takes it")
    parser.add_argument("--prompt", choices=[*PROMPTS], default="books")
    parser.add_argument("--minutes", type=float, default=1.0, help="budget of a patcher and seed, times all threads")
    parser.add_argument("--patchers", nargs="+", choices=PATCHERS, default=[*PATCHERS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--max_rows", type=int, help="validation rows, evenly spaced; by default all")
    parser.add_argument("--hidden_size", type=int, default=64, help="width of the backbone, which has two layers")
    parser.add_argument("--num_negatives", type=int, help="items of a sampled softmax; by default the recipe's choice")
    parser.add_argument("--ties", choices=["stable", "release"], help="order of simultaneous interactions in raw data")
    parser.add_argument("--json", type=Path, help="file for the results")
    main(parser.parse_args())
