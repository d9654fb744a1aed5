"""Trainers: TRL's SFTTrainer on example rows, for patch pre-training and patch fine-tuning."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from peft import PeftConfig, PeftModel
from peft.utils import AuxiliaryTrainingWrapper
from torch.utils.data import DataLoader, SequentialSampler
from transformers import TrainerCallback
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import logging
from trl import SFTTrainer

from ..batches.collators import PatchDataCollator, PatchPretrainDataCollator
from ..batches.filled import FilledDataset
from ..batches.sampling import StampedDataset, StampedSampler, StampedStream
from ..batches.statistics import count_fed, count_tokens, score_labels
from ..data.rows import check_rows
from ..evaluation.report import EvaluationReport
from ..evaluation.targets import rank_targets
from ..hub.model_card import describe_rows, describe_training, make_model_card
from ..runtime.adapters import complete_lora_config, load_model
from ..runtime.backbones import disable_tree_packing, enable_tree_packing
from ..runtime.encoding import IGNORED_LABEL
from ..runtime.modeling import PatchRecForCausalLM
from ..runtime.processing import PatchRecProcessor
from .arguments import PatchFinetuneConfig, PatchPretrainConfig
from .resumable_trainer import ResumableTrainer


logger = logging.get_logger(__name__)

_ROWS_TO_JUDGE_BY = 1000
_ROW_COLUMNS = ["user_id", "item_ids", "target_positions", "timestamps", "step", "progress", "is_filler"]


class PatchFinetuneTrainer(ResumableTrainer):
    """
    Trainer for the paper's patch fine-tuning, in any layout; `TextLayout` gives the vanilla baseline.

    Args:
        model (`str`, `os.PathLike`, [`PatchRecForCausalLM`] or [`~peft.PeftModel`]):
            A model, or the name of one: of a PatchRec checkpoint, an adapter (which is merged) or, to start from, any
            backbone. By name it is loaded in float32, whatever it was saved in, as mixed precision needs it
            (`model_init_kwargs` says otherwise); a model is trained in the dtype that it has.
        args ([`PatchFinetuneConfig`]):
            Training arguments.
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Example rows: `user_id`, `item_ids`, `target_positions` (see [`make_examples`]). A stream of them needs
            `max_steps`; it is shuffled within a buffer, and begins anew where it ends.
        processing_class ([`PatchRecProcessor`]):
            Encodes histories; saved with every checkpoint.
        eval_dataset ([`~datasets.Dataset`] or `dict[str, Dataset]`, *optional*):
            Example rows. `evaluate` adds the metrics of a ranking over the whole catalog to the loss, as
            `eval_hr@20` and so on.
        data_collator ([`PatchDataCollator`], *optional*):
            Overrides the default. Its layout must be the processor's.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Trains an adapter instead of the model. LoRA's is completed: by the backbone's usual target modules if it
            names none, and by the special tokens around items, unless `trainable_token_indices` is set.
        callbacks, optimizers:
            As for [`~transformers.Trainer`].

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If model and processor were not made for each other, a data set lacks a column, the collator's
            layout is not the processor's, or a stream comes without `max_steps`.
        FloatingPointError: If the loss becomes NaN or infinite during training.

    Example:
    ```python
    >>> trainer = PatchFinetuneTrainer(
    ...     model="meta-llama/Llama-3.2-1B-Instruct",
    ...     args=PatchFinetuneConfig("outputs/finetune"),
    ...     train_dataset=examples["train"],
    ...     eval_dataset=examples["validation"],
    ...     processing_class=processor,
    ... )
    >>> trainer.train()
    ```
    """

    _tag_names = ["patchrec", "recommender-system", "trl", "sft"]  # noqa: RUF012
    _name = "PatchRec fine-tuning"
    _collator_class: type[PatchDataCollator] = PatchDataCollator
    _config_class: type[PatchFinetuneConfig] = PatchFinetuneConfig

    def __init__(
        self,
        model: str | os.PathLike | PatchRecForCausalLM | PeftModel,
        args: PatchFinetuneConfig,
        train_dataset: Dataset | IterableDataset,
        processing_class: PatchRecProcessor,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        data_collator: PatchDataCollator | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
    ) -> None:
        for name, value, expected in (
            ("args", args, self._config_class),
            ("processing_class", processing_class, PatchRecProcessor),
        ):
            if not isinstance(value, expected):
                raise TypeError(f"`{name}` must be a `{expected.__name__}`, got `{type(value).__name__}`.")
        if isinstance(train_dataset, IterableDataset):
            _check_stream_settings(args)
        elif not isinstance(train_dataset, Dataset):
            raise TypeError(
                f"`train_dataset` must be a `Dataset` or `IterableDataset`, got `{type(train_dataset).__name__}`."
            )
        check_rows(_first_rows(train_dataset), processing_class.max_history)
        if isinstance(model, (str, os.PathLike)):
            # It shards while loading; and on a CPU, nobody has told it yet of the other processes.
            if is_deepspeed_zero3_enabled() and torch.distributed.is_initialized():
                import deepspeed

                deepspeed.init_distributed(torch.distributed.get_backend(), verbose=False)
            model = load_model(model, processing_class.tokenizer, **_loading_kwargs(args))
        patchrec_model = model.get_base_model() if isinstance(model, PeftModel) else model
        if not isinstance(patchrec_model, PatchRecForCausalLM):
            raise TypeError(
                f"`model` must be a `PatchRecForCausalLM`, got `{type(patchrec_model).__name__}`. Pass its name, or "
                "make one with `PatchRecForCausalLM.from_backbone(model, processor.tokenizer)`."
            )
        patchrec_model.check_processor(processing_class)
        if peft_config is not None:
            peft_config = complete_lora_config(peft_config, patchrec_model, processing_class.tokenizer)
        for dataset in eval_dataset.values() if isinstance(eval_dataset, dict) else [eval_dataset]:
            if dataset is not None:
                check_rows(dataset, processing_class.max_history)
        if data_collator is None:
            data_collator = self._collator_class(processing_class, seed=args.seed)
        _check_collator(data_collator, self._collator_class, processing_class)
        if data_collator.max_length is None:
            data_collator = replace(data_collator, max_length=patchrec_model.max_length)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            peft_config=peft_config,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self.data_collator = replace(data_collator, tree_packing=self._shall_pack(data_collator))
        self._stream = self._make_stream()
        self._fed: list[torch.Tensor] = []
        self._evaluated: list[torch.Tensor] = []

    def _shall_pack(self, collator: PatchDataCollator) -> bool:
        """Whether batches are packed; if they are, the model's attention is made ready for it."""
        if collator.tree_packing and self.args.tree_packing is False:
            raise ValueError("`data_collator` packs batches, but `tree_packing=False` forbids it.")
        is_asked, model = collator.tree_packing or self.args.tree_packing, self._patchrec_model()
        if is_asked or (is_asked is None and _most_targets(self.train_dataset) > 1):
            try:
                if isinstance(self.model, PeftModel) and self.model.active_peft_config.is_prompt_learning:
                    raise ValueError(
                        "Prompt learning puts tokens before a sequence, where a packed batch has its root."
                    )
                enable_tree_packing(model)
            except ValueError as error:
                if is_asked:
                    raise
                if self.is_world_process_zero():
                    logger.warning(f"{error} Training goes on without tree packing.")
            else:
                return True
        disable_tree_packing(model)
        return False

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = _ROW_COLUMNS

    def _make_stream(self) -> StampedStream | None:
        if not isinstance(self.train_dataset, IterableDataset):
            return None
        args = self.args
        args.ignore_data_skip = True  # the stream itself begins where a resumed run goes on, without collating
        return StampedStream(
            self.train_dataset,
            rows_per_micro_batch=self._train_batch_size * args.world_size,
            accumulation_steps=args.gradient_accumulation_steps,
            seed=args.seed if args.data_seed is None else args.data_seed,
            max_steps=args.max_steps,
        )

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self._stream is not None:
            self._stream.first_step = self.state.global_step
        super()._run_epoch(*args, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        return self._get_dataloader(
            dataset=self._stream or StampedDataset(self.train_dataset),
            description="Training",
            batch_size=self._train_batch_size,
            sampler_fn=self._get_train_sampler,
            is_training=True,
        )

    def _get_train_sampler(self, train_dataset: StampedDataset | None = None) -> StampedSampler:
        return StampedSampler(
            num_rows=len(self.train_dataset),
            rows_per_micro_batch=self._train_batch_size * self.args.world_size,
            accumulation_steps=self.args.gradient_accumulation_steps,
            num_processes=self.args.world_size,
            drop_last=self.args.dataloader_drop_last,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            get_state=lambda: self.state,
            lengths=self._row_lengths,
        )

    def _get_eval_sampler(self, eval_dataset: FilledDataset) -> SequentialSampler:
        # The base class would group these too, by a length that rows do not have.
        return SequentialSampler(eval_dataset)

    def _get_dataloader(
        self, dataset: Any, description: str, batch_size: int, *args: Any, is_training: bool = False, **kwargs: Any
    ) -> DataLoader:
        if not is_training:
            is_filled = self.args.world_size > 1 or self.args.dataloader_drop_last
            dataset = FilledDataset(dataset, batch_size * self.args.world_size if is_filled else 1)
        return super()._get_dataloader(dataset, description, batch_size, *args, is_training=is_training, **kwargs)

    @cached_property
    def _row_lengths(self) -> np.ndarray | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return None
        return self.data_collator.row_lengths(self.train_dataset)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        fed = count_fed(inputs)
        if self._projects_itself(inputs):
            result = self._compute_own_loss(model, inputs, return_outputs, num_items_in_batch)
        else:
            result = super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        loss = result[0] if return_outputs else result
        if self.model.training:
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"The loss is {loss.item()} at step {self.state.global_step}. Lower `learning_rate` (now "
                    f"{self.args.learning_rate}), keep gradient clipping on, or train in bf16 or float32 instead of "
                    "fp16. Resume from the last checkpoint; it was written before this step."
                )
            self._fed.append(fed)
        else:
            num_labels = (inputs["shift_labels"] != IGNORED_LABEL).sum()
            loss_sum = torch.where(num_labels > 0, loss.detach().float() * num_labels, 0.0)
            self._evaluated.append(torch.stack([loss_sum, num_labels.float()]))
        return result

    def _projects_itself(self, inputs: dict[str, torch.Tensor]) -> bool:
        """
        Whether the model projects the labelled positions. SFTTrainer's fused head would compute logits twice to save
        memory, which pays with Triton kernels and whole sequences: not on a CPU, where there are none. And it takes
        the head's weight, past what an adapter makes of it.
        """
        if self.args.loss_type != "nll" or self.aux_loss_enabled:
            return False
        is_wrapped = isinstance(self._patchrec_model().lm_head, AuxiliaryTrainingWrapper)
        return inputs["input_ids"].device.type == "cpu" or is_wrapped

    def _compute_own_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> Any:
        """The loss and metrics of SFTTrainer, without its fused head."""
        # What SFTTrainer itself overrides: the model computes its loss.
        loss, outputs = super(SFTTrainer, self).compute_loss(
            model, {**inputs, "use_cache": False}, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        labels = inputs["shift_labels"][inputs["shift_labels"] != IGNORED_LABEL]
        sums = torch.stack([*score_labels(outputs.logits[0], labels), count_tokens(inputs)]).float()
        sums = torch.cat([sums, sums.new_tensor([len(labels)])])
        entropy, num_correct, num_tokens, num_labels = self.accelerator.reduce(sums, reduction="sum").tolist()
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["entropy"].append(entropy / num_labels if num_labels else 0.0)
        metrics["mean_token_accuracy"].append(num_correct / num_labels if num_labels else 0.0)
        if self.model.training:
            self._total_train_tokens += num_tokens
        metrics["num_tokens"] = [self._total_train_tokens]
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.model.training and self._fed:
            totals = self.accelerator.reduce(torch.stack(self._fed).sum(dim=0).float(), reduction="sum")
            logs.update(self._fed_metrics(*totals.tolist()))
            self._fed.clear()
        super().log(logs, start_time)

    def _fed_metrics(
        self, examples: float, prompt_tokens: float, text_tokens: float, positions: float, padding: float
    ) -> dict[str, float]:
        """What was fed since the last log entry, over all processes, from the sums of [`count_fed`]."""
        return {
            "prompt_tokens": prompt_tokens / examples,
            "positions_per_example": positions / examples,
            "padding_share": padding / positions,
        }

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        self._evaluated.clear()
        output = super().evaluation_loop(
            dataloader, description, True, ignore_keys=ignore_keys, metric_key_prefix=metric_key_prefix
        )
        # A mean over all labels, however they were shared out to batches and processes.
        loss_sum, num_labels = self.accelerator.reduce(torch.stack(self._evaluated).sum(dim=0), reduction="sum")
        output.metrics[f"{metric_key_prefix}_loss"] = (loss_sum / num_labels).item()
        # Ranked here, so that logging, early stopping and the choice of the best checkpoint see the metrics.
        if self.args.eval_ks:
            with self.compute_loss_context_manager():
                report = rank_targets(
                    self._patchrec_model(),
                    self.data_collator,
                    cast(FilledDataset, dataloader.dataset).dataset,
                    k=max(self.args.eval_ks),
                    max_rows=self.args.eval_max_rows if self.is_in_train else None,
                    max_expansions=self.args.eval_max_expansions,
                    batch_size=self.args.per_device_eval_batch_size,
                    show_progress=not self.args.disable_tqdm,
                )
            for name, value in report.metrics(self.args.eval_ks).items():
                output.metrics[f"{metric_key_prefix}_{name}"] = value
        return output

    def _patchrec_model(self) -> PatchRecForCausalLM:
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if isinstance(model, PeftModel) else model

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
        results: EvaluationReport | None = None,
    ) -> None:
        """
        Writes the model card to `output_dir/README.md`. [`~transformers.Trainer.push_to_hub`] passes its arguments on.

        Args:
            model_name (`str`, *optional*):
                The repository's name, where training has none yet; the output directory's if not given.
            dataset_name (`str`, *optional*):
                Named in the card.
            tags (`str` or `list[str]`, *optional*):
                Added to the card's tags.
            results ([`EvaluationReport`], *optional*):
                What was measured; the metrics of the trainer's last evaluation if not given.
        """
        if not self.is_world_process_zero():
            return
        base_model = self._patchrec_model().config.text_config._name_or_path
        evaluations = [entry for entry in self.state.log_history if "eval_loss" in entry]
        last = {key.removeprefix("eval_"): value for key, value in (evaluations or [{}])[-1].items()}
        make_model_card(
            self.processing_class,
            self.hub_model_id or model_name or os.path.basename(os.path.normpath(self.args.output_dir)),
            results=results or last,
            dataset_name=dataset_name,
            base_model=base_model if base_model and not os.path.isdir(base_model) else None,
            data=self._row_facts,
            training={
                "stage": self._name,
                "what was trained": "an adapter" if isinstance(self.model, PeftModel) else "all weights",
                "tree packing": self.data_collator.tree_packing,
                **describe_training(self.args, self.state),
                "positions fed": f"{self._total_train_tokens:.0f}",
            },
            tags=[*self._tag_names, *([tags] if isinstance(tags, str) else tags or [])],
        ).save(os.path.join(self.args.output_dir, "README.md"))

    @cached_property
    def _row_facts(self) -> dict[str, str]:
        return {} if self._stream is not None else describe_rows(self.train_dataset)


