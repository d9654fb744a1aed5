"""Base of the neural baselines: one vector per item, rows as tensors, and training by the Hugging Face Trainer."""

# No `from __future__ import annotations` in a module with a configuration: it turns annotations into strings, and
# `strict` checks values by their annotations but lets any value pass if the annotation is a string.
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import EarlyStoppingCallback, PreTrainedConfig, PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_utils import EvalPrediction
from transformers.utils import ModelOutput

from ..data.row_facts import check_same_catalog
from ..data.rows import check_rows
from ..evaluation.metrics import mean_rank, ranking_metrics
from ..runtime.catalog import Catalog
from ..runtime.encoding import IGNORED_LABEL
from ..runtime.hub_files import CATALOG_NAME, find_file, hub_kwargs, push_kwargs
from ..runtime.log_probs import log_softmax
from ..runtime.progress import shows_bars
from .histories import HISTORIES_PER_BATCH, check_histories
from .recommending import CatalogRecommender


_METRIC_CUT_OFFS = (10, 20)


@strict
class SequentialConfig(PreTrainedConfig):
    """
    Settings that all neural baselines share.

    Args:
        num_items (`int`, *optional*, defaults to `1`):
            Number of items in the catalog.
        hidden_size (`int`, *optional*, defaults to `64`):
            Width of an item's vector.
        dropout (`float`, *optional*, defaults to `0.2`):
            Share of values that dropout sets to zero in training.
        max_length (`int`, *optional*, defaults to `200`):
            Number of latest items of a history that the model reads.
        loss (`"softmax"` or `"bce"`, *optional*, defaults to `"softmax"`):
            `"softmax"`: cross-entropy over the whole catalog. `"bce"`: binary cross-entropy of the target and of items
            drawn at random, as in the SASRec paper.
        num_negatives (`int`, *optional*, defaults to `1`):
            For `"bce"`: number of items that are drawn per target. Drawn items that occur in the history are left out.
    """

    num_items: int = 1
    hidden_size: int = 64
    dropout: float = 0.2
    max_length: int = 200
    loss: Literal["softmax", "bce"] = "softmax"
    num_negatives: int = 1
    tie_word_embeddings: bool = False


