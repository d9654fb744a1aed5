"""Recipes: the stages in which a backbone becomes a recommender, and the settings of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from accelerate import PartialState
from datasets import Dataset, IterableDataset
from peft import PeftConfig

from ..runtime.processing import PatchRecProcessor
from ..runtime.prompts import (
    BOOK_PROMPT,
    BOOK_PROMPT_INSTRUCTION_FIRST,
    HISTORY_SLOT,
    MOVIE_PROMPT,
    MOVIE_PROMPT_INSTRUCTION_FIRST,
    PromptTemplate,
)
from .arguments import ALL_PATCH_PRESET, PatchFinetuneConfig
from .checkpoints import last_checkpoint
from .curves import plot_curves
from .patch_trainer import PatchTrainer
from .trainers import PatchFinetuneTrainer, PatchPretrainTrainer


FINAL_NAME, CURVES_NAME, CARD_NAME = "final", "curves.png", "README.md"


@dataclass(frozen=True)
class Recipe:
    """
    How a backbone becomes a recommender.

    Args:
        stages (`Mapping[str, type[PatchTrainer]]`):
            The trainer of each stage, by the stage's name, in order.
        rows, processor, training (`Mapping[str, Any]`, *optional*):
            Arguments of [`load_recommendation_data`], [`PatchRecProcessor`] and [`PatchFinetuneConfig`]. The learning
            rate suits a small backbone that was not pretrained.
        instruction_first (`bool`, *optional*, defaults to `False`):
            Whether the model reads no text after the history, so that the instruction must stand before it.
        fits_fusion (`bool`, *optional*, defaults to `False`):
            Whether a fusion joins the model and other parts after training (see [`fit_fusion`]).
    """

    stages: Mapping[str, type[PatchTrainer]]
    rows: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    instruction_first: bool = False
    fits_fusion: bool = False

    def prompt(self, words: str, system: str | None = None) -> PromptTemplate:
        """
        Returns the prompt that a user asked for.

        Args:
            words (`str`):
                `"items"`, `"books"` or `"movies"`, for a prompt of the library; or an instruction with `{history}`.
            system (`str`, *optional*):
                The system turn of an instruction.

        Raises:
            ValueError: If an instruction lacks `{history}`, or has text after it that the model would not read.
        """
        if words in _PROMPTS:
            return _PROMPTS[words][int(self.instruction_first)]
        if HISTORY_SLOT not in words:
            raise ValueError(
                f"A prompt is one of {', '.join(_PROMPTS)}, or an instruction that holds {HISTORY_SLOT}, such as "
                f"'A customer bought {HISTORY_SLOT}. Please name the next product.' Got {words!r}."
            )
        after = words.partition(HISTORY_SLOT)[2]
        if self.instruction_first and after.strip(" ."):
            raise ValueError(
                f"This recipe predicts each item from the items before it, so the model never reads {after!r}, which "
                f"stands after {HISTORY_SLOT}. Move {HISTORY_SLOT} to the end of the prompt."
            )
        return PromptTemplate(words, system)


_ITEM_SYSTEM = "You are a helpful assistant in recommendations."
_PROMPTS = {
    "items": (
        PromptTemplate(
            f"A user has chosen {HISTORY_SLOT}. Please recommend one item for this user to choose next with its title "
            "only and without any explanation.",
            _ITEM_SYSTEM,
        ),
        PromptTemplate(
            "Please recommend one item for a user to choose next with its title only and without any explanation. "
            f"The user has chosen {HISTORY_SLOT}",
            _ITEM_SYSTEM,
        ),
    ),
    "books": (BOOK_PROMPT, BOOK_PROMPT_INSTRUCTION_FIRST),
    "movies": (MOVIE_PROMPT, MOVIE_PROMPT_INSTRUCTION_FIRST),
}

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "all-patch": Recipe(
            stages={"finetune": PatchFinetuneTrainer},
            rows=ALL_PATCH_PRESET.rows,
            processor=ALL_PATCH_PRESET.processor,
            training=ALL_PATCH_PRESET.training,
            instruction_first=True,
            fits_fusion=True,
        ),
        "paper": Recipe(
            stages={"pretrain": PatchPretrainTrainer, "finetune": PatchFinetuneTrainer},
            rows={"max_history": 100, "targets_per_row": 1},
            training={
                "learning_rate": 1e-2,
                "per_device_train_batch_size": 8,
                "gradient_accumulation_steps": 4,  # the paper's 32 rows per step
            },
        ),
    }
)
"""
[`Recipe`] by name: `"all-patch"` is [`ALL_PATCH_PRESET`] with a fusion, `"paper"` the paper's two stages.

