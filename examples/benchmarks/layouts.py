"""
Compares layouts on targets with long histories: trains the all-patch recipe with each layout for the same time, and
ranks the test rows that have more than `--min_items` earlier items. "latest 100" is the recipe as it is: a patch for
each of the latest 100 items. The other layouts read up to `--max_history` items.

On the embedded sample, which has short histories, to see that it works:

    python examples/benchmarks/layouts.py --min_items 5 --latest 5 --max_history 20

On a data set (a prepared directory, raw files, or a name), with the results as JSON:

    python examples/benchmarks/layouts.py --data data/goodreads --minutes 10 --json layouts.json

The budget of each layout is computing time of this process: minutes times the number of torch's threads. Nothing is
chosen: the number of steps follows from the budget, and everything else is the same for all layouts.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from equal_time import PROMPTS, difference, seconds_of, train_all_patch

from patchrec_hf import (
    ALL_PATCH_PRESET,
    EvaluationReport,
    ItemPatchLayout,
    PyramidLayout,
    SessionPatchLayout,
    evaluate_model,
    load_recommendation_data,
)


LAYOUTS = {
    "all patches": ItemPatchLayout(0),
    "pyramid": PyramidLayout(),
    "sessions": SessionPatchLayout(align="oldest"),
}
BATCH_SIZE = ALL_PATCH_PRESET.training["per_device_train_batch_size"]
TRIAL_STEPS = 12


def main(args: argparse.Namespace) -> None:
    options = {} if args.ties is None else {"ties": args.ties}
    rows = load_recommendation_data(args.data, args.max_history, **options)[0]["test"]
    lengths = np.array([positions[0] for positions in rows["target_positions"]])
    rows = rows.select(np.flatnonzero(lengths > args.min_items))
    reports: dict[str, EvaluationReport] = {}
    facts: dict[str, dict] = {}
    for name in (f"latest {args.latest}", *args.layouts):
        is_latest = name not in LAYOUTS
        layout = ItemPatchLayout(0) if is_latest else LAYOUTS[name]
        max_history = args.latest if is_latest else args.max_history
        targets = min(ALL_PATCH_PRESET.rows["targets_per_row"], args.latest)
        splits, catalog = load_recommendation_data(args.data, max_history, targets_per_row=targets, **options)
        seconds = 60 * args.minutes * torch.get_num_threads()
        trial = partial(train, args, splits["train"], catalog, max_history, layout, TRIAL_STEPS)
        for _ in range(1 if reports else 2):  # the first trial warms up
            per_step = seconds_of(trial) / TRIAL_STEPS
        steps = max(TRIAL_STEPS, int(seconds / per_step))
        model, processor = train(args, splits["train"], catalog, max_history, layout, steps)
        reports[name] = evaluate_model(
            model, processor, rows, train_dataset=splits["train"], batch_size=64, show_progress=False
        )
        positions = [
            processor.encode(catalog.indices_of(row["item_ids"][: row["target_positions"][0]])).counts.history
            for row in rows.select(range(min(len(rows), 100)))
        ]
        facts[name] = {
            "steps": steps,
            "epochs": steps * BATCH_SIZE / len(splits["train"]),
            "positions": np.mean(positions),
        }
        print(f"{name}: {steps} steps", flush=True)
    reference = reports[f"latest {args.latest}"]
    results = [
        {
            "layout": name,
            **facts[name],
            **{metric: report.metrics()[metric] for metric in ("hr@10", "ndcg@10", "hr@20", "ndcg@20")},
            "hr@20 minus the latest items'": None if report is reference else difference(report, reference),
        }
        for name, report in reports.items()
    ]
    num_users = reference.targets["user_id"].n_unique()
    print(
        f"\n{len(reference.targets)} test rows of {num_users} users, each with more than {args.min_items} earlier "
        f"items; {args.minutes:g} min a layout, {torch.get_num_threads()} threads, seed {args.seed}\n"
    )
    print_table(results, args.latest)
    if args.json:
        settings = {"data": args.data, "minutes": args.minutes, "seed": args.seed, "min_items": args.min_items}
        args.json.write_text(json.dumps({**settings, "results": results}, indent=2) + "\n", encoding="utf-8")


def train(args, dataset, catalog, max_history, layout, num_steps):
    """Trains a new model by the all-patch recipe. Returns it with its processor."""
    training = {}
    if not layout.is_append_only:  # each target has a history of its own; packed, they share their beginnings
        training = {"tree_packing": True, "train_sampling_strategy": "random"}
    return train_all_patch(
        dataset, catalog, args.prompt, layout, max_history, args.hidden_size, num_steps, args.seed, **training
    )


def print_table(results: list[dict], latest: int) -> None:
    columns = f"HR@10 | NDCG@10 | HR@20 | NDCG@20 | HR@20 minus the latest {latest} items', 95% interval"
    print(f"| layout | steps | epochs | positions | {columns} |\n|---|---|---|---|---|---|---|---|---|")
    for row in results:
        minus = row["hr@20 minus the latest items'"]
        cell = "–" if minus is None else "{:+.3f} ({:+.3f} to {:+.3f})".format(*minus)
        metrics = " | ".join(f"{row[name]:.3f}" for name in ("hr@10", "ndcg@10", "hr@20", "ndcg@20"))
        print(
            f"| {row['layout']} | {row['steps']:,} | {row['epochs']:.1f} | {row['positions']:.0f} | {metrics} | "
            f"{cell} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample", help="a data set, as `load_recommendation_data` takes it")
    parser.add_argument("--prompt", choices=[*PROMPTS], default="books")
    parser.add_argument("--minutes", type=float, default=1.0, help="budget of each layout, in minutes of all threads")
    parser.add_argument("--layouts", nargs="+", choices=[*LAYOUTS], default=["pyramid"])
    parser.add_argument("--latest", type=int, default=100, help="items that the first layout reads")
    parser.add_argument("--max_history", type=int, default=10_000, help="items that the other layouts read")
    parser.add_argument("--min_items", type=int, default=100, help="rank the targets with more earlier items")
    parser.add_argument("--hidden_size", type=int, default=64, help="width of the backbone, which has two layers")
    parser.add_argument("--ties", choices=["stable", "release"], help="order of simultaneous interactions in raw data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the results")
    main(parser.parse_args())