@dataclass
class SequentialOutput(ModelOutput):
    """
    Args:
        loss (`torch.Tensor` of shape `()`, *optional*):
            The mean loss of all targets.
        logits (`torch.Tensor` of shape `(B, S, num_items)`, *optional*):
            The score of every item after each requested position.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class SequentialRecommender(CatalogRecommender, PreTrainedModel):
    """
    A model that turns a history into a vector. An item's score is the product of this vector and the item's vector.

    Args:
        config ([`SequentialConfig`]):
            Configuration of the model.
        catalog ([`Catalog`]):
            The items that can be recommended. The catalog is saved with the model.

    Raises:
        ValueError: If `config` and `catalog` differ in their number of items.
    """

    config_class = SequentialConfig
    main_input_name = "items"
    item_embedding: Any  # nn.Embedding, or the module that replaces it in a subclass

    def __init__(self, config: SequentialConfig, catalog: Catalog) -> None:
        if config.num_items != len(catalog):
            raise ValueError(
                f"The configuration has {config.num_items} items, the catalog {len(catalog)}. Use the catalog for "
                "which the model was made."
            )
        super().__init__(config)
        self.catalog = catalog
        self.item_embedding = self._make_item_embedding()
        self.dropout = nn.Dropout(config.dropout)

    def _make_item_embedding(self) -> nn.Module:
        return nn.Embedding(self.config.num_items + 1, self.config.hidden_size, padding_idx=self.config.num_items)

    @classmethod
    def from_catalog(cls, catalog: Catalog, **settings: Any) -> Self:
        """
        Builds a new, untrained model.

        Args:
            catalog ([`Catalog`]):
                The items that can be recommended.
            **settings:
                Settings of the model's configuration.

        Raises:
            TypeError: If the configuration has no such setting.
            StrictDataclassFieldValidationError: If a setting has an invalid value.
        """
        known = {field.name for field in fields(cls.config_class)} - {field.name for field in fields(PreTrainedConfig)}
        known -= {"num_items"}  # the catalog determines it
        unknown = sorted(set(settings) - known)
        if unknown:
            raise TypeError(f"{cls.__name__} has no setting `{unknown[0]}`; it has {', '.join(sorted(known))}.")
        return cls(cls.config_class(num_items=len(catalog), **settings), catalog)

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        """
        Encodes histories. The state at a position depends only on this position and the earlier ones. Every subclass
        implements this method.

        Args:
            vectors (`torch.Tensor` of shape `(B, T, hidden_size)`):
                The items' vectors, oldest first; padding follows each history.

        Returns:
            `torch.Tensor` of shape `(B, T, hidden_size)`: the state at each position.
        """
        raise NotImplementedError

    def catalog_table(self) -> torch.Tensor:
        """Returns the vectors of all items and, last, of padding; shape `(num_items + 1, hidden_size)`."""
        return self.item_embedding.weight

    def item_table(
        self, items: torch.Tensor, targets: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """
        Returns the items with which a target competes. Here, these are all items of the catalog.

        Args:
            items, targets:
                See [`SequentialRecommender.forward`].

        Returns:
            `tuple`: the vectors of these items and, last, of padding, shape `(num_candidates + 1, hidden_size)`; and
            `items` and `targets` as row numbers of this table.
        """
        return self.catalog_table(), items, targets

    def forward(
        self, items: torch.Tensor, positions: torch.Tensor, targets: torch.Tensor | None = None
    ) -> SequentialOutput:
        """
        Scores all items after the given positions of each history.

        Args:
            items (`torch.Tensor` of shape `(B, T)`, int64):
                Catalog indices, oldest first; `num_items` is padding, which follows each history.
            positions (`torch.Tensor` of shape `(B, S)`, int64):
                Indices of the items, of 0 to T - 1, after which to predict.
            targets (`torch.Tensor` of shape `(B, S)`, int64, *optional*):
                Catalog indices of the items that follow these positions, for a loss. -100 is ignored.

        Returns:
            [`SequentialOutput`]
        """
        table, items, targets = self.item_table(items, targets)
        states = self._states_at(items, positions, table)
        if targets is not None and self.training and self.config.loss == "bce":
            return SequentialOutput(loss=self._bce_loss(states, table, items, targets))
        logits = states @ table[:-1].T
        if targets is None:
            return SequentialOutput(logits=logits)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED_LABEL)
        return SequentialOutput(loss=loss, logits=logits)

    def _states_at(self, items: torch.Tensor, positions: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """
        Returns the states at `positions`, `[B, S, hidden_size]`. `items` are row numbers of `table`, whose last row is
        padding.
        """
        states = self.encode(F.embedding(items, table, padding_idx=len(table) - 1))
        return states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1]))

    def _bce_loss(
        self, states: torch.Tensor, table: torch.Tensor, items: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        is_target = targets != IGNORED_LABEL
        drawn = torch.randint(len(table) - 1, (*targets.shape, self.config.num_negatives), device=items.device)
        is_negative = (drawn[..., None] != items[:, None, None]).all(-1) & (drawn != targets[..., None])
        candidates = torch.cat([targets.clamp(min=0)[..., None], drawn], dim=-1)
        logits = (table[candidates] @ states[..., None])[..., 0].float()
        labels = torch.zeros_like(logits)
        labels[..., 0] = 1
        weights = torch.cat([is_target[..., None], is_negative & is_target[..., None]], dim=-1).float()
        losses = F.binary_cross_entropy_with_logits(logits, labels, weight=weights, reduction="sum")
        return losses / is_target.sum().clamp(min=1)

    def fit(
        self,
        dataset: Dataset,
        validation: Dataset | None = None,
        args: TrainingArguments | None = None,
        patience: int = 3,
    ) -> Self:
        """
        Trains the model.

        Args:
            dataset ([`~datasets.Dataset`]):
                Training rows. The loss covers all targets of a row at once.
            validation ([`~datasets.Dataset`], *optional*):
                Rows whose targets are ranked after each epoch. The model ends with the weights of the epoch with the
                best NDCG@20.
            args ([`~transformers.TrainingArguments`], *optional*):
                Training arguments. By default [`training_arguments`] with a temporary directory. With `validation`,
                the model is always saved and evaluated after each epoch, whatever `args` sets.
            patience (`int`, *optional*, defaults to `3`):
                With `validation`, training stops after this number of epochs without a better NDCG@20.

        Raises:
            TypeError, ValueError: If a data set fails [`check_rows`] or [`check_same_catalog`].
            KeyError: If the catalog lacks an item.
        """
        for rows in (dataset, validation):
            if rows is not None:
                check_rows(rows, self.config.max_length)
                check_same_catalog(rows, self.catalog)
        with tempfile.TemporaryDirectory() as directory:
            if PartialState().num_processes > 1:  # all processes load the best epoch from it
                (directory,) = broadcast_object_list([directory])
            settings: dict[str, Any] = {"label_names": ["targets"], "remove_unused_columns": False}
            if validation is not None:
                settings |= {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
                settings |= {"metric_for_best_model": "ndcg@20", "greater_is_better": True}
            args = replace(args or training_arguments(directory), **settings)
            trainer = Trainer(
                self,
                args,
                data_collator=SequenceCollator(self.catalog, self.config.max_length),
                train_dataset=dataset,
                eval_dataset=validation,
                compute_metrics=_metrics_of_ranks,
                preprocess_logits_for_metrics=_ranks_of_targets,
                callbacks=[] if validation is None else [EarlyStoppingCallback(patience)],
            )
            trainer.train()
            trainer.accelerator.wait_for_everyone()  # before the directory is deleted
        self.eval()
        return self

    @torch.no_grad()
    def score(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """
        Scores every item for every history. Each call computes the vectors of all items once. For `MoRec` this is
        expensive, so pass many histories in one call.

        Args:
            histories (`Sequence[Sequence[int]]`):
                Item ids, oldest first.

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, float32, in catalog order.

        Raises:
            TypeError, ValueError: As [`check_histories`] does.
            KeyError: If the catalog lacks an item.
        """
        check_histories(histories)
        scores = np.empty((len(histories), self.config.num_items), dtype=np.float32)
        collate = SequenceCollator(self.catalog, self.config.max_length)
        rows = [{"item_ids": history, "target_positions": [len(history)]} for history in histories]
        was_training = self.training
        self.eval()
        table = self.catalog_table()
        for start in range(0, len(rows), HISTORIES_PER_BATCH):
            part = slice(start, start + HISTORIES_PER_BATCH)
            batch = collate(rows[part])
            states = self._states_at(batch["items"].to(self.device), batch["positions"].to(self.device), table)
            scores[part] = (states[:, 0] @ table[:-1].T).float().cpu().numpy()
        self.train(was_training)
        return scores

    def log_probs(self, histories: Sequence[Sequence[int]], times: np.ndarray | None = None) -> np.ndarray:
        """
        Computes log-probabilities of the next item: the softmax of the scores, as the loss `"softmax"` trains them.

        Args:
            histories (`Sequence[Sequence[int]]`):
                Item ids, oldest first.
            times (`numpy.ndarray` of shape `(B,)`, int64, *optional*):
                The moment of asking of each history. The scores do not depend on it.

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, float64, in catalog order. `exp` of each row sums to 1.

        Raises:
            TypeError, ValueError, KeyError: As `score` does.
        """
        return log_softmax(self.score(histories))

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Saves the model and its catalog."""
        upload = push_kwargs(save_directory, kwargs)
        super().save_pretrained(save_directory, **{key: kwargs[key] for key in kwargs if key not in upload})
        self.catalog.to_parquet(os.path.join(save_directory, CATALOG_NAME))
        if push_to_hub:
            self.push_to_hub(**upload)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any
    ) -> Self:
        """
        Loads a model with its catalog.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                A directory or a repository of the Hub.
            *args, **kwargs:
                Passed to [`~transformers.PreTrainedModel.from_pretrained`].

        Raises:
            ValueError: If the saved model is of another class.
        """
        saved_config = cls.config_class.get_config_dict(pretrained_model_name_or_path, **hub_kwargs(kwargs))[0]
        if saved_config.get("model_type") != cls.config_class.model_type:
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a model of type {saved_config.get('model_type')!r}, but "
                f"{cls.__name__} is {cls.config_class.model_type!r}. Load it with the class that saved it."
            )
        catalog = Catalog.from_parquet(find_file(pretrained_model_name_or_path, CATALOG_NAME, kwargs))
        return super().from_pretrained(pretrained_model_name_or_path, catalog, *args, **kwargs)


