"""Training arguments: TRL's arguments with the paper's defaults, and all checks of their values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from types import MappingProxyType
from typing import Any, ClassVar, cast

import torch
from transformers.utils import is_torch_bf16_gpu_available
from trl import SFTConfig

from ..batches.collators import OBJECTIVES
from ..runtime.configuration import (
    NORMALIZERS,
    PATCHERS,
    SIMILARITIES,
    ItemHeadConfig,
    Similarity,
    check_normalizer,
    check_patcher,
)
from ..runtime.hub_files import require_token
from ..runtime.layouts import ItemPatchLayout
from ..runtime.progress import shows_bars
from ..runtime.ranking_config import METHODS


_ROWS_PER_STEP = 32  # the paper's for Goodreads


@dataclass(frozen=True)
class PaperPreset:
    """
    The settings of the paper for one data set.

    Args:
        learning_rate (`float`):
            Learning rate of pre-training, of PatchRec-I fine-tuning (the paper's PFT-I) and of vanilla fine-tuning.
        batch_size (`int`):
            Targets per optimizer step.
        session_group_size (`int`):
            Items per session of PatchRec-S (the paper's PFT-S).
        session_learning_rate (`float`):
            Learning rate of PatchRec-S fine-tuning.
    """

    learning_rate: float
    batch_size: int
    session_group_size: int
    session_learning_rate: float


PAPER_PRESETS = {
    "ml-1m": PaperPreset(8e-6, 64, 5, 8e-6),
    "goodreads": PaperPreset(5e-5, 32, 5, 5e-5),
    # The session learning rate comes from the released script; the paper gives one learning rate for all.
    "ml-100k": PaperPreset(1e-5, 64, 20, 3e-6),
}
"""
[`PaperPreset`] by data set: `"ml-1m"`, `"goodreads"`, `"ml-100k"`.

Example:
```python
>>> preset = PAPER_PRESETS["goodreads"]
>>> rows = 4  # of a forward; how many there can be depends on the memory
>>> PatchFinetuneConfig(
...     "out",
...     learning_rate=preset.learning_rate,
...     per_device_train_batch_size=rows,
...     gradient_accumulation_steps=preset.batch_size // rows,
... )
```
"""


@dataclass(frozen=True)
class AllPatchPreset:
    """
    The all-patch recipe: every item of a history is one patch, and every patch predicts the next item. One sequence
    then holds all targets of a user.

    Args:
        rows (`Mapping[str, Any]`):
            Arguments of [`load_recommendation_data`].
        processor (`Mapping[str, Any]`):
            Arguments of [`PatchRecProcessor`], besides a prompt whose instruction stands before the history.
        training (`Mapping[str, Any]`):
            Arguments of [`PatchFinetuneConfig`]. The learning rate suits a small backbone that was not pretrained.
    """

    rows: Mapping[str, Any]
    processor: Mapping[str, Any]
    training: Mapping[str, Any]


ALL_PATCH_PRESET = AllPatchPreset(
    rows=MappingProxyType({"max_history": 100, "targets_per_row": 100}),
    processor=MappingProxyType({"layout": ItemPatchLayout(0), "separate_patches": False, "item_residuals": True}),
    training=MappingProxyType(
        {
            "objective": "item",
            "title_similarity": True,
            "item_dropout": 0.2,
            "residual_dropout": 0.2,
            "learning_rate": 4e-3,
            "adam_beta2": 0.98,
            "weight_decay": 0.01,
            "max_grad_norm": 1.0,
            "per_device_train_batch_size": 16,
            "gradient_accumulation_steps": 1,
            "num_train_epochs": 10,
            "train_sampling_strategy": "group_by_length",
            "tree_packing": False,
        }
    ),
)
"""
The settings of [`AllPatchPreset`] that were chosen on validation rows of MovieLens-100K and Goodreads.

Example:
```python
>>> preset = ALL_PATCH_PRESET
>>> splits, catalog = load_recommendation_data("ml-1m", **preset.rows)
>>> processor = PatchRecProcessor.from_backbone(backbone, catalog, MOVIE_PROMPT_INSTRUCTION_FIRST, **preset.processor)
>>> args = PatchFinetuneConfig("outputs", **preset.training)
```
"""


@dataclass
class PatchFinetuneConfig(SFTConfig):
    r"""
    Configuration of [`PatchFinetuneTrainer`]: an [`~trl.SFTConfig`] with the paper's defaults.

    Args:
        tree_packing (`bool`, *optional*):
            Whether to pack each batch into one sequence, which holds the prefixes that prompts share once. This gives
            the same loss and gradients for less compute (see [`pack_histories`]); dropout draws once for a shared
            prefix. The prompts of a row with several targets share most of their tokens (`targets_per_row` of
            [`load_recommendation_data`]). By default, batches are packed if any row has several targets. If the
            backbone cannot read packed batches, the default logs a warning once and pads; `True` raises an error.
        train_sampling_strategy (`"random"` or `"group_by_length"`, *optional*, defaults to `"random"`):
            `"group_by_length"` puts rows of similar length into a batch, which saves padding where batches are not
            packed. The batches still come in random order.
        eval_ks (`list[int]`, *optional*, defaults to `[10, 20]`):
            Cut-offs of the ranking metrics that `evaluate` adds: `eval_hr@10`, `eval_ndcg@10` and so on. An empty list
            turns ranking off.
        eval_max_rows (`int`, *optional*, defaults to `500`):
            Number of rows, evenly spaced over the evaluation set, that an evaluation during training ranks. `None`
            ranks all. The loss always covers all rows, and so does the ranking when `evaluate` is called outside
            training.
        eval_max_title_tokens (`int`, *optional*, defaults to `1000`):
            Title tokens that the model reads for a row before the ranking gives up on being exact (see
            [`RankingConfig`]). The limit exists because a model that has learned little would read very many.
            `eval_exact_share` reports how often rankings were exact. `None` sets no limit.
        eval_method (`str`, *optional*):
            How evaluations rank (see [`RankingConfig`]). If not given, by the item head if the objective trains it,
            and otherwise by titles.
        objective (`"title"`, `"item"` or `"both"`, *optional*, defaults to `"title"`):
            The model learns to predict the next item's title (as in the paper), the next item among the catalog, by
            its item head (see [`ItemHead`]), or both. A model without a head gets one. [`ALL_PATCH_PRESET`] holds
            settings that suit `"item"`.
        title_normalizer (`"vocabulary"` or `"catalog"`, *optional*, defaults to `"vocabulary"`):
            Among which tokens a title's token is predicted: all of the vocabulary (as in the paper), or those with
            which a title of the catalog can go on. With `"catalog"`, tokens that the catalog forces are no labels. All
            titles of the catalog compete, also of items that no training row has as its target.
        title_temperature (`float`, *optional*, defaults to `1.0`):
            With `title_normalizer="catalog"`: by what logits are divided in the loss.
        score_normalizer (`"vocabulary"` or `"catalog"`, *optional*):
            How the trained model scores titles, in evaluations during training and wherever its checkpoint is loaded.
            If not given, as the loss does. The scores have the loss's temperature if both are over the catalog, and
            the temperature 1 otherwise.
        patcher (`"mean"`, `"attention"` or `"contextual"`, *optional*):
            How the embeddings of title tokens become a patch (see [`PatchRecConfig`]). A model that patches by the
            mean gets another patcher, which starts as the mean. If not given, the model's own.
        patcher_layers (`int`, *optional*, defaults to `1`):
            With `patcher="contextual"`: the number of the backbone's first layers that a new patcher reads titles by.
        item_residual_size (`int`, *optional*):
            Size of the residuals of a new item head, if the processor writes residuals. The hidden size if not given.
        item_similarity (`"cosine"` or `"product"`, *optional*, defaults to `"cosine"`):
            Similarity of a new item head.
        item_dropout (`float`, *optional*, defaults to `0.0`):
            Dropout of a new item head (see [`ItemHeadConfig`]).
        residual_dropout (`float`, *optional*, defaults to `0.0`):
            Residual dropout of a new item head (see [`ItemHeadConfig`]).
        title_similarity (`bool`, *optional*, defaults to `False`):
            Whether a new item head also scores how similar titles are (see [`ItemHeadConfig`]).
        num_negatives (`int`, *optional*):
            Number of items that are drawn for each batch as competitors of the item targets, in proportion to the
            square root of how often the training rows have them as targets. By default, all items that are targets of
            training rows compete if the catalog has at most 50,000 items, and 8,192 are drawn otherwise. A batch with
            n item targets scores n · (drawn items + targets) pairs, in float32. Evaluation losses are of the whole
            catalog.

    > [!NOTE]
    > These parameters have default values different from [`~trl.SFTConfig`]:
    > - `learning_rate`: `5e-5`, the paper's value for Goodreads; see [`PAPER_PRESETS`] for the other data sets.
    > - `lr_scheduler_type`: `"cosine"`, with `warmup_steps=0.05` (a share of all steps).
    > - `max_grad_norm`: `0.3`.
    > - `num_train_epochs`: `1`.
    > - `per_device_train_batch_size`: `4`; in pre-training `2`, because each row is read twice. With the default
    >   of both, `gradient_accumulation_steps` makes a step of 32 rows on each device, as the paper's for Goodreads. If
    >   you set `per_device_train_batch_size`, `gradient_accumulation_steps` is `1` unless you set it too.
    > - `bf16`: on with CUDA, where the device supports it.
    > - `gradient_checkpointing`: unset, so `activation_checkpointing` is off.
    > - `disable_tqdm`: `True` where standard error is neither a terminal nor a notebook.
    > - `max_length`: `None`. The processor cuts histories by whole items.
    > - `logging_nan_inf_filter`: `False`. A loss that is not finite ends training. The filter would hide it, and would
    >   wait for the device after each micro-batch.

    Raises:
        ValueError: If a setting is one that the trainer does not support (packing, padding-free batches, cutting by
            tokens, NEFTune and so on), if the weights of a sharded run would not be saved whole, or if
            `push_to_hub` is set without a token.
    """

    learning_rate: float = field(default=5e-5, metadata={"help": "The initial learning rate for AdamW."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "The scheduler type to use."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Warm-up steps; below 1, a share of all steps."})
    max_grad_norm: float = field(default=0.3, metadata={"help": "Norm that gradients are clipped to."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Number of epochs."})
    per_device_train_batch_size: int = field(
        default=None,  # type: ignore[assignment]
        metadata={"help": "Rows of a forward on each device. Default: 4; in pre-training 2."},
    )
    gradient_accumulation_steps: int = field(
        default=None,  # type: ignore[assignment]
        metadata={"help": "Forwards of a step. Default: a step of 32 rows; 1 if the rows of a forward are set."},
    )
    gradient_checkpointing: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Deprecated alias of `activation_checkpointing`, which is off by default."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Unused: the processor cuts histories by whole items."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Unused: the collator reads rows."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Off, because the trainers end training if a loss is not finite."}
    )
    dataset_kwargs: dict[str, Any] | None = field(
        default_factory=lambda: {"skip_prepare_dataset": True},
        metadata={"help": "The collator encodes rows, so the trainer does not prepare the data set."},
    )
    tree_packing: bool | None = field(
        default=None,
        metadata={"help": "Merge prefixes that prompts share. By default on if a row has several targets."},
    )
    eval_ks: list[int] = field(default_factory=lambda: [10, 20], metadata={"help": "Cut-offs of HR and NDCG."})
    eval_max_rows: int | None = field(
        default=500, metadata={"help": "Rows that an evaluation during training ranks; None: all."}
    )
    eval_max_title_tokens: int | None = field(
        default=1000, metadata={"help": "Title tokens to read per row before a ranking gives up on being exact."}
    )

    eval_method: str | None = field(default=None, metadata={"help": "How evaluations rank."})
    objective: str = field(
        default="title", metadata={"help": "What is predicted: title, item or both.", "choices": [*OBJECTIVES]}
    )
    title_normalizer: str = field(
        default="vocabulary",
        metadata={"help": "Among which tokens titles are learned: vocabulary or catalog.", "choices": [*NORMALIZERS]},
    )
    title_temperature: float = field(
        default=1.0, metadata={"help": "By what logits are divided in the loss over the catalog."}
    )
    score_normalizer: str | None = field(
        default=None, metadata={"help": "Among which tokens titles are scored. Default: as they are learned."}
    )
    patcher: str | None = field(
        default=None,
        metadata={"help": "How title tokens become a patch. Default: as the model has it.", "choices": [*PATCHERS]},
    )
    patcher_layers: int = field(default=1, metadata={"help": "Layers that read titles for a new contextual patcher."})
    item_residual_size: int | None = field(
        default=None, metadata={"help": "Size of a new item head's residuals. Default: the hidden size."}
    )
    item_similarity: str = field(
        default="cosine", metadata={"help": "Similarity of a new item head.", "choices": [*SIMILARITIES]}
    )
    item_dropout: float = field(default=0.0, metadata={"help": "Dropout of a new item head."})
    residual_dropout: float = field(default=0.0, metadata={"help": "Residual dropout of a new item head."})
    title_similarity: bool = field(
        default=False, metadata={"help": "Whether a new item head also scores similar titles."}
    )
    num_negatives: int | None = field(
        default=None,
        metadata={"help": "Items that compete in a batch. Default: all, of large catalogs 8192."},
    )

    _default_rows: ClassVar[int] = 4
    """Rows of a forward. With 100 items of text each, they fit on 16 GiB with a backbone of 135 million weights."""

    def __post_init__(self) -> None:
        if self.gradient_accumulation_steps is None:
            is_default = self.per_device_train_batch_size is None
            self.gradient_accumulation_steps = _ROWS_PER_STEP // self._default_rows if is_default else 1
        if self.per_device_train_batch_size is None:
            self.per_device_train_batch_size = self._default_rows
        if self.bf16 is None and not self.fp16:
            self.bf16 = not self.use_cpu and torch.cuda.is_available() and is_torch_bf16_gpu_available()
        if self.disable_tqdm is None and not shows_bars():
            self.disable_tqdm = True
        super().__post_init__()
        self.dataset_kwargs = {**(self.dataset_kwargs or {}), "skip_prepare_dataset": True}
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # pinning needs an accelerator
        # Rows differ in length, so every process must collate its own batches.
        accelerator_config: Any = self.accelerator_config
        if accelerator_config.dispatch_batches:
            raise ValueError("`dispatch_batches=True` would corrupt batches of unequal length; leave it unset.")
        if accelerator_config.split_batches:
            raise ValueError("`split_batches=True` is not supported; set `per_device_train_batch_size` per process.")
        accelerator_config.dispatch_batches = False
        if self.ddp_find_unused_parameters is None:
            # SFTTrainer turns it on for every processor, because vision towers may go unused. Here, a forward uses
            # every weight.
            self.ddp_find_unused_parameters = False
        self._refuse("packing", "eval_packing", "padding_free", reason="use `tree_packing` instead")
        self._refuse("max_length", reason="histories are cut by whole items; set the processor's `max_history`")
        self._refuse("neftune_noise_alpha", reason="it adds noise to the embeddings that patches are computed from")
        self._refuse("assistant_only_loss", "completion_only_loss", reason="the loss always covers the response only")
        self._refuse("eos_token", "chat_template_path", "pad_token", reason="the processor's prompt is fixed")
        self._refuse("label_smoothing_factor", reason="the model projects only the response")
        self._refuse("remove_unused_columns", reason="the collator reads the columns of rows, which no model takes")
        if self.train_sampling_strategy not in ("random", "group_by_length"):
            raise ValueError(
                f"`train_sampling_strategy={self.train_sampling_strategy!r}` is not supported; use 'random' or "
                "'group_by_length'."
            )
        if self.tree_packing not in (None, True, False):
            raise ValueError(f"`tree_packing` must be True, False or None, got {self.tree_packing!r}.")
        if any(k < 1 for k in self.eval_ks):
            raise ValueError(f"`eval_ks` must be at least 1, got {self.eval_ks}.")
        if self.eval_max_title_tokens is not None and self.eval_max_title_tokens < 0:
            raise ValueError(f"`eval_max_title_tokens` must be at least 0 or None, got {self.eval_max_title_tokens}.")
        if self.eval_max_rows is not None and self.eval_max_rows < 1:
            raise ValueError(f"`eval_max_rows` must be at least 1 or None, got {self.eval_max_rows}.")

        if self.objective not in OBJECTIVES:
            raise ValueError(f"`objective` must be one of {', '.join(map(repr, OBJECTIVES))}, got {self.objective!r}.")
        self._check_normalizers()
        check_patcher("mean" if self.patcher is None else self.patcher, self.patcher_layers)
        # Lists by "diverse" may repeat a title, and a fusion is fitted after training.
        methods = [method for method in METHODS if method not in ("diverse", "fusion")]
        if self.eval_method not in (None, *methods):
            raise ValueError(
                f"`eval_method` must be None or one of {', '.join(map(repr, methods))}, got {self.eval_method!r}."
            )
        similarity, residual_size = cast(Similarity, self.item_similarity), self.item_residual_size or 0
        ItemHeadConfig(1, residual_size, similarity, self.item_dropout, self.residual_dropout)  # checks the values
        if self.num_negatives is not None and self.num_negatives < 1:
            raise ValueError(f"`num_negatives` must be at least 1 or None, got {self.num_negatives}.")

        if self.push_to_hub and self.process_index == 0:  # the process that pushes
            require_token(self.hub_token)
        self._check_deepspeed()

    def _check_normalizers(self) -> None:
        check_normalizer("title_normalizer", self.title_normalizer, "title_temperature", self.title_temperature)
        if self.score_normalizer is not None:
            check_normalizer("score_normalizer", self.score_normalizer, "temperature", 1.0)
        if self.objective == "item":
            for name, default in (("title_normalizer", "vocabulary"), ("score_normalizer", None)):
                if getattr(self, name) != default:
                    raise ValueError(
                        f"`{name}={getattr(self, name)!r}` is about titles, but `objective='item'` trains no titles. "
                        "Leave it unset, or use `objective='title'` or 'both'."
                    )
        if self.title_normalizer == "catalog" and self.loss_type != "nll":
            raise ValueError(
                f"`loss_type={self.loss_type!r}` is not supported with `title_normalizer='catalog'`, whose loss is a "
                "cross-entropy. Leave it unset."
            )

    def _check_deepspeed(self) -> None:
        """Raises now for mistakes that would otherwise show only after the model was loaded, or after training."""
        if self.deepspeed and self.hf_deepspeed_config.mismatches:
            raise ValueError(
                "The DeepSpeed configuration contradicts the training arguments: "
                f'{"; ".join(line.strip("- ") for line in self.hf_deepspeed_config.mismatches)}. Set these to "auto" '
                "in the configuration, and set their values only in the training arguments."
            )
        plugin, key = self.deepspeed_plugin, "zero_optimization.stage3_gather_16bit_weights_on_model_save"
        if plugin is not None and plugin.hf_ds_config.is_zero3() and not plugin.hf_ds_config.get_value(key, False):
            raise ValueError(
                f"The DeepSpeed configuration must set `{key}` to true (`zero3_save_16bit_model` in accelerate's "
                "configuration). Otherwise, no whole weights are saved."
            )

    def _refuse(self, *names: str, reason: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value:
                raise ValueError(f"`{name}={value!r}` is not supported: {reason}.")


@dataclass
class PatchPretrainConfig(PatchFinetuneConfig):
    r"""
    Configuration of [`PatchPretrainTrainer`]: a [`PatchFinetuneConfig`] for patch pre-training.

    Args:
        distillation_weight (`float`, *optional*, defaults to `0.0`):
            Weight in the loss of the divergence between twins: the compressed history learns to predict each token of
            the target's title with the distribution that the model has for it behind the same history as text. The
            text twin learns nothing from it. The divergence is the mean over the labels of the compressed twins, and
            is logged as `distillation_loss`, without its weight. The paper has no distillation.
        distillation_temperature (`float`, *optional*, defaults to `1.0`):
            By what the logits of both twins are divided in the divergence, which is multiplied by the temperature's
            square.

    Raises:
        ValueError: If `ignore_data_skip` is set: a resumed run would then train on rows that it has already seen, at
            compression probabilities that belong to other rows. Also if the distillation's weight is negative or not
            finite, its temperature is not positive or is set without a weight, or the objective has no titles.
    """

    distillation_weight: float = field(
        default=0.0, metadata={"help": "Weight of the divergence between compressed histories and their text twins."}
    )
    distillation_temperature: float = field(
        default=1.0, metadata={"help": "By what logits are divided in the distillation."}
    )

    _default_rows: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ignore_data_skip:
            raise ValueError(
                "`ignore_data_skip=True` is not supported in pre-training: a resumed run would train on rows of other "
                "steps, and the compression probability belongs to a step and its rows. Leave it unset."
            )
        self._check_distillation()

    def _check_distillation(self) -> None:
        weight, temperature = self.distillation_weight, self.distillation_temperature
        for name, value in (("distillation_weight", weight), ("distillation_temperature", temperature)):
            if isinstance(value, bool) or not isinstance(value, Real):
                raise TypeError(f"`{name}` must be a number, such as 1.0, got {value!r}.")
        if not 0 <= weight < math.inf:
            raise ValueError(f"`distillation_weight` must be a finite number of at least 0, got {weight}.")
        if not 0 < temperature < math.inf:
            raise ValueError(
                f"`distillation_temperature` must be a positive number, got {temperature}: logits are divided by it."
            )
        if weight == 0:
            if temperature != 1:
                raise ValueError(
                    f"`distillation_temperature={temperature}` has no effect without a weight. Set "
                    "`distillation_weight`, for example to 1.0, or leave the temperature unset."
                )
            return
        if self.objective == "item":
            raise ValueError(
                f"`distillation_weight={weight}` is about titles, which twins predict token by token, but "
                "`objective='item'` trains no titles. Leave it unset, or use `objective='title'` or 'both'."
            )
        if self.loss_type != "nll":
            raise ValueError(
                f"`loss_type={self.loss_type!r}` is not supported with `distillation_weight`, which needs the logits "
                "of a cross-entropy. Leave it unset."
            )
        if self.n_gpu > 1:
            raise ValueError(
                f"`distillation_weight={weight}` does not run in one process on {self.n_gpu} GPUs (DataParallel), "
                "which could part twins. Start the script with `accelerate launch` or `torchrun`, or set "
                "CUDA_VISIBLE_DEVICES to one GPU."
            )
