"""The base trainer of both stages: TRL's SFTTrainer on rows, with whole checkpoints and ranking metrics."""

from __future__ import annotations

import math
import os
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset, IterableDataset
from peft import PeftConfig, PeftModel
from peft.utils import AuxiliaryTrainingWrapper
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import TrainOutput

from ..batches.collators import PatchDataCollator
from ..batches.statistics import BatchSums, StepStatistics
from ..data.rows import plain_rows, rows_checksum
from ..runtime.adapters import complete_lora_config
from ..runtime.encoding import IGNORED_LABEL
from ..runtime.modeling import PatchRecForCausalLM
from ..runtime.processing import PatchRecProcessor
from ..runtime.sharding import is_sharded
from .arguments import PatchFinetuneConfig
from .checkpoint_callback import CheckpointCallback
from .checkpoints import check_resumable, found_batch_size, last_checkpoint, warn_of_ignored_settings
from .collation import check_collator, complete_collator, set_objective
from .inputs import check_data_sets, check_precision, first_train_rows, own_arguments, plain_sets
from .lengths import check_lengths
from .loaders import data_seed, make_stream, make_train_loader
from .log_blocks import show_blocks
from .memory import MemoryEstimate
from .memory_events import MemoryEvents, estimate_training
from .model_init import ModelInit, check_goal, check_model_init, check_searched, eval_loss, make_first_model, restart
from .ranking_evaluation import RankingEvaluation
from .signature import explain_call
from .step_events import StepEvents, check_loss
from .trainable import is_prompt_learning, load_trainable, note_training
from .trainer_files import TrainerFiles


class PatchTrainer(RankingEvaluation, TrainerFiles):
    """
    Base of [`PatchFinetuneTrainer`] and [`PatchPretrainTrainer`], which choose the collator that encodes rows.

    Args:
        model, args, train_dataset, processing_class, eval_dataset, data_collator, peft_config, callbacks, optimizers,
        model_init:
            As for [`PatchFinetuneTrainer`].

    Raises:
        TypeError, ValueError, FloatingPointError: As [`PatchFinetuneTrainer`] does.
    """

    collator_class: ClassVar[type[PatchDataCollator]]
    config_class: ClassVar[type[PatchFinetuneConfig]]

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
        name = "objective" if args.objective != "title" else "title_normalizer"
        if args.n_gpu > 1 and (args.objective != "title" or args.title_normalizer == "catalog"):
            raise ValueError(
                f"`{name}={getattr(args, name)!r}` does not run in one process on {args.n_gpu} GPUs (DataParallel). "
                "Start the script with `accelerate launch` or `torchrun`, or set CUDA_VISIBLE_DEVICES to one GPU."
            )
        check_precision(args)
        train_dataset, eval_dataset = plain_rows(train_dataset), plain_sets(eval_dataset)
        first_rows = first_train_rows(train_dataset, args)
        own_layout = data_collator.layout if isinstance(data_collator, PatchDataCollator) else None
        check_data_sets(first_rows, eval_dataset, processing_class, own_layout)
        if model_init is not None:
            model = make_first_model(model_init)
        model, patchrec_model = load_trainable(model, args, processing_class)
        note_training(patchrec_model, args, train_dataset)
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
        check_lengths(first_rows, eval_dataset, data_collator, patchrec_model, args)
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
        self._given_args = args  # how a model is loaded, if `model_init` returns a name
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
        if patchrec_model.config.patcher == "contextual" and (self.is_fsdp_enabled or is_sharded(patchrec_model)):
            raise ValueError(
                "`patcher='contextual'` calls the backbone's first layers on their own, which sharded weights "
                "(ZeRO-3, FSDP2) do not allow. Use `patcher='attention'`, or run with DDP or ZeRO-1/2."
            )
        if getattr(patchrec_model, "hf_quantizer", None) is not None:
            # SFTTrainer rounds all that QLoRA trains to bfloat16, which loses small steps of weights near 1.
            inner = patchrec_model.model
            for part in (patchrec_model.item_head, inner.item_residual, inner.time_gaps, inner.patcher):
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
                prompt, catalog, objective, title normalizer and temperature, patcher, seed, rows and the number of
                rows per step must be the same; under DeepSpeed also the number of processes, and in pre-training the
                number of steps and the distillation.
        """
        checkpoint = resume_from_checkpoint or None
        output_dir = str(self.args.output_dir)
        if checkpoint is True and (checkpoint := last_checkpoint(output_dir)) is None:
            raise ValueError(
                f"There is no whole checkpoint in {output_dir} to resume from. Call `train()` to start from scratch, "
                "or `train(resume_from_checkpoint=patchrec_hf.last_checkpoint(output_dir))`, which resumes if there "
                "is a whole checkpoint and starts from scratch otherwise."
            )
        if checkpoint is None and self.model_init is not None:  # a new model has read nothing
            self._total_train_tokens = 0
        if checkpoint is not None:
            if self.args.auto_find_batch_size:  # Trainer keeps the batch size that it had found
                self._train_batch_size = found_batch_size(checkpoint) or self._train_batch_size
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
        new, _ = load_trainable(super().call_model_init(trial), self._given_args, self.processing_class)
        restart(self._prepared_model, new)
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
            settings: dict[str, Any] = {"use_cache": False}
            if num_items_in_batch is not None and "item_targets" in inputs:
                num_items_in_batch, settings["num_item_targets"] = cast(torch.Tensor, num_items_in_batch)
            if "shift_choices" in inputs:
                settings["title_temperature"] = self.args.title_temperature
            if "shift_teachers" in inputs:
                settings |= self._distillation
            # `Trainer.compute_loss` takes the loss that the model itself computes.
            loss, outputs = Trainer.compute_loss(
                self,
                model,
                {**inputs, **settings},
                return_outputs=True,
                num_items_in_batch=num_items_in_batch,
            )
            logits = choices = None
            if outputs.choice_entropy is not None:
                choices = (outputs.choice_entropy, outputs.choice_hits)
            elif outputs.logits is not None:
                logits = outputs.logits[0]
            step = self.state.global_step
            statistics.add(inputs, loss, step, logits, outputs.item_loss, choices, outputs.divergence)
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
        # SFTTrainer's head knows titles only, and the whole vocabulary, and returns no logits to learn from.
        if not {"item_targets", "shift_choices", "shift_teachers"}.isdisjoint(inputs):
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

    @property
    def _distillation(self) -> dict[str, Any]:
        """Settings of the distillation, which only pre-training has."""
        return {}

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
            "title_normalizer": args.title_normalizer,
            "title_temperature": args.title_temperature,
            "patcher": self._patchrec_model.config.patcher,
            "patcher_layers": self._patchrec_model.config.patcher_layers,
        }
        if args.objective != "title":
            facts["num_negatives"] = args.num_negatives
        if isinstance(dataset, Dataset):
            facts["checksum of some training rows"] = rows_checksum(dataset, self.processing_class.reads_timestamps())
        if self.is_deepspeed_enabled:  # each process saves its part of the optimizer's state
            facts["number of processes"] = args.world_size
        return facts

    def _optimizer_facts(self) -> dict[str, Any]:
        """Settings that the optimizer's saved state holds, so a resumed run keeps the old ones."""
        names = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
        return {name: getattr(self.args, name) for name in names}

    def _checkpoint_facts(self) -> dict[str, Any]:
        return {**self._run_facts(), **self._optimizer_facts(), "num_tokens": self._count_tokens()}
