"""
Compares losses and scores of titles at equal time: tokens that are normalized over the vocabulary, as in the paper, or
over the titles of the catalog, at several temperatures. It fine-tunes one new backbone as PatchRec-I with each loss,
and ranks validation rows.

On the embedded sample, in some minutes:

    python examples/benchmarks/losses.py --minutes 1

On a data set (a prepared directory, raw files, or a name), with the results as JSON:

    python examples/benchmarks/losses.py --data data/goodreads --minutes 10 --json losses.json

The budget of each loss is computing time of this process: minutes times the number of torch's threads. Nothing is
excluded from the rankings. The model that learned over the vocabulary is ranked by both scores.
"""

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path

import torch
from equal_time import PROMPTS, difference, seconds_of

from patchrec_hf import (
    EvaluationReport,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchRecForCausalLM,
    PatchRecProcessor,
    build_tiny_backbone,
    evaluate_model,
    load_recommendation_data,
)


TRIAL_STEPS = 30
REFERENCE = ("vocabulary", "vocabulary")


def main(args: argparse.Namespace) -> None:
    options = {} if args.ties is None else {"ties": args.ties}
    max_history = 20 if args.data == "sample" else 100
    splits, catalog = load_recommendation_data(args.data, max_history, targets_per_row=min(16, max_history), **options)
    rows = splits["validation"]
    seconds = 60 * args.minutes * torch.get_num_threads()
    reports: dict[tuple[str, str], EvaluationReport] = {}
    steps: dict[str, int] = {}
    per_step: dict[str, float] = {}  # a temperature changes no step's time
    for loss in ("vocabulary", *(f"catalog, temperature {value:g}" for value in args.temperatures)):
        settings = {"title_normalizer": "vocabulary"}
        if loss != "vocabulary":
            settings = {"title_normalizer": "catalog", "title_temperature": float(loss.split()[-1])}
        kind = settings["title_normalizer"]
        if kind not in per_step:
            for _ in range(2):  # the first trial warms up
                trial = partial(train, args, splits["train"], catalog, max_history, TRIAL_STEPS, settings)
                per_step[kind] = seconds_of(trial) / TRIAL_STEPS
        steps[loss] = max(TRIAL_STEPS, int(seconds / per_step[kind]))
        model, processor = train(args, splits["train"], catalog, max_history, steps[loss], settings)
        for score in ("vocabulary", "catalog") if loss == "vocabulary" else ("catalog",):
            reports[loss, score] = evaluate_model(
                model,
                processor,
                rows,
                method="all" if score == "catalog" else "exact",
                normalizer=score,
                max_title_tokens=args.max_title_tokens if score == "vocabulary" else None,
                max_rows=args.max_rows,
                train_dataset=splits["train"],
                batch_size=16,
                show_progress=False,
            )
            print(f"loss over {loss}, score over {score}: {steps[loss]} steps", flush=True)
    reference = reports[REFERENCE]
    results = [
        {
            "loss": loss,
            "score": score,
            "steps": steps[loss],
            **{name: report.metrics()[name] for name in ("hr@10", "ndcg@10", "hr@20", "ndcg@20")},
            "hr@20 minus the paper's": None if report is reference else difference(report, reference),
        }
        for (loss, score), report in reports.items()
    ]
    num_targets = len(reports[REFERENCE].targets)
    print(
        f"\n{num_targets} validation rows, {len(catalog)} items to rank, {args.minutes:g} min a loss, "
        f"{torch.get_num_threads()} threads, seed {args.seed}\n"
    )
    print_table(results)
    if args.json:
        settings = {"data": args.data, "minutes": args.minutes, "seed": args.seed, "rows": num_targets}
        args.json.write_text(json.dumps({**settings, "results": results}, indent=2) + "\n", encoding="utf-8")


def train(args, dataset, catalog, max_history, num_steps, settings):
    """Trains a new model. Returns it with its processor."""
    backbone, tokenizer = build_tiny_backbone(catalog, hidden_size=args.hidden_size, seed=args.seed)
    processor = PatchRecProcessor(tokenizer, catalog, PROMPTS[args.prompt], max_history=max_history)
    model = PatchRecForCausalLM.from_backbone(backbone, tokenizer)
    with tempfile.TemporaryDirectory() as directory:
        config = PatchFinetuneConfig(
            directory,
            learning_rate=args.learning_rate,
            max_grad_norm=1.0,
            per_device_train_batch_size=4,
            max_steps=num_steps,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=args.seed,
            **settings,
        )
        PatchFinetuneTrainer(model, config, train_dataset=dataset, processing_class=processor).train()
    return model.eval(), processor


def print_table(results: list[dict]) -> None:
    columns = "HR@10 | NDCG@10 | HR@20 | NDCG@20 | HR@20 minus the paper's, 95% interval"
    print(f"| loss over | score over | steps | {columns} |")
    print("|---|---|---|---|---|---|---|---|")
    for row in results:
        minus = row["hr@20 minus the paper's"]
        cell = "–" if minus is None else "{:+.3f} ({:+.3f} to {:+.3f})".format(*minus)
        metrics = " | ".join(f"{row[name]:.3f}" for name in ("hr@10", "ndcg@10", "hr@20", "ndcg@20"))
        print(f"| {row['loss']} | {row['score']} | {row['steps']:,} | {metrics} | {cell} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample", help="a data set, as `load_recommendation_data` takes it")
    parser.add_argument("--prompt", choices=[*PROMPTS], default="books")
    parser.add_argument("--minutes", type=float, default=1.0, help="budget of each loss, in minutes of all threads")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0])
    parser.add_argument("--max_rows", type=int, help="validation rows, evenly spaced; by default all")
    parser.add_argument(
        "--max_title_tokens", type=int, default=500, help="title tokens that are read for a row, over the vocabulary"
    )
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--hidden_size", type=int, default=64, help="width of the backbone, which has two layers")
    parser.add_argument("--ties", choices=["stable", "release"], help="order of simultaneous interactions in raw data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the results")
    main(parser.parse_args())