Example:
```python
>>> recipe = RECIPES["all-patch"]
>>> splits, catalog = load_recommendation_data("ml-1m", **recipe.rows)
>>> processor = PatchRecProcessor.from_backbone(backbone, catalog, recipe.prompt("movies"), **recipe.processor)
>>> args = PatchFinetuneConfig("outputs/ml-1m", **recipe.training)
>>> train_recipe(recipe, backbone, args, splits["train"], processor)
```
"""


def train_recipe(
    recipe: Recipe,
    model: str | os.PathLike,
    args: PatchFinetuneConfig,
    train_dataset: Dataset | IterableDataset,
    processor: PatchRecProcessor,
    eval_dataset: Dataset | None = None,
    peft_config: PeftConfig | None = None,
) -> Path:
    """
    Trains all stages of a recipe, each from the result of the stage before it.

    Args:
        recipe ([`Recipe`]):
            The stages.
        model (`str` or `os.PathLike`):
            The backbone or checkpoint to start from.
        args ([`PatchFinetuneConfig`]):
            Training arguments of all stages; with a stage of pre-training, a [`PatchPretrainConfig`]. The last stage
            writes to `output_dir`, and the others to subdirectories with their names.
        train_dataset, eval_dataset, peft_config:
            As for [`PatchFinetuneTrainer`].
        processor ([`PatchRecProcessor`]):
            Encodes histories.

    Returns:
        `pathlib.Path`: the directory of the last stage's checkpoint, `output_dir/final`.

    Raises:
        TypeError, ValueError, FloatingPointError: As [`PatchFinetuneTrainer`] does.
    """
    *_, last = recipe.stages
    output_dir, state = Path(str(args.output_dir)), PartialState()
    for name, trainer_class in recipe.stages.items():
        directory = output_dir if name == last else output_dir / name

        def make_trainer(
            trainer_class: type[PatchTrainer] = trainer_class, start: Any = model, directory: Path = directory
        ) -> PatchTrainer:
            state.print(f"\n== {trainer_class.stage}, from {start} ==")
            # Made anew, so that DeepSpeed takes its "auto" values from this stage.
            stage_args = replace(args, output_dir=str(directory))
            return trainer_class(
                start,
                stage_args,
                train_dataset=train_dataset,
                processing_class=processor,
                eval_dataset=eval_dataset,
                peft_config=peft_config,
            )

        model = train_stage(make_trainer, directory)
    return Path(model)


def train_stage(make_trainer: Callable[[], PatchTrainer], output_dir: str | os.PathLike) -> Path:
    """
    Trains one stage, unless its finished result exists. An interrupted stage resumes from its last whole checkpoint.
    The checkpoint `output_dir/final` is complete as soon as it exists, and holds a picture of the logged curves if
    matplotlib is installed.

    Args:
        make_trainer (`Callable[[], PatchTrainer]`):
            Makes the trainer, if there is something to train. Its `output_dir` is this one.
        output_dir (`str` or `os.PathLike`):
            The directory of the stage.

    Returns:
        `pathlib.Path`: `output_dir/final`.
    """
    state, final = PartialState(), Path(output_dir, FINAL_NAME)
    if not final.is_dir():
        part = final.with_suffix(".part")
        trainer = make_trainer()
        trainer.train(resume_from_checkpoint=last_checkpoint(output_dir))
        processes = f"{state.num_processes} process{'es' if state.num_processes > 1 else ''}"
        state.print(f"Trained by {processes} in {type(trainer.model_wrapped).__name__}.")
        trainer.save_model(str(part))
        if state.is_main_process:
            plot_curves(trainer.state.log_history, part / CURVES_NAME, trainer.stage)
            trainer.create_model_card(str(final))  # the card names the directory that the model will stand in
            Path(output_dir, CARD_NAME).replace(part / CARD_NAME)
            part.rename(final)
    state.wait_for_everyone()
    return final
