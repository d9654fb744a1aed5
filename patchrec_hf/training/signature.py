"""Signature of the trainers: explains a call by the habits of other trainers, and shows the right one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec

from ..runtime.ids import nearest_texts


P = ParamSpec("P")

_METRICS = (
    "Choose the ranking metrics by `eval_ks` in the training arguments. For metrics of your own, call "
    "`evaluate_model`, whose report holds the rank of each target."
)
_PROCESSOR = "Pass `processing_class=processor`, a `PatchRecProcessor`, which holds the tokenizer."
# Arguments of Trainer and SFTTrainer that do not apply, and what to use instead.
_INSTEAD = {
    "compute_metrics": _METRICS,
    "preprocess_logits_for_metrics": _METRICS,
    "tokenizer": _PROCESSOR,
    "processor": _PROCESSOR,
    "formatting_func": (
        "Rows hold item ids, and the processor writes their titles into its prompt. Make it with a `PromptTemplate`."
    ),
    "compute_loss_func": (
        "Choose the loss by `objective` in the training arguments, or override `compute_loss` in a subclass."
    ),
    "optimizer_cls_and_kwargs": (
        "Choose the optimizer by `optim` and `optim_args` in the training arguments, or pass "
        "`optimizers=(optimizer, scheduler)`."
    ),
    "quantization_config": (
        "Pass as `model`: `PatchRecForCausalLM.from_backbone(name, processor.tokenizer, quantization_config=...)`."
    ),
}


def explain_call(init: Callable[P, None]) -> Callable[P, None]:
    """
    Wraps a trainer's `__init__`. A call that Python would refuse raises a `TypeError` that shows the right call.

    Args:
        init (`Callable`):
            The method. Its first parameters are `self`, `model` and `args`; the others are keyword-only.

    Returns:
        `Callable`: a method with the same signature.
    """
    signature = inspect.signature(init)

    @wraps(init)
    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        _check_call(type(args[0]).__name__, signature.parameters, args[1:], kwargs)
        init(*args, **kwargs)

    return checked


def _check_call(
    name: str, parameters: Mapping[str, inspect.Parameter], values: tuple[Any, ...], named: Mapping[str, Any]
) -> None:
    _, *known = parameters
    right = f"Write `{name}(model, args, train_dataset=..., processing_class=..., eval_dataset=...)`."
    if len(values) > 2:
        kinds = ", ".join(f"`{type(value).__name__}`" for value in values[2:])
        raise TypeError(
            f"`{name}` takes only `model` and `args` by position, because trainers order the other arguments "
            f"differently. It got {kinds} after them. {right}"
        )
    for argument in named:
        if argument in known:
            continue
        nearest = nearest_texts(argument, known, n=1)
        instead = _INSTEAD.get(argument) or (
            f"Did you mean `{nearest[0]}`?" if nearest else f"It takes {', '.join(f'`{one}`' for one in known)}."
        )
        raise TypeError(f"`{name}` takes no `{argument}`. {instead}")
    required = [one for one in known if parameters[one].default is inspect.Parameter.empty]
    missing = [one for one in required if one not in (*known[: len(values)], *named)]
    if missing:
        raise TypeError(f"The call of `{name}` lacks {', '.join(f'`{one}`' for one in missing)}. {right}")