class PatchPretrainTrainer(PatchFinetuneTrainer):
    """
    Trainer for the paper's patch pre-training: every example stands in the batch twice, as text and with each
    item compressed with probability p = step / total steps, which rises from 0 to 1.

    p and every draw are pure functions of the seed, the optimizer step and the row: the same with any number of
    dataloader workers, under gradient accumulation, and after resuming. Evaluation uses the processor's fixed layout.

    Args:
        model, args, train_dataset, processing_class, eval_dataset, data_collator, peft_config, callbacks, optimizers:
            As for [`PatchFinetuneTrainer`], with a [`PatchPretrainConfig`] and a [`PatchPretrainDataCollator`].
    """

    _name = "PatchRec pre-training"
    _collator_class = PatchPretrainDataCollator
    _config_class = PatchPretrainConfig

    def _run_facts(self) -> dict[str, Any]:
        # The probability of compression is a share of all steps.
        return {
            **super()._run_facts(),
            "num_train_epochs": self.args.num_train_epochs,
            "max_steps": self.args.max_steps,
        }

    def _fed_metrics(
        self, examples: float, prompt_tokens: float, text_tokens: float, positions: float, padding: float
    ) -> dict[str, float]:
        # The optimizer step that was taken last is the one before `global_step`.
        probability = max(self.state.global_step - 1, 0) / max(self.state.max_steps, 1)
        return {
            **super()._fed_metrics(examples, prompt_tokens, text_tokens, positions, padding),
            "compression_probability": probability,
            "compression_prompt": (prompt_tokens - text_tokens) / text_tokens,
        }


