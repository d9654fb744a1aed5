"""The stages in which a method's LLM is trained, with the number of examples of each."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from patchrec_hf import ALL_PATCH_PRESET, ItemPatchLayout, Layout, SessionPatchLayout
from patchrec_hf.data.keywords import nearest

from .plans import TIME_REFERENCE, LLMMethod, StageName
from .study import Study


EQUAL_TIME = " (equal time)"
OWN_BUDGET = "own budget"


@dataclass(frozen=True)
class Stage:
    """
    One stage of training.

    Args:
        name (`"pretrain"`, `"dropout"`, `"finetune"` or `"items"`):
            See [`LLMMethod`].
        layout ([`Layout`]):
            Layout that the processor has, and that is saved with the checkpoint.
        max_history (`int`):
            Items per history.
        num_examples (`int`):
            Training examples (targets), with repetitions.
        learning_rate (`float`):
            The peak learning rate.
        title_normalizer (`"vocabulary"` or `"catalog"`):
            Among which tokens a title's token is predicted.
        title_temperature (`float`):
            With the normalizer `"catalog"`: by what logits are divided.
        directory (`pathlib.Path`):
            Where it is trained. Methods that share a stage share its directory.
    """

    name: StageName
    layout: Layout
    max_history: int
    num_examples: int
    learning_rate: float
    title_normalizer: str
    title_temperature: float
    directory: Path

    @property
    def checkpoint(self) -> str:
        """Directory of the trained model."""
        return str(self.directory / "final")


def stages_of(study: Study, name: str) -> list[Stage]:
    """
    Returns the stages of a method, in order.

    Pre-training does not depend on the layout, so methods share it, as in the paper. Its histories are never longer
    than the scale's, because it reads them as text.
    """
    method, stages = study.methods[name], []
    length, normalizer = study.max_history(name), normalizer_of(study, name)
    for stage, num_examples in zip(method.stages, _num_examples(study, name, method), strict=True):
        if num_examples == 0:
            continue
        if stage == "finetune":
            max_history, layout, directory = length, method.layout, study.directory(name) / "finetune"
        elif stage == "items":
            max_history, layout = length, method.layout
            directory = study.output_dir / "stages" / f"items_{max_history}_{num_examples}"
        else:
            max_history = min(length, study.scale.max_history)
            layout = ItemPatchLayout() if stage == "pretrain" else method.layout
            suffix = "" if normalizer == study.scale.title_normalizer else f"_{normalizer}"
            directory = study.output_dir / "stages" / f"{stage}_{max_history}_{num_examples}{suffix}"
        is_session = isinstance(layout, SessionPatchLayout)
        rate = study.preset.session_learning_rate if is_session else study.preset.learning_rate
        rate = all_patch_training(study)["learning_rate"] if stage == "items" else study.scale.learning_rate or rate
        temperature = study.scale.title_temperature if normalizer == "catalog" else 1.0
        stages.append(Stage(stage, layout, max_history, num_examples, rate, normalizer, temperature, directory))
    return stages


def normalizer_of(study: Study, name: str) -> str:
    """Returns among which tokens a method predicts a title's token."""
    return study.methods[name].title_normalizer or study.scale.title_normalizer


def all_patch_training(study: Study) -> dict[str, Any]:
    """Returns the training arguments of the all-patch recipe."""
    return {**ALL_PATCH_PRESET.training, **study.scale.all_patch_training}


def budget_of(study: Study, name: str) -> str:
    """Returns what the method's number of examples comes from."""
    if study.methods[name].at_equal_time:
        return "equal time"
    if name in study.epochs:
        epochs = study.epochs[name]
        return f"{' + '.join(f'{number:g}' for number in epochs)} epoch{'' if epochs == (1.0,) else 's'}"
    if study.methods[name].predicts_items:
        return OWN_BUDGET
    return "one epoch a stage" if study.scale.num_examples is None else "equal examples"


def rows_per_step(study: Study) -> int:
    """Returns the rows of an optimizer step of all processes."""
    return study.scale.rows_per_step or study.preset.batch_size


def forwards_per_step(study: Study, rows_per_forward: int) -> int:
    """
    Returns the forwards of each process in an optimizer step. Ends the script if the rows of a step cannot be divided
    into forwards.
    """
    rows, num_processes = rows_per_step(study), PartialState().num_processes
    number, rest = divmod(rows, rows_per_forward * num_processes)
    if rest or not number:
        raise SystemExit(
            f"A step has {rows} rows, which cannot be divided into forwards of {rows_per_forward} rows on each of "
            f"{num_processes} processes. Choose another --per_device_batch_size or number of processes."
        )
    return number


def check_epochs(study: Study) -> None:
    """Ends the script if `--epochs` does not give one number for each stage of a known method."""
    for name, epochs in study.epochs.items():
        if name not in study.methods or study.methods[name].at_equal_time:
            known = [method for method, settings in study.methods.items() if not settings.at_equal_time]
            raise SystemExit(f"--epochs names {name!r}, which trains no LLM for epochs; {nearest(name, known)}")
        stages = study.methods[name].stages
        if len(epochs) != len(stages) or not all(0 < number < math.inf for number in epochs):
            numbers = ",".join(f"{number:g}" for number in epochs)
            example = ",".join("1" for _ in stages)
            raise SystemExit(
                f"--epochs needs one number above 0 for each stage of {name!r} ({', '.join(stages)}), got {numbers}. "
                f"Write it as {name + '=' + example!r}."
            )


def _num_examples(study: Study, name: str, method: LLMMethod) -> list[int]:
    """Returns the examples of each stage."""
    same = name.removesuffix(EQUAL_TIME)
    if same in study.epochs:
        numbers = [round(epochs * study.num_train_examples) for epochs in study.epochs[same]]
    elif method.predicts_items:
        numbers = [round(all_patch_training(study)["num_train_epochs"] * study.num_train_examples)]
    elif study.scale.num_examples is None:
        numbers = [study.num_train_examples] * len(method.stages)
    elif len(method.stages) == 1:
        numbers = [study.scale.num_examples]
    else:
        pretraining = round(study.scale.num_examples * study.scale.pretraining_share)
        numbers = [pretraining, study.scale.num_examples - pretraining]
    if not method.at_equal_time:
        return numbers
    reference, at_equal_examples = study.result(TIME_REFERENCE), study.result(same)
    if reference is None or at_equal_examples is None:
        raise SystemExit(f"{name!r} needs {TIME_REFERENCE!r} and {same!r}. Run these methods first.")
    machines = {json.dumps(stage["machine"]) for row in (reference, at_equal_examples) for stage in row["stages"]}
    if len(machines) > 1:
        raise SystemExit(
            f"Times of different machines cannot be compared: {' and '.join(sorted(machines))}. Run "
            f"{TIME_REFERENCE!r} and {same!r} on one machine."
        )
    ratio = reference["train_seconds"] / at_equal_examples["train_seconds"]
    return [round(number * ratio) for number in numbers]
