"""Sharded weights (ZeRO-3, FSDP2): whether a process holds only a part of them, and contexts that gather them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module

from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled


def is_sharded(model: PreTrainedModel) -> bool:
    """Whether each process holds only a part of the weights (ZeRO-3, FSDP2), so that all processes must run alike."""
    return is_deepspeed_zero3_enabled() or any(isinstance(parameter, DTensor) for parameter in model.parameters())


@contextmanager
def gathered_root(model: PreTrainedModel) -> Iterator[None]:
    """
    Gathers the weights that FSDP2 shards with the model itself and not with one of its layers: embedding, final norm
    and head. The model's own forward gathers them; code that calls the model's parts needs this context.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Any model; without FSDP2 nothing happens.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def gathered(parameter: nn.Parameter) -> AbstractContextManager:
    """Gathers a parameter that ZeRO-3 has sharded, and keeps the changes that are made to it inside the context."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    # Imported by name: otherwise transformers would demand deepspeed from users of an export with code.
    return import_module("deepspeed").zero.GatheredParameters([parameter], modifier_rank=0)
