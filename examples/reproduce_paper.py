"""
Reproduces the tables and figures of the PatchRec paper, at one of three scales.

    python examples/reproduce_paper.py --scale smoke --table 2
    python examples/reproduce_paper.py --scale laptop --table 2 --dataset goodreads --data_dir data/goodreads
    python examples/reproduce_paper.py --scale paper --table 2 --dataset ml-100k --dry_run
    accelerate launch --config_file examples/accelerate/zero2.yaml examples/reproduce_paper.py --scale paper \
        --table 3 --dataset ml-1m

The script runs the methods that have no results yet, resumes interrupted ones, and writes a folder with JSON,
Markdown tables that also have the paper's figures, and a plot. It prints how long each method took. The scale `smoke`
is for the sample, and `tiny` for tests. `laptop` takes a night on two CPU cores, with a backbone of a few million
parameters. `paper` trains the paper's backbone on GPUs, one epoch in each stage. `--dry_run` prints what would be
trained, and what it costs. Under a launcher, only LLMs are trained. Run the same command with plain `python`
afterwards: it fits the baselines and `Fusion`, and measures how long LLMs take to rank.
"""

import math
import os
import shutil
import time
from argparse import RawDescriptionHelpFormatter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import disable_progress_bars
from reproduction.baseline_runs import is_current, run_baseline, run_fusion
from reproduction.data import check_data
from reproduction.dry_run import print_dry_run
from reproduction.llms import latency, parts_of, run_llm
from reproduction.plans import ABLATIONS, BASELINES, FUSION, find_plan
from reproduction.plots import require_matplotlib
from reproduction.settings import DATA, SCALES
from reproduction.stages import check_epochs
from reproduction.study import Study
from reproduction.tables import write_results
from transformers import HfArgumentParser
from transformers.utils import logging

from patchrec_hf.data.keywords import nearest
from patchrec_hf.runs import claim_run, finish_run


