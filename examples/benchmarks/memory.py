"""
Compares the memory that `PatchTrainer.estimate_memory` predicts with what training takes, setting by setting. Each
setting trains two steps on the longest rows in a process of its own. On a CPU, the peak of its resident memory counts,
without what the process held before it loaded the model. On a GPU, the peak of the memory of all tensors counts. Runs
on a CPU in a few minutes:

    python examples/benchmarks/memory.py --json memory.json

With a real backbone, which must fit into the memory (the table in docs/training.md):

    python examples/benchmarks/memory.py --model HuggingFaceTB/SmolLM2-135M-Instruct --settings \
        "4 rows of 8 targets" "2 rows, pre-training" "16 rows, all-patch recipe"

A setting whose estimate is above `--max_gib` is not run.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


GIB = 2**30


@dataclass(frozen=True)
class Setting:
    """
    Settings of a training run.

    Args:
        rows, targets_per_row, max_history (`int`):
            Rows of a forward, targets of a row, and items of a history.
        objective (`str`):
            `"title"`, or `"item"` for the all-patch recipe.
        pretrains, has_adapter (`bool`):
            Whether the stage is pre-training, and whether LoRA is trained instead of all weights.
        attention (`str`):
            Attention implementation of the backbone.
        training (`dict[str, Any]`):
            Further training arguments.
    """

    rows: int
    targets_per_row: int = 1
    max_history: int = 20
    objective: str = "title"
    pretrains: bool = False
    has_adapter: bool = False
    attention: str = "sdpa"
    training: dict[str, Any] = field(default_factory=dict)


CHECKPOINTS = {"activation_checkpointing": True}
SETTINGS = {
    "16 rows": Setting(16),
    "16 rows, checkpointing": Setting(16, training=CHECKPOINTS),
    "16 rows, bf16": Setting(16, training={"bf16": True}),
    "16 rows, LoRA": Setting(16, has_adapter=True),
    "8 rows, eager attention": Setting(8, attention="eager"),
    "8 rows, pre-training": Setting(8, pretrains=True),
    "2 rows, pre-training": Setting(2, pretrains=True),
    "4 rows": Setting(4),
    "4 rows of 8 targets": Setting(4, 8),
    "4 rows of 8 targets, checkpointing": Setting(4, 8, training=CHECKPOINTS),
    "4 rows of 8 targets, LoRA": Setting(4, 8, has_adapter=True),
    "6 rows of 8 targets": Setting(6, 8),
    "16 rows, all-patch recipe": Setting(16, 100, 100, "item"),
    "64 rows, all-patch recipe": Setting(64, 100, 100, "item"),
}
SMALL = [name for name in SETTINGS if name not in ("2 rows, pre-training", "4 rows", "16 rows, all-patch recipe")]


def main(args: argparse.Namespace) -> None:
    if args.device == "cpu" and not Path("/proc/self/status").exists():
        raise SystemExit("This script reads the resident memory from /proc, which this system does not have.")
    results = {}
    for name in args.settings:
        command = [sys.executable, __file__, "--run", name, "--output_dir", args.output_dir]
        command += ["--max_gib", str(args.max_gib), "--device", args.device]
        command += ["--model", args.model] if args.model else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{name}: the process ended with {done.returncode}.\n{done.stderr[-2000:]}")
        results[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{len(results)} of {len(args.settings)} settings", flush=True)
    print("| setting | positions | estimate, GiB | measured peak, GiB | ratio |", "|---|---|---|---|---|", sep="\n")
    for name, result in results.items():
        measured, ratio = (
            ("not run", "–")
            if result["measured"] is None
            else (f"{result['measured'] / GIB:.2f}", f"{result['ratio']:.2f}")
        )
        print(f"| {name} | {result['positions']:,} | {result['estimate'] / GIB:.2f} | {measured} | {ratio} |")
    if args.json:
        Path(args.json).write_text(json.dumps({"model": args.model, "settings": results}, indent=2))


def run(args: argparse.Namespace, setting: Setting) -> dict[str, Any]:
    """Trains two steps with a setting, in this process."""
    import torch
    from peft import LoraConfig
    from transformers.utils import logging

    from patchrec_hf import (
        ALL_PATCH_PRESET,
        BOOK_PROMPT_INSTRUCTION_FIRST,
        PatchFinetuneConfig,
        PatchFinetuneTrainer,
        PatchPretrainConfig,
        PatchPretrainTrainer,
        PatchRecForCausalLM,
        PatchRecProcessor,
        build_tiny_backbone,
        load_recommendation_data,
    )

    logging.set_verbosity_error()
    splits, catalog = load_recommendation_data("sample", setting.max_history, targets_per_row=setting.targets_per_row)
    backbone = args.model or f"{args.output_dir}/backbone"
    if args.model is None and not Path(backbone).is_dir():
        for part in build_tiny_backbone(catalog, hidden_size=256, num_layers=8):
            part.save_pretrained(backbone)
    processor = PatchRecProcessor.from_backbone(
        backbone,
        catalog,
        BOOK_PROMPT_INSTRUCTION_FIRST,
        max_history=setting.max_history,
        **(ALL_PATCH_PRESET.processor if setting.objective == "item" else {}),
    )
    config_class, trainer_class = PatchFinetuneConfig, PatchFinetuneTrainer
    if setting.pretrains:
        config_class, trainer_class = PatchPretrainConfig, PatchPretrainTrainer
    config = config_class(
        f"{args.output_dir}/run",
        per_device_train_batch_size=setting.rows,
        gradient_accumulation_steps=1,
        max_steps=2,
        objective=setting.objective,
        use_cpu=args.device == "cpu",
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **setting.training,
    )
    before = _status("VmRSS") if args.device == "cpu" else 0
    model = PatchRecForCausalLM.from_backbone(
        backbone, processor.tokenizer, dtype="float32", attn_implementation=setting.attention
    )
    rows = splits["train"]
    adapter = LoraConfig(task_type="CAUSAL_LM") if setting.has_adapter else None
    trainer = trainer_class(model, config, train_dataset=rows, processing_class=processor, peft_config=adapter)
    estimate = trainer.estimate_memory()
    peak = None
    if estimate.total <= args.max_gib * GIB:
        longest = trainer.data_collator.row_lengths(rows).argsort()[::-1][: setting.rows]
        trainer.train_dataset = rows.select(longest.tolist())
        trainer.train()
        peak = torch.cuda.max_memory_allocated() if args.device == "cuda" else _status("VmHWM") - before
    return {
        "setting": asdict(setting),
        "positions": estimate.batch.positions,
        "estimate": estimate.total,
        "parts": {
            name: getattr(estimate, name) for name in ("weights", "gradients", "optimizer", "activations", "scores")
        },
        "measured": peak,
        "ratio": None if peak is None else estimate.total / peak,
    }


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a backbone; by default a small, new one")
    parser.add_argument("--settings", nargs="+", default=SMALL, choices=[*SETTINGS], metavar="SETTING")
    parser.add_argument("--max_gib", type=float, default=10.0, help="the largest estimate that is run")
    parser.add_argument("--json", help="where to write the results")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--output_dir", default="outputs/memory")
    parser.add_argument("--run", choices=[*SETTINGS], help="run one setting in this process, and print its result")
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(run(arguments, SETTINGS[arguments.run])))
    else:
        main(arguments)
