"""The trainers of the two stages: patch pre-training and patch fine-tuning."""

from __future__ import annotations

from typing import Any, cast

from ..batches.collators import PatchDataCollator, PatchPretrainDataCollator
from ..batches.statistics import BatchSums
from .arguments import PatchFinetuneConfig, PatchPretrainConfig
from .patch_trainer import PatchTrainer


class PatchFinetuneTrainer(PatchTrainer):
    """
    Trainer for the paper's patch fine-tuning in any layout. `TextLayout` gives the vanilla baseline.

    Args:
        model (`str`, `os.PathLike`, [`PatchRecForCausalLM`] or [`~peft.PeftModel`]):
            A model object, or the name of a PatchRec checkpoint, of an adapter, or of any backbone to start from. An
            adapter is merged. A model that is given by name is loaded in float32, in whatever dtype it was saved,
            because mixed precision needs float32; `model_init_kwargs` can choose another dtype. A model object is
            trained in its own dtype.
        args ([`PatchFinetuneConfig`]):
            Training arguments. `trainer.args` is a copy of them.
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Rows with `user_id`, `item_ids` and `target_positions` (see [`Row`]). A stream of rows needs `max_steps`.
            The trainer shuffles it within a buffer, and starts it again when it ends.
        processing_class ([`PatchRecProcessor`]):
            Encodes histories. It is saved with every checkpoint.
        eval_dataset ([`~datasets.Dataset`] or `dict[str, Dataset]`, *optional*):
            Rows. Besides the loss, `evaluate` reports the metrics of a ranking over the whole catalog, as `eval_hr@20`
            and so on.
        data_collator ([`PatchDataCollator`], *optional*):
            Overrides the default collator. Its layout must be the processor's.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Trains an adapter instead of the model. The trainer completes a LoRA configuration: it adds the backbone's
            usual target modules if none are named, and the special tokens around items unless
            `trainable_token_indices` is set.
        callbacks, optimizers:
            As for [`~transformers.Trainer`].
        model_init (`Callable[[], PatchRecForCausalLM]`, *optional*):
            Makes the model, in place of `model`: a new one for each `train`, and so for each trial of
            `hyperparameter_search`. It may also return a name or a [`~peft.PeftModel`].

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If model and processor were not made for each other, a data set lacks a column, the collator's
            layout is not the processor's, or `max_steps` is not set for a stream.
        FloatingPointError: If the loss becomes NaN or infinite during training.

    Example:
    ```python
    >>> trainer = PatchFinetuneTrainer(
    ...     model="meta-llama/Llama-3.2-1B-Instruct",
    ...     args=PatchFinetuneConfig("outputs/finetune"),
    ...     train_dataset=splits["train"],
    ...     eval_dataset=splits["validation"],
    ...     processing_class=processor,
    ... )
    >>> trainer.train()
    ```
    """

    stage = "PatchRec fine-tuning"
    collator_class = PatchDataCollator
    config_class = PatchFinetuneConfig


class PatchPretrainTrainer(PatchTrainer):
    """
    Trainer for the paper's patch pre-training. A batch holds every history twice: as text, and with each item
    compressed with probability p = step / total steps, which rises from 0 to 1.

    p and every draw are pure functions of the seed, the optimizer step and the row. So they are the same with any
    number of workers, under gradient accumulation and after resuming. Evaluation uses the processor's fixed layout.

    Args:
        model, args, train_dataset, processing_class, eval_dataset, data_collator, peft_config, callbacks, optimizers,
        model_init:
            As for [`PatchFinetuneTrainer`], with a [`PatchPretrainConfig`] and a [`PatchPretrainDataCollator`].
    """

    stage = "PatchRec pre-training"
    collator_class = PatchPretrainDataCollator
    config_class = PatchPretrainConfig

    def _run_facts(self) -> dict[str, Any]:
        # The compression probability depends on the total number of steps.
        return {
            **super()._run_facts(),
            "twin": cast(PatchPretrainDataCollator, self.data_collator).twin,
            **self._distillation,
            "num_train_epochs": self.args.num_train_epochs,
            "max_steps": self.args.max_steps,
        }

    @property
    def _distillation(self) -> dict[str, Any]:
        args = cast(PatchPretrainConfig, self.args)
        return {
            "distillation_weight": args.distillation_weight,
            "distillation_temperature": args.distillation_temperature,
        }

    def _batch_metrics(self, sums: BatchSums) -> dict[str, float]:
        # The last optimizer step that was taken is `global_step - 1`.
        # Without titles to predict, a row's twins are not counted one after the other.
        compression = {}
        if self.args.objective != "item":
            compression["compression_ratio_prompt"] = sums.text_tokens / (sums.prompt_tokens - sums.text_tokens)
        if self._distillation["distillation_weight"] > 0 and sums.labels > 0:
            compression["distillation_loss"] = sums.divergence / (sums.labels / 2)  # half of the labels are students'
        probability = max(self.state.global_step - 1, 0) / max(self.state.max_steps, 1)
        return {
            **super()._batch_metrics(sums),
            "compression_probability": probability,
            **compression,
        }
