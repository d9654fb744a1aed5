"""Estimates what training an LLM costs: tokens, memory, and time."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from accelerate import DeepSpeedPlugin, PartialState
from accelerate.utils import gather_object
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from patchrec_hf import ItemPatchLayout, TextLayout, build_tiny_backbone
from patchrec_hf.training.free_memory import free_memory
from patchrec_hf.training.memory import MemoryEstimate, estimate_memory
from patchrec_hf.training.memory_sizes import BatchShape, ModelSize, WeightMemory

from .settings import DATA, PAPER_BACKBONE, DataFacts
from .stages import Stage, forwards_per_step, rows_per_step
from .study import Study
from .tokens import history_tokens


# The paper's backbone may only be downloaded with an account that has accepted its license.
_PAPER_CONFIG = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128_256,
    "tie_word_embeddings": True,
}
_PROMPT_TOKENS = 100
"""About as many tokens as the text around a history takes."""


@dataclass(frozen=True)
class Device:
    """
    The device of each process.

    Args:
        kind (`"cuda"` or `"cpu"`):
            On a GPU, matrices are multiplied in bfloat16.
        memory (`int`, *optional*):
            Bytes that training may use; `None` if they are not known.
    """

    kind: str
    memory: int | None


@dataclass(frozen=True)
class Cost:
    """
    Steps, memory and operations of a stage.

    Args:
        steps, rows_per_step, rows_per_forward (`int`):
            Optimizer steps, rows of a step of all processes, and rows of a forward of one process.
        tokens (`int`):
            Tokens of all prompts and titles that are read, before packing.
        memory ([`MemoryEstimate`]):
            Memory of one device.
        operations (`float`):
            Floating-point operations of all processes.
    """

    steps: int
    rows_per_step: int
    rows_per_forward: int
    tokens: int
    memory: MemoryEstimate
    operations: float


@cache
def backbone_config(study: Study) -> PreTrainedConfig:
    """
    Returns the configuration of a study's backbone, without its weights.

    Raises:
        SystemExit: If the backbone's size cannot be known.
    """
    backbone = study.scale.backbone
    if isinstance(backbone, dict):
        return AutoConfig.for_model(**backbone, vocab_size=DATA[study.dataset].vocab_size, tie_word_embeddings=True)
    if backbone == PAPER_BACKBONE:
        return AutoConfig.for_model(**_PAPER_CONFIG)
    try:
        return AutoConfig.from_pretrained(backbone)
    except (OSError, ValueError) as error:
        raise SystemExit(
            f"The size of the backbone {backbone!r} is not known: it is no directory with a config.json, and it "
            f"cannot be read from the Hub. Pass --backbone DIRECTORY or the name of a model. ({error})"
        ) from None


def facts_of(study: Study) -> DataFacts:
    """Returns the counts of a study's data. Data whose counts are known is not loaded."""
    data = DATA[study.dataset]
    if study.data_dir is None and data.facts is not None and study.scale.targets_per_row == 1:
        return data.facts
    num_rows = len(study.load(targets_per_row=study.scale.targets_per_row)[0]["train"])
    targets = study.num_items_before_targets
    title_tokens, source = _title_tokens(study)
    return DataFacts(
        num_train_rows=num_rows,
        num_train_examples=len(targets),
        histories=twentieths(targets),
        longest_history=study.longest_history,
        title_tokens=title_tokens,
        source=f"counted on the data{source}",
    )


def twentieths(numbers: np.ndarray) -> tuple[int, ...]:
    """Returns the middles of twentieths of some numbers, ascending."""
    middles = (np.arange(20) + 0.5) / 20
    return tuple(np.quantile(numbers, middles, method="lower").astype(int).tolist())


def _title_tokens(study: Study) -> tuple[float, str]:
    """Returns the mean number of tokens of a title, and where it comes from if it was not counted."""
    if isinstance(study.scale.backbone, dict):  # a new backbone, which a dry run does not write
        _, catalog = study.load()
        tokenizer = build_tiny_backbone(catalog, DATA[study.dataset].vocab_size)[1]
        ids = tokenizer(list(catalog.titles), add_special_tokens=False).input_ids
        return float(np.mean([len(title) for title in ids])), ""
    try:
        return float(study.processor(TextLayout()).title_tokens.lengths.mean()), ""
    except (OSError, ValueError) as error:
        known = DATA[study.dataset].title_tokens
        if known is None:
            raise SystemExit(
                f"The tokenizer of the backbone {study.scale.backbone!r} cannot be read, so the tokens of titles "
                f"cannot be counted. Pass --backbone DIRECTORY. ({error})"
            ) from None
        return known, ", title tokens of the paper's Table 1"


