"""The base trainer of both stages: TRL's SFTTrainer on rows, with whole checkpoints and ranking metrics."""

from __future__ import annotations

import math
import os
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset, IterableDataset
from peft import PeftConfig, PeftModel
from peft.utils import AuxiliaryTrainingWrapper
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import EvalLoopOutput, TrainOutput
from trl import SFTTrainer

from ..batches.collators import PatchDataCollator
from ..batches.filled import FilledDataset
from ..batches.statistics import BatchSums, StepStatistics
from ..data.row_facts import check_same_catalog
from ..data.rows import check_rows, rows_checksum
from ..evaluation.models import evaluate_model
from ..evaluation.report import EvaluationReport
from ..hub.model_card import describe_rows, describe_training, make_model_card
from ..runtime.adapters import complete_lora_config
from ..runtime.encoding import IGNORED_LABEL
from ..runtime.hub_files import require_token
from ..runtime.modeling import PatchRecForCausalLM
from ..runtime.processing import PatchRecProcessor
from ..runtime.progress import no_bars_in_files
from ..runtime.ranking import Method
from .arguments import PatchFinetuneConfig
from .checkpoint_callback import CheckpointCallback
from .checkpoints import check_resumable, last_checkpoint, warn_of_ignored_settings
from .inputs import (
    check_collator,
    check_data_sets,
    check_precision,
    complete_collator,
    evaluation_sets,
    first_train_rows,
    is_prompt_learning,
    load_trainable,
    own_arguments,
    set_objective,
)
from .loaders import data_seed, make_eval_loader, make_stream, make_train_loader
from .log_blocks import show_blocks
from .memory import MemoryEstimate
from .memory_events import MemoryEvents, estimate_training
from .model_init import ModelInit, check_goal, check_model_init, check_searched, eval_loss, restart
from .signature import explain_call
from .step_events import StepEvents, check_loss


