"""Trainers: TRL's SFTTrainer on example rows, for patch pre-training and patch fine-tuning."""

from __future__ import annotations

import os
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel
from torch.utils.data import DataLoader
from transformers import AutoConfig, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTTrainer

from .collators import PatchDataCollator, PatchPretrainDataCollator
from .configuration import PatchRecConfig
from .curriculum import StampedDataset, StampedSampler
from .evaluation import rank_targets
from .hub import make_model_card
from .modeling import PatchRecForCausalLM
from .processing import PatchRecProcessor
from .training_args import PatchFinetuneConfig, PatchPretrainConfig


_ROW_COLUMNS = ["user_id", "item_ids", "target_positions", "timestamps", "row_index", "step", "progress"]


class PatchFinetuneTrainer(SFTTrainer):
    """
    Trainer for the paper's patch fine-tuning, in any layout; `TextLayout` gives the vanilla baseline.

    Args:
        model (`str`, [`PatchRecForCausalLM`] or [`~peft.PeftModel`]):
            A model, or the name of one: of a PatchRec checkpoint or, to start from, of any backbone.
        args ([`PatchFinetuneConfig`]):
            Training arguments.
        train_dataset ([`~datasets.Dataset`]):
            Example rows: `user_id`, `item_ids`, `target_positions` (see [`make_examples`]).
        processing_class ([`PatchRecProcessor`]):
            Encodes histories; saved with every checkpoint.
        eval_dataset ([`~datasets.Dataset`] or `dict[str, Dataset]`, *optional*):
            Example rows. `evaluate` adds the metrics of a ranking over the whole catalog to the loss, as
            `eval_hr@20` and so on.
        data_collator ([`PatchDataCollator`], *optional*):
            Overrides the default, which uses the processor's layout.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Trains an adapter instead of the model.
        callbacks, optimizers:
            As for [`~transformers.Trainer`].

    Raises:
        TypeError: If `args`, `processing_class` or `train_dataset` is of another kind.
        FloatingPointError: If the loss becomes NaN or infinite during training.

    Example:
    ```python
    >>> trainer = PatchFinetuneTrainer(
    ...     model=PatchRecForCausalLM.from_backbone("meta-llama/Llama-3.2-1B-Instruct", processor.tokenizer),
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
        model: str | PatchRecForCausalLM | PeftModel,
        args: PatchFinetuneConfig,
        train_dataset: Dataset,
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
            ("train_dataset", train_dataset, Dataset),
        ):
            if not isinstance(value, expected):
                raise TypeError(f"`{name}` must be a `{expected.__name__}`, got `{type(value).__name__}`.")
        if isinstance(model, str):
            model = _load_model(model, processing_class, args)
        if data_collator is None:
            data_collator = self._collator_class(
                processing_class,
                max_length=getattr(model.config.decoder_config, "max_position_embeddings", None),
                seed=args.seed,
            )
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

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = _ROW_COLUMNS

    def get_train_dataloader(self) -> DataLoader:
        return self._get_dataloader(
            dataset=StampedDataset(self.train_dataset),
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
        )

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        prompt_lengths = inputs["attention_mask"].sum(dim=1) - (inputs["labels"] != -100).sum(dim=1)
        result = super().compute_loss(
            model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )
        if self.model.training:
            loss = result[0] if return_outputs else result
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"The loss is {loss.item()} at step {self.state.global_step}. Lower `learning_rate` (now "
                    f"{self.args.learning_rate}), keep gradient clipping on, or train in bf16 or float32 instead of "
                    "fp16. Resume from the last checkpoint; it was written before this step."
                )
            self._record(prompt_lengths)
        return result

    def _record(self, prompt_lengths: torch.Tensor) -> None:
        """Adds what this step fed to the next log entry."""
        self._metrics["train"]["prompt_tokens"].append(self._mean_over_processes(prompt_lengths.float().mean()))

    def _mean_over_processes(self, value: torch.Tensor) -> float:
        return self.accelerator.reduce(value, reduction="mean").item()

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        output = super().evaluation_loop(
            dataloader, description, True, ignore_keys=ignore_keys, metric_key_prefix=metric_key_prefix
        )
        # Ranked here, so that logging, early stopping and the choice of the best checkpoint see the metrics.
        if self.args.eval_ks:
            with self.compute_loss_context_manager():
                ranked = rank_targets(
                    self._patchrec_model(),
                    self.data_collator,
                    dataloader.dataset,
                    k=max(self.args.eval_ks),
                    max_rows=self.args.eval_max_rows if self.is_in_train else None,
                    num_beams=self.args.eval_num_beams,
                    batch_size=self.args.per_device_eval_batch_size,
                    show_progress=not self.args.disable_tqdm,
                )
            for name, value in ranked.metrics(self.args.eval_ks).items():
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
    ) -> None:
        """
        Writes the model card, with the last evaluation's metrics, to `output_dir/README.md`.

        Args:
            model_name (`str`, *optional*):
                Heading of the card; the output directory's name if not given.
            dataset_name (`str`, *optional*):
                Named in the card.
            tags (`str` or `list[str]`, *optional*):
                Added to the card's tags.
        """
        if not self.is_world_process_zero():
            return
        processor = self.processing_class
        name = model_name or os.path.basename(os.path.normpath(self.args.output_dir))
        base_model = self._patchrec_model().config.text_config._name_or_path
        evaluations = [entry for entry in self.state.log_history if any(key.startswith("eval_") for key in entry)]
        facts = {
            "stage": self._name,
            "layout": processor.layout,
            "items in the catalog": len(processor.catalog),
            "longest history": processor.max_history,
            "optimizer steps": self.state.global_step,
            **({"data set": dataset_name} if dataset_name else {}),
        }
        card = make_model_card(
            model_name=name,
            repo_id=self.hub_model_id or name,
            facts=facts,
            metrics={
                key.removeprefix("eval_"): value
                for key, value in (evaluations[-1] if evaluations else {}).items()
                if key.startswith("eval_") and isinstance(value, float)
            },
            example_history=processor.catalog.item_ids[:3].tolist(),
            base_model=base_model if base_model and not os.path.isdir(base_model) else None,
            tags=[*self._tag_names, *([tags] if isinstance(tags, str) else tags or [])],
        )
        card.save(os.path.join(self.args.output_dir, "README.md"))


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

    def _record(self, prompt_lengths: torch.Tensor) -> None:
        super()._record(prompt_lengths)
        text, compressed = prompt_lengths[0::2].sum(), prompt_lengths[1::2].sum()
        recorded = self._metrics["train"]
        recorded["compression_probability"].append(self.state.global_step / self.state.max_steps)
        recorded["compression_prompt"].append(self._mean_over_processes(compressed / text))


def _load_model(name_or_path: str, processor: PatchRecProcessor, args: PatchFinetuneConfig) -> PatchRecForCausalLM:
    """SFTTrainer loads names through transformers' own mapping only, which knows neither PatchRec nor its splice."""
    kwargs = dict(args.model_init_kwargs or {})
    kwargs.setdefault("trust_remote_code", args.trust_remote_code)
    config = AutoConfig.from_pretrained(
        name_or_path, **{key: kwargs[key] for key in ("revision", "token", "trust_remote_code") if key in kwargs}
    )
    if isinstance(config, PatchRecConfig):
        return PatchRecForCausalLM.from_pretrained(name_or_path, **kwargs)
    return PatchRecForCausalLM.from_backbone(name_or_path, processor.tokenizer, **kwargs)
