"""Memory: estimates what a training step needs, from a configuration and the shape of its largest batch."""

from __future__ import annotations

from dataclasses import dataclass

from ..runtime.attention import CHUNK_ATTENTION
from .memory_sizes import FLOAT32_SIZE, BatchShape, ModelSize, WeightMemory


GIB = 2**30
_HEAP_LAYERS = 2
"""Layers whose arrays the C library holds back after they were freed (see examples/benchmarks/memory.py)."""
_SCORE_BLOCKS = 3 * 2**23
"""Blocks of scores in the item loss, with what is computed from them."""


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
    element_size: int = FLOAT32_SIZE,
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
    layer = 4 * state * FLOAT32_SIZE
    layer += (5 if uses_autocast else 2) * state * element_size
    layer += 2 * model.query * batch.positions * element_size
    layer += 2 * (model.query if has_mask else model.key) * keys * element_size
    layer += 4 * model.intermediate * batch.positions * element_size
    layer += cells * element_size
    if attention == "eager":
        layer += cells * model.heads * (FLOAT32_SIZE if element_size == FLOAT32_SIZE else FLOAT32_SIZE + element_size)
    # The logits of the labels, their logarithms and two gradients; with teachers, also the logarithms of the twins,
    # and these once more in two parts; vectors of users and items, and their gradients.
    num_arrays = 5 if batch.is_distilled else 3
    scores = num_arrays * FLOAT32_SIZE * batch.labels * (batch.choice_tokens or model.vocabulary)
    if batch.item_targets > 0:
        scores += 8 * FLOAT32_SIZE * model.hidden * (batch.item_targets + batch.candidates) + _SCORE_BLOCKS
    kept = state * FLOAT32_SIZE * model.layers if checkpoints_layers else layer * model.layers
    # The embeddings before and after patches are put in, the last norm, and the gradients of one layer. With
    # checkpoints, also that layer's own arrays, which it computes again.
    working = (2 if checkpoints_layers else 1) * layer
    if device == "cpu":
        working += _HEAP_LAYERS * layer
    return MemoryEstimate(
        weights=weights.weights,
        gradients=weights.gradients,
        optimizer=weights.optimizer,
        activations=kept + 5 * state * FLOAT32_SIZE + working + weights.half_copies,
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
