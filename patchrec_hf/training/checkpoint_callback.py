"""A callback for any Trainer that marks, rotates and pushes checkpoints, so that only whole ones are ever used."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import (
    PREFIX_CHECKPOINT_DIR,
    HubStrategy,
    IntervalStrategy,
    SaveStrategy,
    rotate_checkpoints,
)
from transformers.utils import logging

from .checkpoints import RUN_NAME, delete_old_checkpoints, mark_whole, mark_written, unmark


logger = logging.get_logger(__name__)

# Files of a checkpoint that are needed only to resume.
_TRAINING_STATE = [
    "*.pt",
    "*.pth",
    "*.bin",
    "global_step*",
    "latest",
    "zero_to_fp32.py",
    "trainer_state.json",
    RUN_NAME,
]


class CheckpointCallback(TrainerCallback):
    """
    Marks a checkpoint as unfinished before it is written, and as whole when every process has written its files. Only
    then, the callback deletes older checkpoints and pushes this one. [`last_checkpoint`] finds the newest whole
    checkpoint, so a run that is killed at any time loses only the steps since that checkpoint.

    The callback works with any [`~transformers.Trainer`]. Add it last, so that it sees the decisions of other
    callbacks. Turn off Trainer's own rotation and pushing, which do not wait for all processes: leave
    `save_total_limit` unset and set `hub_strategy="end"` in the training arguments.

    Args:
        trainer ([`~transformers.Trainer`]):
            The trainer that the callback is added to.
        save_total_limit (`int`, *optional*):
            Number of checkpoints to keep; all if not given.
        hub_strategy (`str` or [`~transformers.trainer_utils.HubStrategy`], *optional*, defaults to `"end"`):
            Which checkpoints to push, if the training arguments have `push_to_hub`. Pushes arrive in order. The
            callback logs a push that fails.
        get_facts (`Callable[[], Mapping[str, Any]]`, *optional*):
            Returns JSON-ready values to write into a whole checkpoint (see [`check_resumable`]). Every process calls
            it.

    Raises:
        ValueError: If Trainer's own rotation or pushing is on.

    Example:
    ```python
    >>> trainer = Trainer(model, TrainingArguments("out", save_steps=100), train_dataset=dataset)
    >>> trainer.add_callback(CheckpointCallback(trainer, save_total_limit=2))
    >>> trainer.train(resume_from_checkpoint=last_checkpoint("out"))
    ```
    """

    def __init__(
        self,
        trainer: Trainer,
        save_total_limit: int | None = None,
        hub_strategy: str | HubStrategy = HubStrategy.END,
        get_facts: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        args = trainer.args
        if args.save_total_limit is not None or (args.push_to_hub and args.hub_strategy != HubStrategy.END):
            raise ValueError(
                f"The training arguments have `save_total_limit={args.save_total_limit}` and `hub_strategy="
                f"'{args.hub_strategy}'`. Leave `save_total_limit` unset there, set `hub_strategy` to 'end', and pass "
                "your values to `CheckpointCallback` instead, which waits until a checkpoint is whole."
            )
        self.trainer = trainer
        self.save_total_limit = save_total_limit
        self.hub_strategy = HubStrategy(hub_strategy)
        self.get_facts = get_facts
        self._hub = HfApi(token=args.hub_token)  # one object for all uploads, because each object has its own queue
        self._uploads: list[Future[Any]] = []
        self._is_pushing = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_save:
            self._begin(args, state)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_save:
            self._begin(args, state)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # With this strategy, Trainer decides to save only after this event, so an existing whole checkpoint of this
        # step is unmarked in any case.
        if args.save_strategy == SaveStrategy.BEST and (_checkpoint(args, state) / RUN_NAME).is_file():
            self._begin(args, state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        accelerator, checkpoint = self.trainer.accelerator, _checkpoint(args, state)
        facts = self.get_facts()
        accelerator.wait_for_everyone()
        if args.should_save and args.save_only_model:
            mark_written(checkpoint)
        elif args.should_save:
            mark_whole(checkpoint, facts)
        if args.push_to_hub and state.is_world_process_zero:
            self._push(args, state, control, checkpoint)
        if args.should_save and not self._is_uploading():
            output_dir, best = str(args.output_dir), state.best_model_checkpoint
            if args.save_only_model:
                rotate_checkpoints(output_dir, self.save_total_limit, best, use_mtime=True)
            else:
                delete_old_checkpoints(output_dir, self.save_total_limit, str(checkpoint), best)
        accelerator.wait_for_everyone()  # so that no process looks for the last checkpoint before this one is marked

    def on_push_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self._is_pushing:  # the push is `trainer.push_to_hub`, which must arrive after the checkpoints
            self._wait_for_uploads()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._wait_for_uploads()
        # Like Trainer, with a limit of one, keep only the best checkpoint after training.
        if args.should_save and self.save_total_limit == 1 and state.best_model_checkpoint is not None:
            delete_old_checkpoints(str(args.output_dir), 1, state.best_model_checkpoint)

    def _begin(self, args: TrainingArguments, state: TrainerState) -> None:
        if args.should_save:
            unmark(_checkpoint(args, state))
        self.trainer.accelerator.wait_for_everyone()

    def _push(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, checkpoint: Path) -> None:
        if self.hub_strategy == HubStrategy.END or (self._is_uploading() and not args.hub_always_push):
            return
        self._is_pushing = True
        try:
            self.trainer.callback_handler.on_push_begin(args, state, control)
        finally:
            self._is_pushing = False
        card = Path(str(args.output_dir)) / "README.md"
        if card.is_file():
            shutil.copy(card, checkpoint)
        progress = (
            f"step {state.global_step}"
            if args.save_strategy == IntervalStrategy.STEPS
            else f"epoch {int(state.epoch or 0)}"
        )
        folders: list[tuple[str | None, list[str]]] = [(None, _TRAINING_STATE)]
        if self.hub_strategy == HubStrategy.CHECKPOINT:
            folders.append(("last-checkpoint", []))
        elif self.hub_strategy == HubStrategy.ALL_CHECKPOINTS:
            folders.append((checkpoint.name, []))
        for path, ignored in folders:
            upload = self._hub.upload_folder(
                repo_id=str(self.trainer.hub_model_id),
                folder_path=checkpoint,
                path_in_repo=path,
                commit_message=f"Training in progress, {progress}",
                revision=args.hub_revision,
                ignore_patterns=ignored,
                run_as_future=True,
            )
            upload.add_done_callback(_report_failure)
            self._uploads.append(upload)

    def _is_uploading(self) -> bool:
        return not all(upload.done() for upload in self._uploads)

    def _wait_for_uploads(self) -> None:
        if self._is_uploading():
            logger.info("Waiting until the last checkpoints have been pushed, which may take some minutes.")
        for upload in self._uploads:
            upload.exception()  # waits for the upload; `_report_failure` logs a failure
        self._uploads.clear()


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")


def _report_failure(upload: Future[Any]) -> None:
    if not upload.cancelled() and (error := upload.exception()) is not None:
        logger.error(f"A checkpoint was not pushed to the Hub. Training continues. The error was: {error}")
