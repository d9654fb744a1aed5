"""
Times training steps, tree-packed and padded, against TRL's SFTTrainer on the uncompressed text. All are timed in one
run, with the same targets, batch size, dtype and weights (the learning rate is 0), without gradient checkpointing. The
rows `item` and `both` are the all-patch recipe, whose loss is another one. The row `catalog` is PFT-I with titles that
are predicted among the catalog's.

In a minute, with a tiny backbone on the embedded sample:

    python examples/benchmarks/train_step.py --quick --json train_step.json

With the first layers of a real backbone, for users with long histories:

    python examples/benchmarks/train_step.py --model HuggingFaceTB/SmolLM2-135M-Instruct --num_layers 6 \
        --data_dir data/goodreads --json train_step.json --plot train_step.png

A timed step leads from rows to updated weights: it collates, and runs forward, backward, gradient clipping and AdamW.
"""

import argparse
from importlib.util import find_spec

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from train_step_report import report
from train_step_sides import as_text, make_trl, peak_flops, peak_memory, reset_peak_memory, run_step, split
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from patchrec_hf import (
    ALL_PATCH_PRESET,
    BOOK_PROMPT,
    BOOK_PROMPT_INSTRUCTION_FIRST,
    ItemPatchLayout,
    PatchDataCollator,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchPretrainConfig,
    PatchPretrainTrainer,
    PatchRecForCausalLM,
    PatchRecProcessor,
    SessionPatchLayout,
    TextLayout,
    build_tiny_backbone,
    load_recommendation_data,
)


LAYOUTS = {
    "text": TextLayout(),
    "PFT-I": ItemPatchLayout(),
    "catalog": ItemPatchLayout(),
    "PFT-S": SessionPatchLayout(),
    "pre-training": None,
}
OBJECTIVES = ("item", "both")  # of the all-patch recipe; the layouts above learn titles


