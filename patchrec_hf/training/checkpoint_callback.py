"""A callback for any Trainer that marks, rotates and pushes checkpoints, so that only whole ones are ever used."""

from __future__ import annotations

import os
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
    SaveStrategy,
    rotate_checkpoints,
    sort_checkpoints,
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
    `save_total_limit` unset and set `hub_strategy="end"` in the training arguments. If something decides to save after
    the last event of a step or epoch, as `save_strategy="best"` does, a checkpoint of the same step that an earlier
    run wrote counts as whole while it is written again. A trainer that calls [`CheckpointCallback.begin`] in its
    `save_model` has no such gap, and the trainers of this library call it.

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
        ValueError: If Trainer's own rotation or pushing is on, or in a hyperparameter search that saves checkpoints,
            because its trials write to other directories.

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
        if args.save_total_limit is not None:
            raise ValueError(
                f"The training arguments have `save_total_limit={args.save_total_limit}`. Leave it unset there, and "
                "pass it to `CheckpointCallback`, which waits until a checkpoint is whole."
            )
        if args.push_to_hub and args.hub_strategy != HubStrategy.END:
            raise ValueError(
                f"The training arguments have `hub_strategy={HubStrategy(args.hub_strategy).value!r}`. Set it to "
                "'end' there, and pass it to `CheckpointCallback`, which waits until a checkpoint is whole."
            )
        self.trainer = trainer
        self.save_total_limit = save_total_limit
        self.hub_strategy = HubStrategy(hub_strategy)
        self.get_facts = get_facts
        self._hub = HfApi(token=args.hub_token)  # one object for all uploads, because each object has its own queue
        self._uploads: list[Future[Any]] = []
        self._is_pushing = False

    def begin(self, checkpoint: str | os.PathLike) -> None:
        """
        Marks a checkpoint as unfinished, before it is written. All processes must call this method.

        Args:
            checkpoint (`str` or `os.PathLike`):
                Its directory; made if it does not exist.
        """
        if self.trainer.args.should_save:
            unmark(checkpoint)
        self.trainer.accelerator.wait_for_everyone()

    def finish(self, checkpoint: str | os.PathLike) -> None:
        """
        Marks a checkpoint as whole, when every process has written its files. All processes must call this method.

        Args:
            checkpoint (`str` or `os.PathLike`):
                Its directory.
        """
        args = self.trainer.args
        facts = self.get_facts()
        self.trainer.accelerator.wait_for_everyone()
        if args.should_save and args.save_only_model:
            mark_written(checkpoint)
        elif args.should_save:
            mark_whole(checkpoint, facts)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_hyper_param_search and args.save_strategy != SaveStrategy.NO:
            raise ValueError(
                "`CheckpointCallback` cannot follow the directories of a hyperparameter search. Set "
                "`save_strategy='no'` for the search, and train once more with the best settings."
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_save:
            self.begin(_checkpoint(args, state))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_save:
            self.begin(_checkpoint(args, state))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        accelerator, checkpoint = self.trainer.accelerator, _checkpoint(args, state)
        self.finish(checkpoint)
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
        output_dir, best = str(args.output_dir), state.best_model_checkpoint
        if not args.should_save or self.save_total_limit != 1 or best is None:
            return
        if args.save_only_model:  # these have no marks
            for checkpoint in sort_checkpoints(output_dir):
                if not os.path.samefile(checkpoint, best):
                    shutil.rmtree(checkpoint, ignore_errors=True)
        else:
            delete_old_checkpoints(output_dir, 1, best)

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
            if args.save_strategy == SaveStrategy.STEPS
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
