"""
What sharing prefixes costs: the same number of examples, learned from rows with one target and with several.

Rows with several targets share most of their prompts, but a batch of as many targets then comes from fewer users. And
some options of layout and prompt share more than the paper's. This trains a tiny backbone on the embedded sample with
each, and prints positions fed, validation loss along the way and HR@20, in about an hour on two CPU cores:

    python examples/benchmarks/sharing.py --json sharing.json --plot sharing.png
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
from transformers.utils import logging

from patchrec_hf import (
    BOOK_PROMPT,
    BOOK_PROMPT_INSTRUCTION_FIRST,
    ItemPatchLayout,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchRecProcessor,
    SessionPatchLayout,
    build_tiny_backbone,
    evaluate_model,
    load_recommendation_data,
)


BATCH_SIZE = 32  # targets per optimizer step, of as many users as that makes rows
NUM_LOSSES = 8  # points of a curve
OPTION_SIZE = 4  # targets per row where options are compared
# Name: targets per row, how many times the batch and the examples, then what differs from the paper's PFT-I.
VARIANTS = {
    **{f"{size} targets per row": (size, 1, {}) for size in (1, 2, 4, 8, 16)},
    **{
        f"{size} targets per row, batch times {times}": (size, times, {})
        for size, times in ((1, 2), (1, 4), (8, 2), (16, 4))
    },
    "PFT-I, instruction first": (OPTION_SIZE, 1, {"prompt": BOOK_PROMPT_INSTRUCTION_FIRST}),
    "PFT-I, no separators": (OPTION_SIZE, 1, {"separate_patches": False}),
    "PFT-S": (OPTION_SIZE, 1, {"layout": SessionPatchLayout()}),
    "PFT-S, oldest": (OPTION_SIZE, 1, {"layout": SessionPatchLayout(align="oldest")}),
}


def main(args: argparse.Namespace) -> None:
    logging.set_verbosity_error()
    results = {}
    for name in args.variants:
        runs = [train(args, *VARIANTS[name], seed) for seed in range(args.seeds)]
        results[name] = {key: [run[key] for run in runs] for key in runs[0]}
        print(name, json.dumps(results[name]), flush=True)
        if args.json:  # after each, so that an interrupted run keeps what it has
            Path(args.json).write_text(json.dumps(results, indent=2), encoding="utf-8")
    print("\n| | positions per example | tree-packed | validation loss | HR@20 | its 95% interval (first seed) |")
    print("|---|---|---|---|---|---|")
    for name, runs in results.items():
        one_by_one, packed, final, hr = (
            statistics.fmean(values)
            for values in (
                runs["one_by_one"],
                runs["packed"],
                [losses[-1] for losses in runs["losses"]],
                runs["hr@20"],
            )
        )
        low, high = runs["interval"][0]
        print(f"| {name} | {one_by_one:.0f} | {packed:.0f} | {final:.3f} | {hr:.3f} | {low:.3f}–{high:.3f} |")
    if args.plot:
        plot(args, results)


def train(args: argparse.Namespace, targets_per_row: int, times: int, options: dict, seed: int) -> dict:
    examples, catalog = load_recommendation_data("sample", max_history=20, targets_per_row=targets_per_row)
    backbone = f"{args.output_dir}/backbone-{seed}"
    for part in build_tiny_backbone(catalog, seed=seed):
        part.save_pretrained(backbone)
    settings = {"prompt": BOOK_PROMPT, "layout": ItemPatchLayout(), "max_history": 20} | options
    processor = PatchRecProcessor.from_backbone(backbone, catalog, **settings)
    validation = examples["validation"].select(evenly(examples["validation"], args.num_eval_rows))
    rows_per_step = times * BATCH_SIZE // targets_per_row
    mean_targets = statistics.fmean(map(len, examples["train"]["target_positions"]))  # a user's last block is short
    num_steps = round(times * args.num_examples / (rows_per_step * mean_targets))
    every = -(-num_steps // NUM_LOSSES)
    config = PatchFinetuneConfig(
        args.output_dir, max_steps=every * NUM_LOSSES, learning_rate=1e-2, seed=seed, tree_packing=True,
        per_device_train_batch_size=rows_per_step, report_to="none", save_strategy="no", disable_tqdm=True,
        logging_steps=every, eval_strategy="steps", eval_steps=every, eval_ks=[],
        per_device_eval_batch_size=32,
    )  # fmt: skip
    trainer = PatchFinetuneTrainer(backbone, config, examples["train"], processor, validation)
    trainer.train()
    log = trainer.state.log_history
    test = examples["test"].select(evenly(examples["test"], args.num_eval_rows))
    report = evaluate_model(trainer.model, trainer.processing_class, test, k=20, batch_size=16, show_progress=False)
    hr = report.intervals().filter(slice="all", metric="hr@20").row(0, named=True)
    sizes = [entry["positions_per_example"] for entry in log if "positions_per_example" in entry]
    encoded = trainer.data_collator.encode_rows(examples["train"].select(evenly(examples["train"], 300)))
    return {
        "losses": [entry["eval_loss"] for entry in log if "eval_loss" in entry],
        "hr@20": report.metrics()["hr@20"],
        "interval": [hr["low"], hr["high"]],
        "packed": statistics.fmean(sizes),
        "one_by_one": statistics.fmean(len(example.input_ids) for example in encoded),
    }


def evenly(dataset, num_rows: int) -> np.ndarray:
    return np.linspace(0, len(dataset) - 1, min(num_rows, len(dataset)), dtype=int)


def plot(args: argparse.Namespace, results: dict) -> None:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise SystemExit('`--plot` needs matplotlib: pip install "patchrec-hf[plots]"') from error
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, runs in results.items():
        if name.endswith("targets per row"):
            losses = np.array(runs["losses"])
            seen = args.num_examples * np.arange(1, losses.shape[1] + 1) / losses.shape[1]
            axes.plot(seen, losses.mean(axis=0), "o-", label=name, markersize=3)
            axes.fill_between(seen, losses.min(axis=0), losses.max(axis=0), alpha=0.15)
    axes.set(xlabel="examples seen", ylabel="validation loss (band: all seeds)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(args.plot, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="where to write the results")
    parser.add_argument("--plot", help="where to draw the curves (PNG)")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--num_examples", type=int, default=16000, help="targets that each run learns from")
    parser.add_argument("--num_eval_rows", type=int, default=600)
    parser.add_argument("--output_dir", default="outputs/benchmark")
    main(parser.parse_args())