def _check_collator(
    collator: PatchDataCollator, expected: type[PatchDataCollator], processor: PatchRecProcessor
) -> None:
    if not isinstance(collator, expected):
        raise TypeError(f"`data_collator` must be a `{expected.__name__}`, got `{type(collator).__name__}`.")
    if collator.processor is not processor:
        raise ValueError("The collator must hold the processor that is passed as `processing_class`, not another one.")
    if collator.layout not in (None, processor.layout):
        raise ValueError(
            "The collator's layout must be the processor's, which is saved with the checkpoint. Pass "
            "`processing_class=processor.with_layout(layout)` and no layout of the collator's own."
        )


def _check_stream_settings(args: PatchFinetuneConfig) -> None:
    if args.max_steps < 1:
        raise ValueError(
            f"A stream of rows has no length, so `max_steps` must say how long to train, got {args.max_steps}."
        )
    if args.train_sampling_strategy != "random":
        raise ValueError(
            f"`train_sampling_strategy={args.train_sampling_strategy!r}` needs rows that are not streamed."
        )


def _first_rows(dataset: Any) -> Any:
    """Of a stream, some rows to judge it by; all of a data set."""
    if not isinstance(dataset, IterableDataset):
        return dataset
    return Dataset.from_dict(next(iter(dataset.iter(batch_size=_ROWS_TO_JUDGE_BY)), {}))


def _most_targets(dataset: Dataset | IterableDataset) -> int:
    targets = _first_rows(dataset).select_columns(["target_positions"]).to_polars()["target_positions"]
    return int(targets.list.len().max() or 0)


def _loading_kwargs(args: PatchFinetuneConfig) -> dict[str, Any]:
    kwargs = {"trust_remote_code": args.trust_remote_code, **(args.model_init_kwargs or {})}
    # As TRL does: mixed precision needs weights in float32, whatever the checkpoint was saved in.
    kwargs.setdefault("dtype", "float32")
    return kwargs
