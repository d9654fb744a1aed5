"""Memory sizes: the numbers of a model, its weights and a batch that decide how much memory training needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from ..runtime.encoding import IGNORED_LABEL


FLOAT32_SIZE = 4
"""Bytes of a float32 number."""
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
        labels, item_targets, candidates (`int`, *optional*, defaults to `0`):
            Title tokens to predict, items to predict, and items among which those are predicted.
        choice_tokens (`int`, *optional*, defaults to `0`):
            Tokens whose logits are computed if title tokens are predicted among the catalog's; 0 for the whole
            vocabulary.
        chunks, ancestors (`int`, *optional*, defaults to `0`):
            Shape of `chunk_ancestors` in a packed batch; 0 in a padded one.
        is_padded (`bool`, *optional*, defaults to `False`):
            Whether a sequence holds padding, so that attention needs a mask.
        is_distilled (`bool`, *optional*, defaults to `False`):
            Whether some labels are predicted by teachers (see [`twin_divergence`]).
    """

    sequences: int
    length: int
    labels: int = 0
    item_targets: int = 0
    candidates: int = 0
    choice_tokens: int = 0
    chunks: int = 0
    ancestors: int = 0
    is_padded: bool = False
    is_distilled: bool = False

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
            choice_tokens=batch["choice_token_ids"].shape[1] if "choice_token_ids" in batch else 0,
            chunks=chunks,
            ancestors=ancestors,
            is_padded="attention_mask" in batch and not bool(batch["attention_mask"].all()),
            is_distilled="shift_teachers" in batch,
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
        half_copies (`int`, *optional*, defaults to `0`):
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
            half += 2 * numbers if uses_autocast and parameter.element_size() == FLOAT32_SIZE else 0
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
