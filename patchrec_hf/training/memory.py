"""Memory: estimates what a training step needs, from a configuration and the shape of its largest batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from ..runtime.attention import CHUNK_ATTENTION
from ..runtime.encoding import IGNORED_LABEL


GIB = 2**30
_FLOAT32 = 4
_OPTIMIZER_STATES = {
    "adafactor": 0,  # the factors of a matrix are vectors
    "adalomo": 0,
    "lomo": 0,
    "sgd": 0,
    "adagrad": 1,
    "lion": 1,
    "rmsprop": 1,
    "ademamix": 3,
}
"""Numbers that an optimizer keeps for each weight, for the optimizers that do not keep two, as AdamW does."""
_HEAP_LAYERS = 2
"""Layers whose arrays the C library holds back after they were freed (see examples/benchmarks/memory.py)."""
_SCORE_BLOCKS = 3 * 2**23
"""Blocks of scores in the item loss, with what is computed from them."""


@dataclass(frozen=True)
class ModelSize:
    """
    The sizes of a backbone that decide how much a forward keeps for its backward.

    Args:
        hidden, intermediate, vocabulary (`int`):
            Width of the states, width of the feed-forward layers, and number of tokens.
        layers, heads (`int`):
            Number of layers, and of attention heads.
        query, key (`int`):
            Width of all queries and of all keys of a position.
    """

    hidden: int
    intermediate: int
    vocabulary: int
    layers: int
    heads: int
    query: int
    key: int

    @classmethod
    def from_config(cls, config: PreTrainedConfig) -> ModelSize:
        """Reads the sizes from the configuration of a decoder. A width that it does not name is the usual one."""
        hidden, heads = config.hidden_size, config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or hidden // heads
        inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * hidden
        return cls(
            hidden=hidden,
            intermediate=inner,
            vocabulary=config.vocab_size,
            layers=config.num_hidden_layers,
            heads=heads,
            query=heads * head_size,
            key=(getattr(config, "num_key_value_heads", None) or heads) * head_size,
        )


@dataclass(frozen=True)
class BatchShape:
    """
    The numbers of a batch that decide how much memory a step needs.

    Args:
        sequences, length (`int`):
            Shape of `input_ids`. A packed batch is one sequence.
        labels, item_targets, candidates (`int`):
            Title tokens to predict, items to predict, and items among which those are predicted.
        chunks, ancestors (`int`):
            Shape of `chunk_ancestors` in a packed batch; 0 in a padded one.
        is_padded (`bool`):
            Whether a sequence holds padding, so that attention needs a mask.
    """

    sequences: int
    length: int
    labels: int = 0
    item_targets: int = 0
    candidates: int = 0
    chunks: int = 0
    ancestors: int = 0
    is_padded: bool = False

    @classmethod
    def from_batch(cls, batch: Mapping[str, torch.Tensor]) -> BatchShape:
        """Reads the numbers from a batch as [`PatchDataCollator`] makes it."""
        sequences, length = batch["input_ids"].shape
        counts = {
            name: int((batch[tensor] != IGNORED_LABEL).sum()) if tensor in batch else 0
            for name, tensor in (("labels", "shift_labels"), ("item_targets", "item_targets"))
        }
        chunks, ancestors = batch["chunk_ancestors"].shape if "chunk_ancestors" in batch else (0, 0)
        return cls(
            sequences=sequences,
            length=length,
            candidates=batch["candidate_items"].shape[1] if "candidate_items" in batch else 0,
            chunks=chunks,
            ancestors=ancestors,
            is_padded="attention_mask" in batch and not bool(batch["attention_mask"].all()),
            **counts,
        )

    @property
    def positions(self) -> int:
        """Positions that the backbone reads, with padding."""
        return self.sequences * self.length


@dataclass(frozen=True)
class WeightMemory:
    """
    Bytes that one process holds for weights.

    Args:
        weights, gradients, optimizer (`int`):
            The weights, the gradients of those that are trained, and the optimizer's state for these.
        half_copies (`int`):
            Copies of the weights in half precision, which autocast makes.
    """

    weights: int
    gradients: int
    optimizer: int
    half_copies: int = 0

    @classmethod
    def of(
        cls,
        parameters: Iterable[torch.nn.Parameter],
        optimizer: str = "adamw_torch",
        uses_autocast: bool = False,
        num_processes: int = 1,
        sharding: int = 0,
    ) -> WeightMemory:
        """
        Counts the bytes of parameters.

        Args:
            parameters (`Iterable[torch.nn.Parameter]`):
                All parameters, also the frozen ones.
            optimizer (`str`, *optional*, defaults to `"adamw_torch"`):
                A name as in [`~transformers.TrainingArguments`]. An optimizer that is not known counts as AdamW.
            uses_autocast (`bool`, *optional*, defaults to `False`):
                Whether float32 weights are multiplied in half precision.
            num_processes (`int`, *optional*, defaults to `1`):
                Number of processes that share what is sharded.
            sharding (`int`, *optional*, defaults to `0`):
                A stage of ZeRO: 1 shards the optimizer's state, 2 also the gradients, and 3 also the weights, as FSDP
                does.
        """
        weights, gradients, state, half = 0, 0, 0.0, 0
        for parameter in parameters:
            numbers = getattr(parameter, "ds_numel", parameter.numel())  # ZeRO-3 leaves no numbers in the parameter
            size = numbers * parameter.element_size()
            weights += size
            half += 2 * numbers if uses_autocast and parameter.element_size() == _FLOAT32 else 0
            if parameter.requires_grad:
                gradients += size
                state += numbers * _state_bytes(optimizer, parameter.element_size())
        share_of = {stage: num_processes if sharding >= stage else 1 for stage in (1, 2, 3)}
        return cls(weights // share_of[3], gradients // share_of[2], int(state / share_of[1]), half)


def _state_bytes(optimizer: str, element_size: int) -> float:
    """Returns the bytes of an optimizer's state for one weight."""
    states = _OPTIMIZER_STATES.get(optimizer.removeprefix("paged_").split("_")[0], 2)
    if "8bit" in optimizer:
        return states
    return states * (0.5 if "4bit" in optimizer else element_size)


