"""The two sides that `train_step.py` compares, and the measurement of their steps."""

import ctypes
import time
from pathlib import Path

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from patchrec_hf import PatchDataCollator, PatchFinetuneTrainer, TextLayout
from patchrec_hf.batches.sampling import ScheduledRow


PROGRESS = 0.5  # the probability that pre-training compresses an item


def split(block, size, max_history):
    """Splits one block into rows of `size` targets each, with a window of `max_history` items before them."""
    rows, positions = [], block["target_positions"]
    for start in range(0, len(positions), size):
        targets = positions[start : start + size]
        first = targets[0] - max_history
        rows.append(
            {
                "user_id": block["user_id"],
                "item_ids": block["item_ids"][first : targets[-1] + 1],
                "target_positions": [position - first for position in targets],
            }
        )
    return rows


def as_text(processor, rows):
    """Encodes the histories of `rows` as text, in TRL's form."""
    return [
        {
            "input_ids": history.input_ids.tolist(),
            "labels": [-100] * history.prompt_length + history.input_ids[history.prompt_length :].tolist(),
        }
        for history in PatchDataCollator(processor, TextLayout()).encode_rows(rows)
    ]


def make_trl(backbone, processor, blocks, common):
    backbone.resize_token_embeddings(len(processor.tokenizer))
    rows = Dataset.from_list(as_text(processor, [blocks[0]])[:1])
    return SFTTrainer(backbone, SFTConfig(**common), train_dataset=rows, processing_class=processor.tokenizer)


def run_step(trainer, optimizer, rows):
    """Runs one step, and returns its seconds, seconds of collating, loss, positions and padding."""
    model = trainer.model.train()
    if isinstance(trainer, PatchFinetuneTrainer):  # one model serves both kinds of batches
        (model.enable_tree_packing if trainer.data_collator.tree_packing else model.disable_tree_packing)()
    trainer.current_gradient_accumulation_steps = 1
    scheduled = rows if "labels" in rows[0] else [ScheduledRow(row, 0, PROGRESS) for row in rows]
    start = time.perf_counter()
    batch = trainer.data_collator(scheduled)
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
    """Measures the highest number of operations per second of a square matrix multiplication in float32."""
    one, other = torch.randn(2, size, size, device=device)
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        (one @ other).sum().item()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def reset_peak_memory(device):
    """Resets the peak, and returns the memory in use, in bytes; 0 if it cannot be measured."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if not Path("/proc/self/clear_refs").exists():
        return 0
    ctypes.CDLL(None).malloc_trim(0)  # returns free memory, so that a lower peak does not hide below an earlier one
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_memory(device):
    """Returns the peak memory since [`reset_peak_memory`], in bytes; 0 if it cannot be measured."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") if Path("/proc/self/clear_refs").exists() else 0


def _status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))
