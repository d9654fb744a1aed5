"""
Reproduces the tables and figures of the PatchRec paper, at one of three scales.

    python examples/reproduce_paper.py --scale smoke --table 2
    python examples/reproduce_paper.py --scale laptop --table 2 --dataset goodreads --data_dir data/goodreads
    accelerate launch --config_file examples/accelerate/zero2.yaml examples/reproduce_paper.py --scale paper \
        --table 3 --dataset ml-1m --methods PatchRec-I "PatchRec-I without pre-training"

The script runs the methods that have no results yet, resumes interrupted ones, and writes a folder with JSON, a
Markdown table that also has the paper's figures, and a plot. It prints how long each method took. The scale `smoke` is
for the sample, and `tiny` for tests. `laptop` takes a night on two CPU cores, with a backbone of a few million
parameters. `paper` trains the paper's backbone, on GPUs. Under a launcher, only LLMs are trained: run the baselines
and the fusion with plain `python` and the same directory.
"""

import os
import time
from argparse import RawDescriptionHelpFormatter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from reproduction.baseline_runs import is_current, run_baseline, run_fusion
from reproduction.llms import latency, run_llm
from reproduction.plans import BASELINES, FUSION, plan
from reproduction.settings import DATA, SCALES
from reproduction.study import Study, check_data_dir
from reproduction.tables import require_matplotlib, write_results
from transformers import HfArgumentParser
from transformers.utils import logging

from patchrec_hf.runs import claim_run, finish_run


@dataclass
class Arguments:
    """The table or figure, the data, and the scale."""

    table: int | None = field(default=None, metadata={"help": "2 (overall), 3 (pre-training) or 4 (dropping items)."})
    figure: int | None = field(default=None, metadata={"help": "5 (length), 6 (tokens), 7 (text items), 8 (groups)."})
    scale: str = field(default="smoke", metadata={"help": "Size of models and trainings.", "choices": list(SCALES)})
    dataset: str = field(default="sample", metadata={"help": "Name of the data set.", "choices": list(DATA)})
    data_dir: str | None = field(
        default=None, metadata={"help": "Directory with the data set, raw or prepared. Default: loaded by its name."}
    )
    methods: list[str] | None = field(
        default=None, metadata={"help": "Run only these methods, named as in the table."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Default: outputs/reproduction/DATASET-SCALE-SEED."}
    )
    num_examples: int | None = field(
        default=None, metadata={"help": "Training examples (targets) that an LLM sees. Default: the scale's number."}
    )
    max_eval_rows: int | None = field(default=None, metadata={"help": "Rows to rank. Default: the scale's number."})
    per_device_batch_size: int | None = field(default=None, metadata={"help": "Rows per forward in training."})
    seed: int = field(default=0, metadata={"help": "Seed of weights, order and draws."})


def main(args: Arguments) -> None:
    state = PartialState(cpu=not torch.accelerator.is_available())
    if state.num_processes == 1:  # without a GPU, `accelerate launch` sets one thread per process
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # for loading and saving; training and ranking show their own progress bars
    output_dir = Path(args.output_dir or f"outputs/reproduction/{args.dataset}-{args.scale}-{args.seed}")
    changes = {"num_examples": args.num_examples, "max_eval_rows": args.max_eval_rows}
    changes = {name: value for name, value in changes.items() if value is not None}
    for name, value in changes.items():
        if value < 1:
            raise SystemExit(f"--{name} must be at least 1, got {value}.")
    check_data_dir(args.dataset, args.data_dir)
    require_matplotlib()  # checked before the runs, which may take a night
    study = Study(args.dataset, args.data_dir, args.scale, output_dir, args.per_device_batch_size, args.seed, changes)
    try:
        names = plan(args.table, args.figure, study.scale.max_history, study.session_group_size)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    chosen = names if args.methods is None else args.methods
    unknown = [name for name in chosen if name not in (*BASELINES, FUSION, *study.methods)]
    if unknown:
        raise SystemExit(f"There is no method {unknown[0]!r}; this table has {', '.join(map(repr, names))}.")
    planned, names = names, [*names, *(name for name in chosen if name not in names)]
    study.load()  # before anything is written, because the data may be missing
    try:
        claim_run(output_dir, study.settings(), scratch=["backbone", "backbone.part"])
    except FileExistsError as error:
        raise SystemExit(str(error)) from None
    for number, name in enumerate(chosen, 1):
        if study.result(name) is not None and (name != FUSION or is_current(study)):
            state.print(f"{number} of {len(chosen)}: {name} is done.")
            continue
        if state.num_processes > 1 and name not in study.methods:
            state.print(f"{number} of {len(chosen)}: {name} is left to a run without a launcher.")
            continue
        state.print(f"{number} of {len(chosen)}: {name}")
        run = run_llm if name in study.methods else run_fusion if name == FUSION else run_baseline
        start = time.perf_counter()
        finish_run(study.directory(name), run(study, name))
        state.print(f"{name} took {timedelta(seconds=round(time.perf_counter() - start))} (h:mm:ss) at this scale.")
        state.wait_for_everyone()  # because the next method may read this method's results
    if state.is_main_process:
        done = [name for name in names if study.result(name) is not None]
        title = f"Table {args.table}" if args.figure is None else f"Figure {args.figure}"
        latencies = latency(study, done) if state.num_processes == 1 else {}  # latencies are measured in one process
        directory = write_results(study, title, done, planned, latencies)
        print((directory / "table.md").read_text(encoding="utf-8"))
        print(f"Written to {directory}.")


if __name__ == "__main__":
    parser = HfArgumentParser(Arguments, description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    main(*parser.parse_args_into_dataclasses())