class PatchTrainer(SFTTrainer):
    """
    Base of [`PatchFinetuneTrainer`] and [`PatchPretrainTrainer`], which choose the collator that encodes rows.

    Args:
        model, args, train_dataset, processing_class, eval_dataset, data_collator, peft_config, callbacks, optimizers,
        model_init:
            As for [`PatchFinetuneTrainer`].

    Raises:
        TypeError, ValueError, FloatingPointError: As [`PatchFinetuneTrainer`] does.
    """

    stage: ClassVar[str]
    """Name of the stage in checkpoints and model cards."""
    collator_class: ClassVar[type[PatchDataCollator]]
    config_class: ClassVar[type[PatchFinetuneConfig]]
    card_tags: ClassVar[tuple[str, ...]] = ("patchrec", "recommender-system", "trl", "sft")

    args: PatchFinetuneConfig
    data_collator: PatchDataCollator
    processing_class: PatchRecProcessor
    model: torch.nn.Module

    @explain_call
    def __init__(
        self,
        model: str | os.PathLike | PatchRecForCausalLM | PeftModel | None = None,
        args: PatchFinetuneConfig | None = None,
        *,
        train_dataset: Dataset | IterableDataset,
        processing_class: PatchRecProcessor,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        data_collator: PatchDataCollator | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        model_init: ModelInit | None = None,
    ) -> None:
        check_model_init(model, model_init, peft_config, optimizers)
        for name, value, expected in (
            ("args", args, self.config_class),
            ("processing_class", processing_class, PatchRecProcessor),
        ):
            if not isinstance(value, expected):
                raise TypeError(f"`{name}` must be a `{expected.__name__}`, got `{type(value).__name__}`.")
        args = cast(PatchFinetuneConfig, args)
        if args.n_gpu > 1 and args.objective != "title":
            raise ValueError(
                f"`objective={args.objective!r}` does not run in one process on {args.n_gpu} GPUs (DataParallel). "
                "Start the script with `accelerate launch` or `torchrun`, or set CUDA_VISIBLE_DEVICES to one GPU."
            )
        check_precision(args)
        first_rows = first_train_rows(train_dataset, args)
        check_data_sets(first_rows, eval_dataset, processing_class)
        if model_init is not None:
            self.model_init = cast(Any, model_init)
            model = super().call_model_init()
        model, patchrec_model = load_trainable(model, args, processing_class)
        if peft_config is not None:
            peft_config = complete_lora_config(peft_config, patchrec_model, processing_class.tokenizer)
        if data_collator is None:
            data_collator = self.collator_class(processing_class, seed=args.seed)
        check_collator(data_collator, self.collator_class, processing_class)
        data_collator = set_objective(data_collator, args, train_dataset, patchrec_model)
        patchrec_model.disable_tree_packing()  # another trainer may have enabled it
        data_collator = complete_collator(
            data_collator, patchrec_model, args, first_rows, is_prompt_learning(model, peft_config)
        )
        super().__init__(
            model=model,
            args=own_arguments(args, train_dataset),
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            peft_config=peft_config,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        show_blocks(self)
        self.model_init = cast(Any, model_init)
        self._prepared_model = self.model  # a search takes `model` away after each trial
        head = patchrec_model.item_head
        if args.objective != "title" and not any(parameter.requires_grad for parameter in head.parameters()):
            raise ValueError(
                f"`objective={args.objective!r}` trains the item head, but the adapter freezes it. Add 'item_head' "
                "(and 'item_residual', if the model has residuals) to the adapter's `modules_to_save`."
            )
        if self.is_fsdp_enabled and "FULL_STATE_DICT" not in str(self.accelerator.state.fsdp_plugin.state_dict_type):
            raise ValueError(
                "FSDP must save whole weights, which load everywhere. Set `state_dict_type` to FULL_STATE_DICT in "
                "`fsdp_config` (`fsdp_state_dict_type` in accelerate's configuration)."
            )
        if getattr(patchrec_model, "hf_quantizer", None) is not None:
            # SFTTrainer rounds all that QLoRA trains to bfloat16, which loses small steps of weights near 1.
            for part in (patchrec_model.item_head, patchrec_model.model.item_residual):
                if part is not None:
                    part.float()
        if data_collator.tree_packing:  # after `super().__init__`, which moves the model to its device
            patchrec_model.enable_tree_packing()
        self._stream = make_stream(train_dataset, self.args, self._rows_per_forward)
        self._train_statistics = StepStatistics()
        self._eval_statistics = StepStatistics()
        self.add_callback(StepEvents(self._stream, self._train_statistics, self._count_tokens))
        self._first_rows = first_rows
        self.add_callback(MemoryEvents(self.estimate_memory, isinstance(self.model, PeftModel)))
        self._checkpoints = CheckpointCallback(self, args.save_total_limit, args.hub_strategy, self._checkpoint_facts)
        self.add_callback(self._checkpoints)
        patchrec_model.add_model_tags(list(self.card_tags))

    def create_accelerator_and_postprocess(self) -> None:
        if self.args.deepspeed_plugin is not None:
            # A script with both stages makes two trainers, but accelerate accepts one DeepSpeed plugin per process.
            AcceleratorState._reset_state()
        super().create_accelerator_and_postprocess()

    # Rows

    @property
    def _rows_per_forward(self) -> int:
        """Rows that all processes together read for one forward."""
        return self.get_total_train_batch_size(self.args) // self.args.gradient_accumulation_steps

    def get_train_dataloader(self) -> DataLoader:
        """Returns the loader of training batches. Each row comes with its optimizer step (see [`StepSampler`])."""
        if self._stream is not None:
            self._stream.rows_per_micro_batch = self._rows_per_forward  # `auto_find_batch_size` may have lowered it
        loader = make_train_loader(
            self._stream or cast(Dataset, self.train_dataset),
            self.data_collator,
            self.args,
            self._rows_per_forward,
            get_state=lambda: self.state,
            lengths=self._row_lengths,
        )
        return self.accelerator.prepare(loader)

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
        return super().evaluate(eval_dataset, *args, **kwargs)

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
            TypeError, ValueError: If the rows are wrong (see [`check_rows`]).
        """
        check_rows(test_dataset, self.processing_class.max_history)
        check_same_catalog(test_dataset, self.processing_class.catalog)
        return self.accelerator.prepare(make_eval_loader(test_dataset, self.data_collator, self.args))

    @cached_property
    def _row_lengths(self) -> np.ndarray | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return None
        return self.data_collator.row_lengths(cast(Dataset, self.train_dataset))

    # Training

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """
        Trains; see [`~transformers.Trainer.train`].

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                A checkpoint to resume from, or `True` for the last whole one in `output_dir`.

        Raises:
            ValueError: If there is no whole checkpoint, or if a run with other settings wrote it. Stage, layout,
                prompt, catalog, seed, rows and the number of rows per step must be the same; under DeepSpeed also the
                number of processes, and in pre-training the number of steps.
        """
        checkpoint = resume_from_checkpoint or None
        output_dir = str(self.args.output_dir)
        if checkpoint is True and (checkpoint := last_checkpoint(output_dir)) is None:
            raise ValueError(
                f"There is no whole checkpoint in {output_dir} to resume from. Call `train()` to start from scratch, "
                "or `train(resume_from_checkpoint=patchrec_hf.last_checkpoint(output_dir))`, which resumes if there "
                "is a whole checkpoint and starts from scratch otherwise."
            )
        if checkpoint is not None:
            facts = check_resumable(checkpoint, self._run_facts(), self.processing_class)
            self._total_train_tokens = facts["num_tokens"]
            if self.is_world_process_zero():
                warn_of_ignored_settings(checkpoint, facts, self._optimizer_facts())
        output = super().train(checkpoint, *args, **kwargs)
        self._count_tokens()
        self._train_statistics.reduce(self.accelerator)  # the next run starts anew
        return output

    def call_model_init(self, trial: Any = None) -> torch.nn.Module:
        """
        Makes the model of a new run; see [`~transformers.Trainer.call_model_init`]. The weights of a new model go into
        the model that this trainer has prepared.

        Raises:
            ValueError: If the new model differs in its shapes, or the trial changes a setting that the model and the
                batches are made with.
        """
        if trial is not None and self.hp_search_backend is not None:
            check_searched(trial if isinstance(trial, dict) else self.hp_space(trial))
        new, _ = load_trainable(super().call_model_init(trial), self.args, self.processing_class)
        restart(self._prepared_model, new)
        self._total_train_tokens = 0
        self._train_statistics.reduce(self.accelerator)  # a trial that was pruned leaves some
        return self._prepared_model

    def hyperparameter_search(
        self,
        hp_space: Any = None,
        compute_objective: Any = None,
        n_trials: int = 20,
        direction: str | list[str] = "minimize",
        backend: Any = None,
        hp_name: Any = None,
        **kwargs: Any,
    ) -> Any:
        """
        Searches settings of the training arguments; see [`~transformers.Trainer.hyperparameter_search`]. The default
        goal is the evaluation loss.

        Raises:
            ValueError: If `direction` is not `"minimize"`, but there is no `compute_objective`.
        """
        check_goal(compute_objective, direction)
        goal = compute_objective or eval_loss
        return super().hyperparameter_search(hp_space, goal, n_trials, direction, backend, hp_name, **kwargs)

    def estimate_memory(self, rows_per_forward: int | None = None) -> MemoryEstimate:
        """
        Estimates the memory that training needs on this process. `train` prints the estimate before its first step.

        Args:
            rows_per_forward (`int`, *optional*):
                Rows that this process reads for one forward. `per_device_train_batch_size` if not given.
        """
        args = self.args
        if args.deepspeed_plugin is None:
            sharding = 3 if self.is_fsdp_enabled else 0
        else:
            sharding = args.deepspeed_plugin.zero_stage
        rows = rows_per_forward or args.per_device_train_batch_size
        return estimate_training(self.model, args, self.data_collator, self._first_rows, rows, sharding)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """
        Computes the loss of the labels and item targets, and adds the batch to the statistics of the next log entry.
        `num_items_in_batch` comes from [`PatchTrainer.get_batch_samples`].
        """
        statistics = self._train_statistics if self.model.training else self._eval_statistics
        outputs = None
        if self._computes_own_logits(inputs):
            counts = {}
            if num_items_in_batch is not None and "item_targets" in inputs:
                num_items_in_batch, counts["num_item_targets"] = cast(torch.Tensor, num_items_in_batch)
            # `Trainer.compute_loss` takes the loss that the model itself computes.
            loss, outputs = Trainer.compute_loss(
                self,
                model,
                {**inputs, **counts, "use_cache": False},
                return_outputs=True,
                num_items_in_batch=num_items_in_batch,
            )
            logits = None if outputs.logits is None else outputs.logits[0]
            statistics.add(inputs, loss, self.state.global_step, logits, outputs.item_loss)
        else:
            loss = super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
            if return_outputs:
                loss, outputs = loss
            statistics.add(inputs, loss, self.state.global_step)
        return (loss, outputs) if return_outputs else loss

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """
        Collects the micro-batches of an optimizer step, and counts their labels; see
        [`~transformers.Trainer.get_batch_samples`]. If there are item targets, the count is a tensor of shape `(2,)`:
        the numbers of labels and of item targets.
        """
        batches, num_labels = super().get_batch_samples(epoch_iterator, num_batches, device)
        if num_labels is None or not batches or "item_targets" not in batches[0]:
            return batches, num_labels
        num_targets = (
            torch.stack([(batch["item_targets"] != IGNORED_LABEL).sum() for batch in batches]).sum().to(device)
        )
        if self.args.average_tokens_across_devices:
            num_targets = self.accelerator.reduce(num_targets, reduction="sum")
        return batches, torch.stack([torch.as_tensor(num_labels, device=device).to(num_targets.dtype), num_targets])

    def _computes_own_logits(self, inputs: dict[str, torch.Tensor]) -> bool:
        """
        Returns whether the model itself projects the labeled positions, instead of SFTTrainer's fused head. It does on
        a CPU: the fused head computes logits twice to save memory, which pays only with Triton kernels, and a CPU has
        none. It also does with an adapter on the head, because the fused head reads only the head's own weight.
        """
        if "item_targets" in inputs:  # SFTTrainer's head knows titles only
            return True
        if self.args.loss_type != "nll" or self.aux_loss_enabled:
            return False
        has_adapter = isinstance(self._patchrec_model.lm_head, AuxiliaryTrainingWrapper)
        return inputs["input_ids"].device.type == "cpu" or has_adapter

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs `logs` together with the statistics of the batches since the last entry."""
        if self.model.training:
            check_loss(self._train_statistics, self.args.learning_rate)
            sums = self._train_statistics.reduce(self.accelerator)
            if sums is not None and not math.isfinite(
                sums.loss + sums.item_loss
            ):  # each process must stop, or the others would wait
                raise FloatingPointError("The loss of another process is not finite; see its message.")
            if sums is not None:
                logs |= {**self._batch_metrics(sums), **sums.prediction_metrics()}
                if sums.scored_labels + sums.item_targets > 0:  # else SFTTrainer has counted the tokens, and logs them
                    logs["num_tokens"] = self._count_tokens()
        super().log(logs, start_time)

    def _count_tokens(self) -> int:
        """Brings the count of SFTTrainer up to date. All processes must call this method."""
        self._total_train_tokens += self._train_statistics.take_tokens(self.accelerator)
        return self._total_train_tokens

    def _batch_metrics(self, sums: BatchSums) -> dict[str, float]:
        """Describes the batches that the model has read since the last log entry."""
        return sums.batch_metrics()

    def _run_facts(self) -> dict[str, Any]:
        """Facts that a run must share with a checkpoint to resume from it, so that each step learns from its rows."""
        args, dataset = self.args, self.train_dataset
        facts: dict[str, Any] = {
            "stage": self.stage,
            "training rows": len(dataset) if isinstance(dataset, Dataset) else "a stream",
            "rows per forward of all processes": self._rows_per_forward,
            "gradient_accumulation_steps": args.gradient_accumulation_steps,
            "seed": data_seed(args),
            "train_sampling_strategy": args.train_sampling_strategy,
            "objective": args.objective,
        }
        if args.objective != "title":
            facts["num_negatives"] = args.num_negatives
        if isinstance(dataset, Dataset):
            facts["checksum of some training rows"] = rows_checksum(dataset)
        if self.is_deepspeed_enabled:  # each process saves its part of the optimizer's state
            facts["number of processes"] = args.world_size
        return facts

    def _optimizer_facts(self) -> dict[str, Any]:
        """Settings that the optimizer's saved state holds, so a resumed run keeps the old ones."""
        names = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
        return {name: getattr(self.args, name) for name in names}

    def _checkpoint_facts(self) -> dict[str, Any]:
        return {**self._run_facts(), **self._optimizer_facts(), "num_tokens": self._count_tokens()}

    # Evaluation

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

    # Files

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves model, processor and model card; see [`~transformers.Trainer.save_model`]."""
        if _internal_call and self.is_in_train and output_dir is not None:  # a checkpoint, whatever made Trainer save
            check_loss(self._train_statistics, self.args.learning_rate)
            self._checkpoints.begin(output_dir)
        with no_bars_in_files():
            super().save_model(output_dir, _internal_call)
        directory = Path(output_dir or str(self.args.output_dir))
        if self.args.should_save:
            (directory / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle that nothing reads
            if isinstance(self.model, PeftModel):  # PEFT reads the config if another adapter is trained on this one
                self.model.get_base_model().config.save_pretrained(directory)
        self._write_card(directory)  # also replaces the empty template that PEFT writes

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Creates the repository; see [`~transformers.Trainer.init_hf_repo`]."""
        if self.is_world_process_zero():
            require_token(token or self.args.hub_token)
        super().init_hf_repo(token=token, private=private)

    def create_model_card(  # type: ignore[override]
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
        results: EvaluationReport | None = None,
    ) -> None:
        """
        Writes the model card to `output_dir/README.md`. [`~transformers.Trainer.push_to_hub`] passes its arguments to
        this method. `save_model` and every checkpoint write a card of their own beside the model.

        Args:
            model_name (`str`, *optional*):
                Name of the repository, used if training has no `hub_model_id` yet. The path of the directory if not
                given.
            dataset_name (`str`, *optional*):
                Name of the data set in the card.
            tags (`str` or `list[str]`, *optional*):
                Further tags of the card.
            results ([`EvaluationReport`], *optional*):
                The metrics. If not given, the card shows the metrics of the trainer's last evaluation.
        """
        if self.is_in_train and not self.args.push_to_hub:
            return  # SFTTrainer is about to save a checkpoint. The output directory itself holds no model.
        self._write_card(Path(str(self.args.output_dir)), model_name, dataset_name, tags, results)

    def _write_card(
        self,
        directory: Path,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
        results: EvaluationReport | None = None,
    ) -> None:
        """Writes the card of the model in `directory`. See `create_model_card` for the arguments."""
        if not self.is_world_process_zero():
            return
        base_model = self._patchrec_model.config.text_config._name_or_path
        evaluations = [entry for entry in self.state.log_history if "eval_loss" in entry]
        last_metrics = {key.removeprefix("eval_"): value for key, value in (evaluations or [{}])[-1].items()}
        make_model_card(
            self.processing_class,
            self.hub_model_id or model_name or str(directory),
            results=results or last_metrics,
            dataset_name=dataset_name,
            base_model=base_model if base_model and not os.path.isdir(base_model) else None,
            data=self._row_facts,
            training={
                "stage": self.stage,
                "what was trained": "an adapter" if isinstance(self.model, PeftModel) else "all weights",
                "tree packing": self.data_collator.tree_packing,
                **describe_training(self.args, self.state),
                "positions read": f"{self._total_train_tokens:.0f}",
            },
            tags=[*self.card_tags, *([tags] if isinstance(tags, str) else tags or [])],
        ).save(directory / "README.md")

    @cached_property
    def _row_facts(self) -> dict[str, str]:
        return {} if self._stream is not None else describe_rows(cast(Dataset, self.train_dataset))

    @property
    def _patchrec_model(self) -> PatchRecForCausalLM:
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if isinstance(model, PeftModel) else model
