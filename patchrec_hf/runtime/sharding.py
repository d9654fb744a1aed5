"""Sharded weights (ZeRO-3, FSDP2): finds out whether a model has them, and gathers them in contexts."""

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
    """Whether each process holds only a part of the weights (ZeRO-3, FSDP2). If so, all must run the same calls."""
    return is_deepspeed_zero3_enabled() or any(isinstance(parameter, DTensor) for parameter in model.parameters())


def is_plain_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer whose weight this process holds whole, in memory, with nothing around it."""
    if type(module) is not nn.Linear or is_deepspeed_zero3_enabled():
        return False
    return not isinstance(module.weight, DTensor) and module.weight.device.type != "meta"


@contextmanager
def gathered_root(model: PreTrainedModel) -> Iterator[None]:
    """
    Gathers the weights that FSDP2 shards with the whole model and not with one of its layers: embedding, final norm
    and head. The model's forward gathers them by itself. Code that calls parts of the model needs this context.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Any model. Without FSDP2 the context does nothing.
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
    """Gathers a parameter that ZeRO-3 has sharded, and keeps changes that code inside the context makes to it."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    # Imported by name: with an import statement, transformers would require deepspeed from users of an export with
    # code.
    return import_module("deepspeed").zero.GatheredParameters([parameter], modifier_rank=0)
