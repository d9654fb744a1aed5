"""SFTTrainer with checkpoints that are whole or not taken, and runs that go on only as they began."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset, IterableDataset
from huggingface_hub import HfApi
from peft import PeftModel
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, TrainOutput, rotate_checkpoints
from transformers.utils import PushInProgress, logging
from trl import SFTTrainer

from ..runtime.hub_files import require_token
from .checkpoints import (
    RUN_NAME,
    check_resumable,
    delete_old_checkpoints,
    last_checkpoint,
    mark_whole,
    mark_written,
    unmark,
)


logger = logging.get_logger(__name__)

_ROWS_TO_TELL_BY = 100
# What a checkpoint holds besides the model.
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


class ResumableTrainer(SFTTrainer):
    """
    What the trainers of this library share that has nothing to do with histories: whole checkpoints, resuming, and
    what is pushed of them. Its `processing_class` is a [`PatchRecProcessor`].

    Args:
        *args, **kwargs:
            As for [`~trl.SFTTrainer`].

    Raises:
        ValueError: If FSDP would save shards only.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.push_in_progress: PushInProgress | None = None
        super().__init__(*args, **kwargs)
        self._hub = HfApi(token=self.args.hub_token)  # one, as uploads wait for those of the same object only
        if self.is_fsdp_enabled and "FULL_STATE_DICT" not in str(self.accelerator.state.fsdp_plugin.state_dict_type):
            raise ValueError(
                "FSDP must save whole weights, which load everywhere: set `state_dict_type` to FULL_STATE_DICT in "
                "`fsdp_config` (`fsdp_state_dict_type` in accelerate's configuration)."
            )

    def create_accelerator_and_postprocess(self) -> None:
        if self.args.deepspeed_plugin is not None:
            # Two stages in one script are two trainers, but accelerate takes one DeepSpeed plugin in a process.
            AcceleratorState._reset_state()
        super().create_accelerator_and_postprocess()

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        if self.is_world_process_zero():
            require_token(token or self.args.hub_token)
        super().init_hf_repo(token=token, private=private)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """
        Trains; see [`~transformers.Trainer.train`].

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                A checkpoint to go on from, or `True` for the last whole one in `output_dir`.

        Raises:
            ValueError: If there is no whole checkpoint, or it is of a run with other settings where that matters: the
                stage, layout, prompt, catalog, the rows and how many of them a step learns from, the seed; the number
                of processes under DeepSpeed; in pre-training, the number of steps.
        """
        checkpoint = resume_from_checkpoint or None
        if checkpoint is True and (checkpoint := last_checkpoint(self.args.output_dir)) is None:
            raise ValueError(
                f"There is no whole checkpoint in {self.args.output_dir} to resume from. Call `train()` to begin, or "
                "`train(resume_from_checkpoint=patchrec_hf.last_checkpoint(output_dir))` to do either."
            )
        if checkpoint is not None:
            facts = check_resumable(checkpoint, self._run_facts(), self.processing_class)
            self._total_train_tokens = facts["num_tokens"]
        return super().train(checkpoint, *args, **kwargs)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # Resumed after its last step, a run has nothing left to learn; the base class would take one more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _run_facts(self) -> dict[str, Any]:
        """What a run must share with a checkpoint to go on from it: with these, a step learns from the same rows."""
        args = self.args
        facts = {
            "stage": self._name,
            "training rows": "a stream"
            if isinstance(self.train_dataset, IterableDataset)
            else len(self.train_dataset),
            "rows per forward of all processes": self._train_batch_size * args.world_size,
            "gradient_accumulation_steps": args.gradient_accumulation_steps,
            "seed": args.seed if args.data_seed is None else args.data_seed,
            "train_sampling_strategy": args.train_sampling_strategy,
        }
        if not isinstance(self.train_dataset, IterableDataset):
            facts["checksum of some training rows"] = _checksum(self.train_dataset)
        if self.is_deepspeed_enabled:  # its optimizer's state is cut into one part for each
            facts["number of processes"] = args.world_size
        return facts

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        args = self.args
        output_dir = self._get_output_dir(trial=trial)
        checkpoint = os.path.join(output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if args.should_save:
            unmark(checkpoint)
        self.accelerator.wait_for_everyone()
        # What else comes with a save waits until the checkpoint is whole: until every process has written its part.
        limit, pushes = args.save_total_limit, args.push_to_hub
        args.save_total_limit, args.push_to_hub = None, False
        try:
            super()._save_checkpoint(model, trial)
        finally:
            args.save_total_limit, args.push_to_hub = limit, pushes
        self.accelerator.wait_for_everyone()
        can_resume, best = not args.save_only_model, self.state.best_model_checkpoint
        if args.should_save and can_resume:
            mark_whole(checkpoint, {**self._run_facts(), "num_tokens": self._total_train_tokens})
        elif args.should_save:
            mark_written(checkpoint)
        if pushes:
            self._push_from_checkpoint(checkpoint)
        if args.should_save and (self.push_in_progress is None or self.push_in_progress.is_done()):
            if can_resume:
                delete_old_checkpoints(output_dir, limit, checkpoint, best)
            else:
                rotate_checkpoints(output_dir, limit, best, use_mtime=True)
        self.accelerator.wait_for_everyone()  # no process looks for the last checkpoint before this one is marked

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # The base class would add its arguments as a pickle.
        args, running = self.args, self.push_in_progress
        if not self.is_world_process_zero() or args.hub_strategy == HubStrategy.END:
            return
        if running is not None and not running.is_done() and not args.hub_always_push:
            return
        shutil.copy(os.path.join(args.output_dir, "README.md"), checkpoint_folder)
        folders: list[tuple[str | None, list[str]]] = [(None, _TRAINING_STATE)]
        if args.hub_strategy == HubStrategy.CHECKPOINT:
            folders.append(("last-checkpoint", []))
        elif args.hub_strategy == HubStrategy.ALL_CHECKPOINTS:
            folders.append((os.path.basename(checkpoint_folder), []))
        jobs = [
            self._hub.upload_folder(
                repo_id=self.hub_model_id,
                folder_path=checkpoint_folder,
                path_in_repo=path,
                commit_message=f"Training in progress, step {self.state.global_step}",
                revision=args.hub_revision,
                ignore_patterns=ignored,
                run_as_future=True,
            )
            for path, ignored in folders
        ]
        for job in jobs:
            job.add_done_callback(_report_failure)
        self.push_in_progress = PushInProgress([*([] if running is None else running.jobs), *jobs])

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        directory = output_dir or self.args.output_dir
        if self.args.should_save:
            # A pickle that nothing reads again.
            os.remove(os.path.join(directory, TRAINING_ARGS_NAME))
            if isinstance(self.model, PeftModel):  # PEFT looks for it where an adapter was trained on top of this one
                self.model.get_base_model().config.save_pretrained(directory)


def _report_failure(upload: Future[Any]) -> None:
    if not upload.cancelled() and (error := upload.exception()) is not None:
        logger.error(f"A checkpoint was not pushed to the Hub, and training went on: {error}")


def _checksum(dataset: Dataset) -> int:
    """Of a hundred rows, evenly spaced: other data, or the same in another order, has another one."""
    places = np.linspace(0, len(dataset) - 1, min(_ROWS_TO_TELL_BY, len(dataset))).astype(int)
    rows = dataset.select(places).select_columns(["user_id", "item_ids", "target_positions"])
    return zlib.crc32(json.dumps(rows.to_list()).encode())