def cost_of(study: Study, stage: Stage, facts: DataFacts, device: Device) -> Cost:
    """
    Estimates the cost of a stage.

    Args:
        study ([`Study`]):
            The study.
        stage ([`Stage`]):
            A stage of a method.
        facts ([`DataFacts`]):
            Counts of the data.
        device ([`Device`]):
            The device of each process.
    """
    rows = rows_per_step(study)
    per_example = facts.mean(lambda length: sum(_twin_tokens(stage, length, facts.title_tokens)), stage.max_history)
    tokens = stage.num_examples * per_example
    steps_per_epoch = -(-facts.num_train_rows // rows)
    # Two operations for each weight forward, four backward, and two more where layers are computed again.
    per_weight = 8 if study.scale.activation_checkpointing else 6
    per_forward, memory = fitting_forward(study, stage, facts.title_tokens, device)
    return Cost(
        steps=math.ceil(stage.num_examples / facts.num_train_examples * steps_per_epoch),
        rows_per_step=rows,
        rows_per_forward=per_forward,
        tokens=round(tokens),
        memory=memory,
        operations=per_weight * tokens * sum(parameter.numel() for parameter in _parameters(study)),
    )


def fitting_forward(study: Study, stage: Stage, title_tokens: float, device: Device) -> tuple[int, MemoryEstimate]:
    """
    Returns the rows of a forward of one process, and the memory that training needs with them.

    Args:
        study ([`Study`]):
            The study. Its `per_device_batch_size` is kept. If the scale does not fit forwards to the memory, a process
            reads its share of a step's rows in one forward.
        stage ([`Stage`]):
            A stage of a method.
        title_tokens (`float`):
            Mean number of tokens of a title.
        device ([`Device`]):
            The device of each process. If its memory is not known or not enough, a forward reads one row.

    Raises:
        SystemExit: If the rows of a step cannot be divided into such forwards.
    """
    share = forwards_per_step(study, 1)
    if study.per_device_batch_size is not None:
        forwards_per_step(study, study.per_device_batch_size)
        choices = [study.per_device_batch_size]
    elif study.scale.fits_forwards:
        choices = [number for number in range(share, 0, -1) if share % number == 0]
    else:
        choices = [share]
    for number in choices:
        memory = _memory(study, stage, number, title_tokens, device)
        if device.memory is not None and memory.fits:
            break
    return number, memory


def _memory(study: Study, stage: Stage, rows: int, title_tokens: float, device: Device) -> MemoryEstimate:
    """Estimates the memory with a number of rows in a forward, all of which have the longest history."""
    twins = _twin_tokens(stage, stage.max_history, title_tokens)
    sequences, is_half = rows * len(twins), device.kind == "cuda"
    weights = WeightMemory.of(
        _parameters(study),
        uses_autocast=is_half,
        num_processes=PartialState().num_processes,
        sharding=_zero_stage(),
    )
    labels = math.ceil(sequences * (title_tokens + 1))
    return estimate_memory(
        ModelSize.from_config(backbone_config(study)),
        weights,
        BatchShape(sequences, math.ceil(max(twins)), labels=labels, is_padded=True),
        element_size=2 if is_half else 4,
        uses_autocast=is_half,
        checkpoints_layers=study.scale.activation_checkpointing,
        available=device.memory,
        device=device.kind,
    )


def this_device() -> Device:
    """Returns the device of this process, with the memory that the process with least memory has."""
    device = PartialState().device
    of_processes: list[int | None] = gather_object([free_memory(device, 0)])
    known = [number for number in of_processes if number is not None]
    return Device(device.type, min(known) if len(known) == len(of_processes) else None)


def operations_per_second() -> float:
    """Measures the floating-point operations per second of this process's device, in products of large matrices."""
    device = PartialState().device
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    seconds = []
    for _ in range(10):  # the shortest time is the least disturbed one
        begin = time.perf_counter()
        float((left @ right)[0, 0])  # reading a number waits for the device
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / min(seconds)


def _twin_tokens(stage: Stage, num_items: int, title_tokens: float) -> list[float]:
    """Returns the mean tokens of the sequences of one example: one, or both twins of pre-training."""
    around = _PROMPT_TOKENS + title_tokens + 1
    if stage.name == "finetune":
        return [around + history_tokens(stage.layout, num_items, title_tokens)]
    text = history_tokens(TextLayout(), num_items, title_tokens)
    last_layout, last_items = (ItemPatchLayout(0), num_items) if stage.name == "pretrain" else (TextLayout(), 1)
    last = history_tokens(last_layout, last_items, title_tokens)
    return [around + text, around + (text + last) / 2]  # the probability rises evenly from 0 to 1


@cache
def _parameters(study: Study) -> list[torch.nn.Parameter]:
    """Returns the backbone's parameters, which have sizes and no numbers."""
    with torch.device("meta"):
        return list(AutoModelForCausalLM.from_config(backbone_config(study)).parameters())


def _zero_stage() -> int:
    """Returns what a launcher shards: a stage of ZeRO (3 for FSDP), or 0."""
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        return 3
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        return int(DeepSpeedPlugin().deepspeed_config["zero_optimization"]["stage"])
    return 0