@dataclass(frozen=True)
class MemoryEstimate:
    """
    The memory that training needs on one device, in bytes. `str()` makes a readable line of it.

    Args:
        weights, gradients, optimizer (`int`):
            See [`WeightMemory`].
        activations (`int`):
            Arrays that a forward keeps for its backward, and those that the backward of one layer computes.
        scores (`int`):
            The logits of the title tokens to predict, the scores of items, and what the loss computes from them.
        batch ([`BatchShape`]):
            The batch that was counted.
        available (`int`, *optional*):
            Bytes that training may use on the device: those that are free, and those that hold the weights already.
        device (`str`, *optional*, defaults to `"cpu"`):
            Name of the device.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    scores: int
    batch: BatchShape
    available: int | None = None
    device: str = "cpu"

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.scores

    @property
    def fits(self) -> bool:
        """Whether the device has enough; `True` if that is not known."""
        return self.available is None or self.total <= self.available

    def __str__(self) -> str:
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "activations": self.activations,
            "scores": self.scores,
        }
        of_device = "" if self.available is None else f" of {self.available / GIB:.1f} GiB on {self.device}"
        listed = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
        batch = self.batch
        sequences = "one sequence" if batch.sequences == 1 else f"{batch.sequences} sequences"
        return (
            f"Training needs about {self.total / GIB:.1f} GiB{of_device}: {listed}. The largest forward reads "
            f"{batch.positions:,} positions in {sequences}."
        )


def estimate_memory(
    model: ModelSize,
    weights: WeightMemory,
    batch: BatchShape,
    attention: str = "sdpa",
    element_size: int = _FLOAT32,
    uses_autocast: bool = False,
    checkpoints_layers: bool = False,
    available: int | None = None,
    device: str = "cpu",
) -> MemoryEstimate:
    """
    Estimates the memory of training, for a dense backbone with gated feed-forward layers. Others differ a little.

    A layer keeps, for each position: the inputs of both norms and what the norms make of them (4 states, in float32);
    the inputs of the linear layers (2 states, under autocast a copy for each of 5 layers); queries, keys, values and
    what attention makes of them; and 4 arrays of the feed-forward layer's width. If attention has a mask, each layer
    keeps a copy of it, and keys and values are repeated for each head. Layers that are checkpointed keep their input.

    Args:
        model ([`ModelSize`]):
            Sizes of the backbone.
        weights ([`WeightMemory`]):
            Bytes that are held for weights.
        batch ([`BatchShape`]):
            The largest batch.
        attention (`str`, *optional*, defaults to `"sdpa"`):
            Attention implementation of the backbone. `"eager"` keeps the weights of all pairs of positions. In chunks
            of a packed batch, each chunk has keys and values of its own.
        element_size (`int`, *optional*, defaults to `4`):
            Bytes of a number in matrix multiplications: 4, or 2 in half precision.
        uses_autocast (`bool`, *optional*, defaults to `False`):
            Whether the weights are in float32 although matrix multiplications are in half precision.
        checkpoints_layers (`bool`, *optional*, defaults to `False`):
            Whether layers are computed again in the backward (`activation_checkpointing`).
        available, device:
            See [`MemoryEstimate`].

    Returns:
        [`MemoryEstimate`]
    """
    state = model.hidden * batch.positions
    keys, cells = _attention_keys(batch, attention)
    has_mask = cells > 0
    layer = 4 * state * _FLOAT32
    layer += (5 if uses_autocast else 2) * state * element_size
    layer += 2 * model.query * batch.positions * element_size
    layer += 2 * (model.query if has_mask else model.key) * keys * element_size
    layer += 4 * model.intermediate * batch.positions * element_size
    layer += cells * element_size
    if attention == "eager":
        layer += cells * model.heads * (_FLOAT32 if element_size == _FLOAT32 else _FLOAT32 + element_size)
    # The logits of the labels, their logarithms and two gradients; vectors of users and items, and their gradients.
    scores = 3 * _FLOAT32 * batch.labels * model.vocabulary
    if batch.item_targets > 0:
        scores += 8 * _FLOAT32 * model.hidden * (batch.item_targets + batch.candidates) + _SCORE_BLOCKS
    kept = state * _FLOAT32 * model.layers if checkpoints_layers else layer * model.layers
    # The embeddings before and after patches are put in, the last norm, and the gradients of one layer. With
    # checkpoints, also that layer's own arrays, which it computes again.
    working = (2 if checkpoints_layers else 1) * layer
    if device == "cpu":
        working += _HEAP_LAYERS * layer
    return MemoryEstimate(
        weights=weights.weights,
        gradients=weights.gradients,
        optimizer=weights.optimizer,
        activations=kept + 5 * state * _FLOAT32 + working + weights.half_copies,
        scores=scores,
        batch=batch,
        available=available,
        device=device,
    )


def _attention_keys(batch: BatchShape, attention: str) -> tuple[int, int]:
    """Returns the number of keys that are kept, and the number of cells of the mask; 0 without a mask."""
    if batch.chunks > 0 and attention == CHUNK_ATTENTION:
        size = -(-batch.length // batch.chunks)
        keys = batch.chunks * (batch.ancestors + size)
        return keys, keys * size
    if attention == "eager" or (attention == "sdpa" and (batch.chunks > 0 or batch.is_padded)):
        return batch.positions, batch.positions * batch.length
    return batch.positions, 0