@dataclass(frozen=True)
class SequenceCollator:
    """
    Turns rows into the tensors that [`SequentialRecommender.forward`] takes.

    Args:
        catalog ([`Catalog`]):
            Must hold every item of the rows.
        max_length (`int`):
            Number of latest items of a row's history that are kept.
    """

    catalog: Catalog
    max_length: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """
        Returns `items` `[B, T]`, `positions` `[B, S]` and `targets` `[B, S]`. A row whose last target position is its
        number of items has no targets.
        """
        ends = [row["target_positions"][-1] for row in rows]
        starts = [max(end - self.max_length, 0) for end in ends]
        width, num_targets = max(np.subtract(ends, starts)), max(len(row["target_positions"]) for row in rows)
        items = np.full((len(rows), width), len(self.catalog))
        positions = np.zeros((len(rows), num_targets), dtype=np.int64)
        targets = np.full((len(rows), num_targets), IGNORED_LABEL)
        for index, (row, start, end) in enumerate(zip(rows, starts, ends, strict=True)):
            item_indices = self.catalog.indices_of(row["item_ids"])
            items[index, : end - start] = item_indices[start:end]
            kept_positions = np.array([position for position in row["target_positions"] if position > start])
            positions[index, : len(kept_positions)] = kept_positions - start - 1
            if end < len(item_indices):
                targets[index, : len(kept_positions)] = item_indices[kept_positions]
        return {name: torch.from_numpy(array) for name, array in
                {"items": items, "positions": positions, "targets": targets}.items()}  # fmt: skip