def main(args: argparse.Namespace) -> None:
    if args.plot and find_spec("matplotlib") is None:  # said now, and not after the measurements
        raise SystemExit('`--plot` needs matplotlib: pip install "patchrec-hf[plots]"')
    logging.set_verbosity_error()
    splits, catalog = load_recommendation_data(
        args.data_dir or "sample", max_history=args.max_history, targets_per_row=args.batch_size
    )
    backbone = args.model or f"{args.output_dir}/backbone"
    if args.model is None:
        for part in build_tiny_backbone(catalog):
            part.save_pretrained(backbone)
    template = BOOK_PROMPT_INSTRUCTION_FIRST if args.instruction_first else BOOK_PROMPT
    processor = PatchRecProcessor.from_backbone(
        backbone, catalog, template, max_history=args.max_history, separate_patches=not args.no_separators
    )

    def load():
        kwargs = {} if args.num_layers is None else {"num_hidden_layers": args.num_layers}
        return AutoModelForCausalLM.from_pretrained(backbone, dtype="float32", **kwargs).to(args.device)

    # A block is a row with all targets of a batch, each after a full history. Blocks of median length are taken.
    targets = splits["train"]["target_positions"]
    whole = [i for i, row in enumerate(targets) if len(row) == args.batch_size and row[0] == args.max_history]
    if not whole:
        raise SystemExit(
            f"No user has {args.max_history} interactions and then {args.batch_size} to predict. Lower "
            "`--max_history` or `--batch_size`."
        )
    lengths = PatchDataCollator(processor, TextLayout()).row_lengths(splits["train"].select(whole))
    middle = lengths.argsort()[max(len(whole) - args.rounds, 0) // 2 :][: args.rounds]
    blocks = splits["train"].select(np.array(whole)[middle])
    common = {
        "output_dir": args.output_dir,
        "learning_rate": 0.0,
        "report_to": "none",
        "save_strategy": "no",
        "bf16": False,
        "gradient_checkpointing": False,
        "max_length": None,
        "use_cpu": args.device == "cpu",
    }
    model = PatchRecForCausalLM.from_backbone(load(), AutoTokenizer.from_pretrained(backbone))
    trainers = {"TRL": (make_trl(load(), processor, blocks, common), 1)}
    for layout_name in args.layouts:
        if layout_name in OBJECTIVES:
            continue
        layout = LAYOUTS[layout_name]
        for packing in (False, True):
            is_pretraining = layout is None
            config_class = PatchPretrainConfig if is_pretraining else PatchFinetuneConfig
            trainer_class = PatchPretrainTrainer if is_pretraining else PatchFinetuneTrainer
            normalizer = "catalog" if layout_name == "catalog" else "vocabulary"
            trainer = trainer_class(
                model,
                config_class(**common, tree_packing=packing, title_normalizer=normalizer),
                train_dataset=blocks,
                processing_class=processor if is_pretraining else processor.with_layout(layout),
            )
            for size in args.targets_per_row:
                trainers[layout_name, packing, size] = (trainer, size)

    all_patches = PatchRecProcessor.from_backbone(
        backbone, catalog, BOOK_PROMPT_INSTRUCTION_FIRST, max_history=args.max_history, **ALL_PATCH_PRESET.processor
    )
    item_model = None
    for objective in (name for name in OBJECTIVES if name in args.layouts):
        if item_model is None:
            item_model = PatchRecForCausalLM.from_backbone(load(), AutoTokenizer.from_pretrained(backbone))
        for packing in (False, True):
            config = PatchFinetuneConfig(**common, tree_packing=packing, objective=objective)
            trainer = PatchFinetuneTrainer(item_model, config, train_dataset=blocks, processing_class=all_patches)
            for size in args.targets_per_row:
                trainers[objective, packing, size] = (trainer, size)

    measured = {name: [] for name in trainers}
    models = {id(trainer.model): trainer.model for trainer, _ in trainers.values()}
    optimizers = {key: torch.optim.AdamW(model.parameters(), lr=0.0) for key, model in models.items()}
    peaks = {}
    for number, block in enumerate(blocks, start=1):
        for name, (trainer, size) in trainers.items():
            rows = split(block, size, args.max_history)
            if name == "TRL":
                rows = as_text(processor, rows)
            # As in training, a timed step follows a step of the same kind, which leaves memory in the same state.
            before = reset_peak_memory(model.device)
            run_step(trainer, optimizers[id(trainer.model)], rows)
            peaks[name] = max(peaks.get(name, 0), peak_memory(model.device) - before)
            measured[name].append(run_step(trainer, optimizers[id(trainer.model)], rows))
        print(f"{number} of {args.rounds} rounds", flush=True)

    def count_flops(name):
        trainer, size = trainers[name]
        with FlopCounterMode(display=False) as counter:
            run_step(trainer, optimizers[id(trainer.model)], split(blocks[-1], size, args.max_history))
        return counter.get_total_flops()

    report(measured, peaks, args, peak_flops(args.device), count_flops)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a backbone; by default a tiny, new one")
    parser.add_argument("--num_layers", type=int, help="number of the backbone's first layers to use; by default all")
    parser.add_argument("--data_dir", help="a prepared data set; by default the embedded sample")
    parser.add_argument("--quick", action="store_true", help="small batches, short histories, fewer variants")
    parser.add_argument("--json", help="where to write the results")
    parser.add_argument("--plot", help="where to draw the results (PNG)")
    parser.add_argument("--max_history", type=int, default=100)
    parser.add_argument("--batch_size", type=int, default=32, help="targets per step, all of one user")
    parser.add_argument("--rounds", type=int, default=3, help="number of timed steps of each kind")
    parser.add_argument("--targets_per_row", type=int, nargs="+", default=[1, 4, 8, 16, 32])
    parser.add_argument("--layouts", nargs="+", default=[*LAYOUTS, *OBJECTIVES], choices=[*LAYOUTS, *OBJECTIVES])
    parser.add_argument("--instruction_first", action="store_true", help="put the instruction before the history")
    parser.add_argument("--no_separators", action="store_true", help="put no separators after patches")
    parser.add_argument("--output_dir", default="outputs/benchmark")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.max_history, arguments.batch_size, arguments.targets_per_row = 20, 8, [1, 8]
    if max(arguments.targets_per_row) > arguments.batch_size:
        parser.error("--targets_per_row must not exceed --batch_size")
    main(arguments)