@dataclass
class Arguments:
    """The table or figure, the data, and the scale."""

    table: int | None = field(
        default=None, metadata={"help": "2 (all methods), 3 (without pre-training) or 4 (pre-training alone)."}
    )
    figure: int | None = field(
        default=None,
        metadata={"help": "2 or 7 (compression), 5 (equal items), 6 (equal tokens) or 8 (long histories)."},
    )
    ablation: str | None = field(
        default=None, metadata={"help": "An ablation that the paper does not have.", "choices": list(ABLATIONS)}
    )
    scale: str = field(default="smoke", metadata={"help": "Size of models and trainings.", "choices": list(SCALES)})
    dataset: str = field(default="sample", metadata={"help": "Name of the data set.", "choices": list(DATA)})
    data_dir: str | None = field(
        default=None, metadata={"help": "Directory with the data set, raw or prepared. Default: loaded by its name."}
    )
    ties: str | None = field(
        default=None,
        metadata={
            "help": "Order of simultaneous interactions: as in the authors' files (release), or in the raw file "
            "(stable). Default: release for raw MovieLens.",
            "choices": ["release", "stable"],
        },
    )
    methods: list[str] | None = field(
        default=None, metadata={"help": "Run only these methods, named as in the table."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Default: outputs/reproduction/DATASET-SCALE-SEED."}
    )
    backbone: str | None = field(default=None, metadata={"help": "Another backbone, by its name or directory."})
    epochs: list[str] | None = field(
        default=None,
        metadata={
            "help": "Epochs of each stage of a method, such as Vanilla=2 PatchRec-I=1,2. They come before "
            "--num_examples. Default: the scale's."
        },
    )
    num_examples: int | None = field(
        default=None, metadata={"help": "Training examples (targets) that an LLM sees. Default: the scale's number."}
    )
    max_eval_rows: int | None = field(default=None, metadata={"help": "Rows to rank. Default: the scale's number."})
    release_metrics: bool | None = field(
        default=None,
        metadata={"help": "Also rank by the decoding of the authors' code. Default: at the scale paper."},
    )
    per_device_batch_size: int | None = field(
        default=None, metadata={"help": "Rows per forward in training. Default at the scale paper: as many as fit."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of weights, order and draws."})
    dry_run: bool = field(
        default=False, metadata={"help": "Print methods, steps, tokens, memory and a time estimate. Train nothing."}
    )
    device_memory: float | None = field(
        default=None, metadata={"help": "For a dry run: GiB of one GPU. Default: what this machine has."}
    )
    device_tflops: float | None = field(
        default=None,
        metadata={"help": "For a dry run: peak speed of one device in TFLOP/s. Default: measured on this machine."},
    )


def main(args: Arguments) -> None:
    state = PartialState(cpu=not torch.accelerator.is_available())
    if state.num_processes == 1:  # without a GPU, `accelerate launch` sets one thread per process
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # for loading and saving; training and ranking show their own progress bars
    disable_progress_bars()
    check_data(args.dataset, args.data_dir, args.ties)
    study = _study(args)
    try:
        plan = find_plan(args.table, args.figure, args.ablation, study.scale.max_history, study.session_group_size)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    chosen = list(plan.methods) if args.methods is None else args.methods
    unknown = [name for name in chosen if name not in (*BASELINES, FUSION, *study.methods)]
    if unknown:
        raise SystemExit(f"There is no method {unknown[0]!r}; {nearest(unknown[0], plan.methods)}")
    check_epochs(study)
    if args.dry_run:
        print_dry_run(study, plan, chosen, args.device_memory, args.device_tflops)
        return
    require_matplotlib()  # checked before the runs, which may take a night
    study.load()  # before anything is written, because the data may be missing
    study.warn_of_other_counts()
    study.check(plan, chosen)
    try:
        claim_run(study.output_dir, study.settings(), scratch=["backbone", "backbone.part"])
    except FileExistsError as error:
        raise SystemExit(str(error)) from None
    for number, name in enumerate(chosen, 1):
        if study.result(name) is not None and (name != FUSION or is_current(study)):
            state.print(f"{number} of {len(chosen)}: {name} is done.")
            continue
        if state.num_processes > 1 and name not in study.methods:
            state.print(f"{number} of {len(chosen)}: {name} is left to a run without a launcher.")
            continue
        if (reason := study.reason_to_skip(name)) is not None:
            state.print(f"{number} of {len(chosen)}: {name} is left out: {reason}.")
            continue
        state.print(f"{number} of {len(chosen)}: {name}")
        run = run_llm if name in study.methods else run_fusion if name == FUSION else run_baseline
        start = time.perf_counter()
        finish_run(study.directory(name), run(study, name))
        if state.is_main_process:
            shutil.rmtree(parts_of(study, name), ignore_errors=True)  # a baseline has none
        state.print(f"{name} took {timedelta(seconds=round(time.perf_counter() - start))} (h:mm:ss) at this scale.")
        state.wait_for_everyone()  # because the next method may read this method's results
    if state.is_main_process:
        shown = [*plan.methods, *(name for name in chosen if name not in plan.methods)]
        done = [name for name in shown if study.result(name) is not None]
        directory = study.output_dir / plan.title.lower().replace(" ", "_")
        directory.mkdir(parents=True, exist_ok=True)
        write_results(study, plan, done, latency(study, done, directory / "latency.json"), directory)
        print((directory / "table.md").read_text(encoding="utf-8"))
        print(f"Written to {directory}.")
        if state.num_processes > 1:
            print("Ranking times are measured in one process. Run the same command with plain `python` to add them.")


def _study(args: Arguments) -> Study:
    names = ("num_examples", "max_eval_rows", "backbone", "release_metrics")
    changes = {name: value for name in names if (value := getattr(args, name)) is not None}
    for name in ("num_examples", "max_eval_rows", "per_device_batch_size"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise SystemExit(f"--{name} must be at least 1, got {value}.")
    for name in ("device_memory", "device_tflops"):
        value = getattr(args, name)
        if value is not None and not args.dry_run:
            raise SystemExit(f"--{name} belongs to --dry_run. A run takes its device as it is.")
        if value is not None and not 0 < value < math.inf:
            raise SystemExit(f"--{name} must be above 0 and finite, got {value}.")
    return Study(
        args.dataset,
        args.data_dir,
        args.scale,
        Path(args.output_dir or f"outputs/reproduction/{args.dataset}-{args.scale}-{args.seed}"),
        args.per_device_batch_size,
        args.seed,
        args.ties,
        _epochs(args.epochs or []),
        changes,
    )


def _epochs(given: list[str]) -> dict[str, tuple[float, ...]]:
    """Reads texts such as `METHOD=1,2`."""
    epochs: dict[str, tuple[float, ...]] = {}
    for text in given:
        name, _, numbers = text.rpartition("=")
        if name in epochs:
            raise SystemExit(f"--epochs names {name!r} twice. Write the epochs of all its stages once, as METHOD=1,2.")
        try:
            epochs[name] = tuple(float(number) for number in numbers.split(","))
        except ValueError:
            raise SystemExit(
                f"--epochs takes METHOD=EPOCHS, such as Vanilla=2 or PatchRec-I=1,2. Got {text!r}."
            ) from None
    return epochs


if __name__ == "__main__":
    parser = HfArgumentParser(Arguments, description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    main(*parser.parse_args_into_dataclasses())