def training_arguments(output_dir: str | os.PathLike, **changes: Any) -> TrainingArguments:
    """
    Returns training arguments that suit the baselines: 50 epochs, 64 rows per step, a constant learning rate of 0.001.

    Args:
        output_dir (`str` or `os.PathLike`):
            Directory for checkpoints.
        **changes:
            Settings of [`~transformers.TrainingArguments`] to use instead.
    """
    settings = {
        "num_train_epochs": 50,
        "per_device_train_batch_size": 64,
        "per_device_eval_batch_size": 256,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 5.0,
        "logging_strategy": "epoch",
        "save_strategy": "no",
        "save_total_limit": 1,
        "save_only_model": True,
        "dataloader_pin_memory": torch.accelerator.is_available(),
        "report_to": "none",
        "disable_tqdm": not shows_bars(),
    }
    return TrainingArguments(str(output_dir), **{**settings, **changes})


def _ranks_of_targets(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns the rank of each target, `[B, S]`. Equal scores share the mean of their ranks."""
    target_scores = logits.gather(-1, targets.clamp(min=0)[..., None])
    return mean_rank((logits > target_scores).sum(-1), (logits == target_scores).sum(-1))


def _metrics_of_ranks(prediction: EvalPrediction) -> dict[str, float]:
    return ranking_metrics(prediction.predictions[prediction.label_ids != IGNORED_LABEL], _METRIC_CUT_OFFS)
