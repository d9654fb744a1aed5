"""
Measures the cost of prefix sharing: trains on the same number of targets, in rows with one target and with several.

The prompts of a row with several targets share most of their tokens, but a batch with the same number of targets then
comes from fewer users. Some options of layout and prompt share more than the paper's. For each variant, the script
trains a tiny backbone on the embedded sample, and prints the positions fed, the validation loss and HR@20. It takes
about an hour on two CPU cores:

    python examples/benchmarks/sharing.py --json sharing.json --plot sharing.png
"""

import argparse
import json
import statistics
from importlib.util import find_spec
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
from patchrec_hf.data.rows import select_spaced


BATCH_SIZE = 32  # targets per optimizer step; each row comes from one user
NUM_LOSSES = 8  # points of a curve
OPTION_SIZE = 4  # targets per row in the comparison of options
# Name: targets per row, factor of the batch size and of the number of targets, differences from PatchRec-I (PFT-I).
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
    if args.plot and find_spec("matplotlib") is None:  # said now, and not after the measurements
        raise SystemExit('`--plot` needs matplotlib: pip install "patchrec-hf[plots]"')
    logging.set_verbosity_error()
    results = {}
    for name in args.variants:
        runs = [train(args, *VARIANTS[name], seed) for seed in range(args.seeds)]
        results[name] = {key: [run[key] for run in runs] for key in runs[0]}
        print(name, json.dumps(results[name]), flush=True)
        if args.json:  # after each variant, so that an interrupted run keeps its results
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
    splits, catalog = load_recommendation_data("sample", max_history=20, targets_per_row=targets_per_row)
    backbone = f"{args.output_dir}/backbone-{seed}"
    for part in build_tiny_backbone(catalog, seed=seed):
        part.save_pretrained(backbone)
    settings = {"prompt": BOOK_PROMPT, "layout": ItemPatchLayout(), "max_history": 20} | options
    processor = PatchRecProcessor.from_backbone(backbone, catalog, **settings)
    validation = select_spaced(splits["validation"], args.num_eval_rows)
    rows_per_step = times * BATCH_SIZE // targets_per_row
    mean_targets = statistics.fmean(map(len, splits["train"]["target_positions"]))  # a user's last row is shorter
    num_steps = round(times * args.num_examples / (rows_per_step * mean_targets))
    every = -(-num_steps // NUM_LOSSES)
    config = PatchFinetuneConfig(
        args.output_dir,
        max_steps=every * NUM_LOSSES,
        learning_rate=1e-2,
        seed=seed,
        tree_packing=True,
        per_device_train_batch_size=rows_per_step,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=every,
        eval_strategy="steps",
        eval_steps=every,
        eval_ks=[],
        per_device_eval_batch_size=32,
    )
    trainer = PatchFinetuneTrainer(
        backbone, config, train_dataset=splits["train"], processing_class=processor, eval_dataset=validation
    )
    trainer.train()
    log = trainer.state.log_history
    test = select_spaced(splits["test"], args.num_eval_rows)
    report = evaluate_model(trainer.model, trainer.processing_class, test, k=20, batch_size=16, show_progress=False)
    hr = report.intervals().filter(slice="all", metric="hr@20").row(0, named=True)
    sizes = [entry["positions_per_example"] for entry in log if "positions_per_example" in entry]
    histories = trainer.data_collator.encode_rows(select_spaced(splits["train"], 300))
    return {
        "losses": [entry["eval_loss"] for entry in log if "eval_loss" in entry],
        "hr@20": report.metrics()["hr@20"],
        "interval": [hr["low"], hr["high"]],
        "packed": statistics.fmean(sizes),
        "one_by_one": statistics.fmean(len(history.input_ids) for history in histories),
    }


def plot(args: argparse.Namespace, results: dict) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, runs in results.items():
        if name.endswith("targets per row"):
            losses = np.array(runs["losses"])
            num_seen = args.num_examples * np.arange(1, losses.shape[1] + 1) / losses.shape[1]
            axes.plot(num_seen, losses.mean(axis=0), "o-", label=name, markersize=3)
            axes.fill_between(num_seen, losses.min(axis=0), losses.max(axis=0), alpha=0.15)
    axes.set(xlabel="examples seen", ylabel="validation loss (band: all seeds)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(args.plot, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="where to write the results")
    parser.add_argument("--plot", help="where to draw the curves (PNG)")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds per variant")
    parser.add_argument("--num_examples", type=int, default=16000, help="number of targets that a run learns from")
    parser.add_argument("--num_eval_rows", type=int, default=600, help="validation rows, and test rows, to evaluate")
    parser.add_argument("--output_dir", default="outputs/benchmark")
    main(parser.parse_args())
