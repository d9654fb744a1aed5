"""The two sides that `train_step.py` compares, and how a step of either is measured."""

import ctypes
import time
from pathlib import Path

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from patchrec_hf import PatchDataCollator, PatchFinetuneTrainer, TextLayout
from patchrec_hf.batches.sampling import ScheduledRow


PROGRESS = 0.5  # of pre-training: every other item is compressed


def split(block, size, max_history):
    """The targets of one block as rows of `size` targets each, with a window of `max_history` items before them."""
    rows, positions = [], block["target_positions"]
    for start in range(0, len(positions), size):
        own = positions[start : start + size]
        first = own[0] - max_history
        rows.append({"user_id": block["user_id"], "item_ids": block["item_ids"][first : own[-1] + 1],
                     "target_positions": [position - first for position in own]})  # fmt: skip
    return rows


def as_text(processor, rows):
    """The same examples, uncompressed, as TRL takes them."""
    return [
        {
            "input_ids": example.input_ids.tolist(),
            "labels": [-100] * example.prompt_length + example.input_ids[example.prompt_length :].tolist(),
        }
        for example in PatchDataCollator(processor, TextLayout()).encode_rows(rows)
    ]


def make_trl(backbone, processor, blocks, common):
    backbone.resize_token_embeddings(len(processor.tokenizer))
    rows = Dataset.from_list(as_text(processor, [blocks[0]])[:1])
    return SFTTrainer(backbone, SFTConfig(**common), train_dataset=rows, processing_class=processor.tokenizer)


def run_step(trainer, optimizer, rows):
    """Seconds, seconds of collating, loss, positions and padding of one step."""
    model = trainer.model.train()
    if isinstance(trainer, PatchFinetuneTrainer):  # one model serves both kinds of batches
        (model.enable_tree_packing if trainer.data_collator.tree_packing else model.disable_tree_packing)()
    trainer.current_gradient_accumulation_steps = 1
    stamped = rows if "labels" in rows[0] else [ScheduledRow(row, 0, PROGRESS) for row in rows]
    start = time.perf_counter()
    batch = trainer.data_collator(stamped)
    collated = time.perf_counter()
    loss = trainer.training_step(model, dict(batch))
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
    optimizer.step()
    optimizer.zero_grad()
    loss = loss.item()
    seconds = time.perf_counter() - start
    positions = batch["input_ids"].numel()
    padding = positions - int(batch["attention_mask"].sum()) if "attention_mask" in batch else 0
    return {
        "seconds": seconds,
        "collating": collated - start,
        "loss": loss,
        "positions": positions,
        "padding": padding,
    }


def peak_flops(device, size=2048):
    """Most floating-point operations per second of a square matrix multiplication in float32."""
    one, other = torch.randn(2, size, size, device=device)
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        (one @ other).sum().item()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def reset_peak_memory(device):
    """Forgets the peak so far, and returns what is taken now, in bytes; 0 where it cannot be measured."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if not Path("/proc/self/clear_refs").exists():
        return 0
    ctypes.CDLL(None).malloc_trim(0)  # gives back what is free, else a peak would hide below an earlier one
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_memory(device):
    """Most bytes taken since [`reset_peak_memory`]; 0 where it cannot be measured."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") if Path("/proc/self/clear_refs").exists() else 0


def _status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))
