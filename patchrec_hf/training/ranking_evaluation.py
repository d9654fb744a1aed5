"""Evaluation in a trainer: the loss, and a ranking of the whole catalog."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput

from ..batches.filled import FilledDataset
from ..batches.statistics import BatchSums, StepStatistics
from ..data.rows import plain_rows
from ..evaluation.models import evaluate_model
from ..runtime.ranking_config import Method
from .inputs import check_data_set, evaluation_sets
from .loaders import make_eval_loader
from .trainer_base import TrainerBase


class RankingEvaluation(TrainerBase):
    """
    The part of [`PatchTrainer`] that evaluates. `evaluate` and `predict` compute the loss of all rows, and rank the
    catalog for each target.
    """

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """
        Evaluates; see [`~transformers.Trainer.evaluate`].

        Args:
            eval_dataset ([`~datasets.Dataset`], `dict[str, Dataset]` or `str`, *optional*):
                Rows, named rows, or the name of one of the trainer's evaluation sets. The trainer's `eval_dataset` if
                not given.

        Raises:
            TypeError, ValueError: If rows fail [`check_rows`], or there are none.
        """
        evaluation_sets(eval_dataset)
        checkpoint = self._save_first() if eval_dataset is None else None
        if checkpoint is None:
            return super().evaluate(eval_dataset, *args, **kwargs)
        device = self.args.device
        # A run that resumes from the checkpoint does not evaluate again, so an evaluation draws no random numbers of
        # the run.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            metrics = super().evaluate(eval_dataset, *args, **kwargs)
        self._complete(checkpoint, metrics)
        return metrics

    def _save_first(self) -> Path | None:
        """
        Saves the checkpoint that Trainer would save after an evaluation, so that it is not lost if the evaluation
        fails or is killed. Returns its directory; `None` if Trainer saves none, or must save it later.
        """
        control, args = self.control, self.args
        is_due = self.is_in_train and control.should_evaluate and control.should_save
        # A scheduler that follows the metrics changes after an evaluation.
        scheduler: Any = self.lr_scheduler
        follows_metrics = is_due and "metrics" in signature(scheduler.step).parameters
        if not is_due or follows_metrics or self.hp_search_backend is not None:
            return None
        self._save_checkpoint(self.model, trial=None)
        checkpoint = Path(str(args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        self._checkpoints.finish(checkpoint)
        return checkpoint

    def _complete(self, checkpoint: Path, metrics: dict[str, float]) -> None:
        """Adds to a checkpoint what its evaluation has shown, and does what Trainer does after it has saved."""
        state = self.state
        self._determine_best_metric(metrics, trial=None)
        if state.best_global_step == state.global_step:
            state.best_model_checkpoint = str(checkpoint)
        if self.args.should_save:
            for part in [*self.callback_handler.callbacks, self.control]:
                name, states = type(part).__name__, cast(dict[str, Any], state.stateful_callbacks)
                if isinstance(part, ExportableState) and not isinstance(states[name], list):
                    states[name] = part.state()
            written = checkpoint / f"{TRAINER_STATE_NAME}.part"
            state.save_to_json(str(written))
            written.replace(checkpoint / TRAINER_STATE_NAME)
        self._write_card(checkpoint)
        self.control = self.callback_handler.on_save(self.args, state, self.control)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """
        Returns the loader of evaluation batches, in the order of the rows.

        Args:
            eval_dataset (`str` or [`~datasets.Dataset`], *optional*):
                Rows, or the name of one of the trainer's evaluation sets. The trainer's `eval_dataset` if not given.

        Raises:
            ValueError: If there are no rows.
        """
        if isinstance(eval_dataset, str):
            eval_dataset = cast(dict[str, Dataset], self.eval_dataset)[eval_dataset]
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise ValueError("The trainer has no `eval_dataset`. Pass one here, or when you make the trainer.")
        return self.get_test_dataloader(dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """
        Returns a loader of batches of the given rows, in their order.

        Raises:
            TypeError, ValueError: If the rows are wrong (see [`check_data_set`]).
        """
        test_dataset = plain_rows(test_dataset)
        check_data_set(test_dataset, self.processing_class, self.data_collator.layout)
        return self.accelerator.prepare(make_eval_loader(test_dataset, self.data_collator, self.args))

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """
        Computes the loss and ranks the catalog.

        The predictions that `predict` returns are the ranked item ids of each target, of shape `(num_targets, k)`:
        best first, with -1 after the end of a shorter ranking. The label ids are the targets' item ids, of shape
        `(num_targets,)`. k is the largest of `eval_ks`, or 20 if there is none.
        """
        if prediction_loss_only is None:
            prediction_loss_only = self.args.prediction_loss_only
        self._eval_statistics = StepStatistics()
        output = super().evaluation_loop(
            dataloader, description, True, ignore_keys=ignore_keys, metric_key_prefix=metric_key_prefix
        )
        # The mean over all labels does not depend on how batches and processes divide them.
        sums = cast(BatchSums, self._eval_statistics.reduce(self.accelerator))
        metrics = {"loss": sums.mean_loss, **sums.prediction_metrics()}
        if sums.scored_labels + sums.item_targets > 0:  # as SFTTrainer logs it
            metrics["num_tokens"] = self._total_train_tokens
        predictions: Any = None
        label_ids = None
        # The catalog is ranked here, so that logging, early stopping and the choice of the best checkpoint see the
        # metrics.
        if self.args.eval_ks or not prediction_loss_only:
            with self.compute_loss_context_manager():
                report = evaluate_model(
                    self._patchrec_model,
                    self.processing_class,
                    cast(FilledDataset, dataloader.dataset).dataset,
                    seed=self.data_collator.seed,
                    k=max(self.args.eval_ks, default=20),
                    method=self._eval_method,
                    max_rows=self.args.eval_max_rows if self.is_in_train else None,
                    max_title_tokens=self.args.eval_max_title_tokens if self._eval_method == "exact" else None,
                    keep_rankings=not prediction_loss_only,
                    batch_size=self.args.per_device_eval_batch_size,
                    show_progress=not self.args.disable_tqdm,
                )
            if self.args.eval_ks:
                metrics |= report.metrics(self.args.eval_ks)
            if not prediction_loss_only:
                predictions = np.array(report.targets["ranked_ids"].to_list())
                label_ids = report.targets["target_id"].to_numpy()
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return output._replace(
            predictions=predictions, label_ids=label_ids, metrics={**(output.metrics or {}), **named}
        )

    @property
    def _eval_method(self) -> Method:
        default = "exact" if self.args.objective == "title" else "item"
        return cast(Method, self.args.eval_method or default)
