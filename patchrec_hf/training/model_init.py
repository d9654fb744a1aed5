"""`model_init`: a function that makes the model of each run, for hyperparameter searches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel

from ..runtime.sharding import is_sharded


ModelInit = Callable[[], Any] | Callable[[Any], Any]

# Settings that Trainer reads anew at the start of each run. Model, rows and batches are made with the others.
_SEARCHABLE = frozenset(
    {
        "learning_rate",
        "lr_scheduler_type",
        "lr_scheduler_kwargs",
        "warmup_steps",
        "warmup_ratio",
        "optim",
        "optim_args",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
        "num_train_epochs",
        "max_steps",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
    }
)


def check_model_init(model: Any, model_init: ModelInit | None, peft_config: Any, optimizers: tuple[Any, Any]) -> None:
    """
    Checks the arguments of a trainer that say which model it trains.

    Raises:
        TypeError: If both or neither of `model` and `model_init` are given.
        ValueError: If an argument belongs to the model of one run only.
    """
    if (model is None) == (model_init is None):
        given = "both" if model_init is not None else "neither"
        raise TypeError(f"A trainer needs either `model` or `model_init`, got {given}.")
    if model_init is not None and peft_config is not None:
        raise ValueError(
            "`peft_config` makes an adapter once, but `model_init` makes the model of each run. Let `model_init` "
            "return `get_peft_model(model, peft_config)`."
        )
    if model_init is not None and any(part is not None for part in optimizers):
        raise ValueError(
            "`optimizers` hold the weights of one model, but `model_init` makes the model of each run. Choose the "
            "optimizer by `optim` and `lr_scheduler_type` in the training arguments."
        )


def make_first_model(model_init: ModelInit) -> Any:
    """
    Makes the model that a trainer is made with, before any trial.

    Args:
        model_init (`Callable`):
            The user's function, with a parameter for the trial or without one.

    Returns:
        `Any`: what the function returns.

    Raises:
        RuntimeError: If the function takes other parameters, or returns `None`.
    """
    num_parameters = len(signature(model_init).parameters)
    if num_parameters > 1:
        raise RuntimeError(f"`model_init` must take no parameter or the trial only, but takes {num_parameters}.")
    model = model_init(None) if num_parameters else model_init()  # type: ignore[call-arg]
    if model is None:
        raise RuntimeError("`model_init` returned None. It must return a model, or the name of one.")
    return model


def check_searched(names: Iterable[str]) -> None:
    """
    Checks the settings that a hyperparameter search tries.

    Raises:
        ValueError: If a setting does not change from run to run, because model, rows or batches were made with it.
    """
    others = sorted(set(names) - _SEARCHABLE)
    if others:
        raise ValueError(
            f"A search within one trainer cannot try `{others[0]}`. It may try {', '.join(sorted(_SEARCHABLE))}. To "
            "try what model, rows or batches are made with, make a new trainer for each trial: docs/training.md shows "
            "a loop."
        )


def check_goal(compute_objective: Callable[[Mapping[str, float]], Any] | None, direction: Any) -> None:
    """
    Checks what a search aims at. Trainer's default is the sum of all metrics, which adds shares to numbers of tokens.

    Raises:
        ValueError: If there is no goal, and the default, the loss, does not suit the direction.
    """
    if compute_objective is None and direction != "minimize":
        raise ValueError(
            f"A search with `direction={direction!r}` needs a goal. Pass, for example, "
            "`compute_objective=lambda metrics: metrics['eval_ndcg@20']`."
        )


def eval_loss(metrics: Mapping[str, float]) -> float:
    """Returns the loss on the evaluation rows, the default goal of a search."""
    return metrics["eval_loss"]


def restart(model: PreTrainedModel | PeftModel, new: PreTrainedModel | PeftModel) -> None:
    """
    Gives a model the weights of a new one. The trainer keeps the model itself, which it has prepared for training.

    Args:
        model ([`PatchRecForCausalLM`] or [`~peft.PeftModel`]):
            The model of the last run. Changed in place.
        new ([`PatchRecForCausalLM`] or [`~peft.PeftModel`]):
            The model for the next run.

    Raises:
        ValueError: If the two differ in their modules or shapes, or the weights are sharded.
    """
    if is_sharded(model):
        raise ValueError(
            "`model_init` does not work with sharded weights (ZeRO-3, FSDP2). Make a new trainer for each run, or run "
            "with DDP or ZeRO-1/2."
        )
    try:
        model.load_state_dict(new.state_dict())
    except RuntimeError as error:
        raise ValueError(
            "`model_init` returned a model of other shapes than the first one. Make a new trainer for each model. "
            f"{error}"
        ) from error
