"""`model_init`: a function that makes the model of each run, for hyperparameter searches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel

from ..runtime.sharding import is_sharded


ModelInit = Callable[[], Any] | Callable[[Any], Any]

# Settings that the model and the collator are made with, before a trial has its values.
_FIXED = frozenset(
    {
        "objective",
        "num_negatives",
        "tree_packing",
        "item_residual_size",
        "item_similarity",
        "item_dropout",
        "residual_dropout",
        "title_similarity",
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


def check_searched(names: Iterable[str]) -> None:
    """
    Checks the settings that a hyperparameter search tries.

    Raises:
        ValueError: If model and collator have been made with one of them already.
    """
    fixed = sorted(_FIXED & set(names))
    if fixed:
        raise ValueError(
            f"A search within one trainer cannot try `{fixed[0]}`, because model and batches are made with it. Make "
            "a new trainer for each trial: docs/training.md shows a loop."
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
