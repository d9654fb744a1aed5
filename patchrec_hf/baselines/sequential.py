"""What the neural baselines share: one item, one vector; rows as tensors; training by the Hugging Face Trainer."""

# No `from __future__ import annotations` where there is a configuration: `strict` checks values by their annotations,
# and lets strings pass.
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

from ..data.rows import check_rows
from ..evaluation.metrics import mean_rank, ranking_metrics
from ..runtime.catalog import Catalog
from ..runtime.encoding import IGNORED_LABEL
from ..runtime.hub_files import CATALOG_NAME, find_file, hub_kwargs, push_kwargs
from .histories import HISTORIES_PER_BATCH, check_histories


_METRIC_CUT_OFFS = (10, 20)


@strict
class SequentialConfig(PreTrainedConfig):
    """
    What the configurations of all neural baselines share.

    Args:
        num_items (`int`, *optional*, defaults to `1`):
            Items of the catalog.
        hidden_size (`int`, *optional*, defaults to `64`):
            Width of an item's vector.
        dropout (`float`, *optional*, defaults to `0.2`):
            Share of values that are dropped in training.
        max_length (`int`, *optional*, defaults to `200`):
            Items of a history that are read, the latest ones.
        loss (`"softmax"` or `"bce"`, *optional*, defaults to `"softmax"`):
            `"softmax"`: cross-entropy over the whole catalog. `"bce"`: binary cross-entropy of the target and of items
            drawn at random, as in the paper of SASRec.
        num_negatives (`int`, *optional*, defaults to `1`):
            For `"bce"`: items that are drawn for a target. Those of the history are left out.
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
        logits (`torch.Tensor` of shape `(B, S, num_items)`):
            The score of every item after each position that was asked for.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class SequentialRecommender(PreTrainedModel):
    """
    A model that turns a history into a vector, whose product with an item's vector is the item's score.

    Args:
        config ([`SequentialConfig`]):
            The model's configuration.
        catalog ([`Catalog`]):
            The items that can be recommended; saved with the model.

    Raises:
        ValueError: If configuration and catalog differ in their number of items.
    """

    config_class = SequentialConfig
    main_input_name = "items"
    item_embedding: Any  # nn.Embedding, or what a model has in its place

    def __init__(self, config: SequentialConfig, catalog: Catalog) -> None:
        if config.num_items != len(catalog):
            raise ValueError(f"The configuration has {config.num_items} items, the catalog {len(catalog)}.")
        super().__init__(config)
        self.catalog = catalog
        self.item_embedding = self._make_item_embedding()
        self.dropout = nn.Dropout(config.dropout)

    def _make_item_embedding(self) -> nn.Module:
        return nn.Embedding(self.config.num_items + 1, self.config.hidden_size, padding_idx=self.config.num_items)

    @classmethod
    def from_catalog(cls, catalog: Catalog, **settings: Any) -> Self:
        """
        A new, untrained model.

        Args:
            catalog ([`Catalog`]):
                The items that can be recommended.
            **settings:
                Of the model's configuration.

        Raises:
            TypeError: If the configuration has no such setting.
            StrictDataclassFieldValidationError: If a setting has a value that it cannot have.
        """
        own = {field.name for field in fields(cls.config_class)} - {field.name for field in fields(PreTrainedConfig)}
        own -= {"num_items"}  # the catalog's
        unknown = sorted(set(settings) - own)
        if unknown:
            raise TypeError(f"{cls.__name__} has no setting `{unknown[0]}`; it has {', '.join(sorted(own))}.")
        return cls(cls.config_class(num_items=len(catalog), **settings), catalog)

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        """
        Reads histories. What stands at a position depends on it and on those before it only.

        Args:
            vectors (`torch.Tensor` of shape `(B, T, hidden_size)`):
                The items' vectors, oldest first; padding follows each history.

        Returns:
            `torch.Tensor` of shape `(B, T, hidden_size)`.
        """
        raise NotImplementedError

    def catalog_table(self) -> torch.Tensor:
        """The vectors of all items and one more, of padding; shape `(num_items + 1, hidden_size)`."""
        return self.item_embedding.weight

    def item_table(
        self, items: torch.Tensor, targets: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """
        The items among which a target is looked for: here, the catalog.

        Args:
            items, targets:
                See [`SequentialRecommender.forward`].

        Returns:
            `tuple`: their vectors and one more, of padding, shape `(num_candidates + 1, hidden_size)`; and `items` and
            `targets` as rows of it.
        """
        return self.catalog_table(), items, targets

    def forward(
        self, items: torch.Tensor, positions: torch.Tensor, targets: torch.Tensor | None = None
    ) -> SequentialOutput:
        """
        Scores all items after some positions of each history.

        Args:
            items (`torch.Tensor` of shape `(B, T)`, int64):
                Catalog indices, oldest first; `num_items` is padding, which follows each history.
            positions (`torch.Tensor` of shape `(B, S)`, int64):
                After which of the T items something is predicted.
            targets (`torch.Tensor` of shape `(B, S)`, int64, *optional*):
                Catalog indices of what follows there, for a loss; -100 counts for nothing.

        Returns:
            [`SequentialOutput`]
        """
        table, items, targets = self.item_table(items, targets)
        states = self._read(items, positions, table)
        if targets is not None and self.training and self.config.loss == "bce":
            return SequentialOutput(loss=self._bce_loss(states, table, items, targets))
        logits = states @ table[:-1].T
        if targets is None:
            return SequentialOutput(logits=logits)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED_LABEL)
        return SequentialOutput(loss=loss, logits=logits)

    def _read(self, items: torch.Tensor, positions: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """What stands at `positions`, `[B, S, hidden_size]`; `items` are rows of `table`, the last one padding."""
        states = self.encode(F.embedding(items, table, padding_idx=len(table) - 1))
        return states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1]))

    def _bce_loss(
        self, states: torch.Tensor, table: torch.Tensor, items: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        is_target = targets != IGNORED_LABEL
        drawn = torch.randint(len(table) - 1, (*targets.shape, self.config.num_negatives), device=items.device)
        is_wrong = (drawn[..., None] != items[:, None, None]).all(-1) & (drawn != targets[..., None])
        candidates = torch.cat([targets.clamp(min=0)[..., None], drawn], dim=-1)
        logits = (table[candidates] @ states[..., None])[..., 0].float()
        labels = torch.zeros_like(logits)
        labels[..., 0] = 1
        weights = torch.cat([is_target[..., None], is_wrong & is_target[..., None]], dim=-1).float()
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
                Example rows; the model learns from their targets, several of a row at once.
            validation ([`~datasets.Dataset`], *optional*):
                Example rows that are ranked after each epoch. The model ends up as it was after the best of them by
                NDCG@20, and training ends when `patience` epochs brought nothing better.
            args ([`~transformers.TrainingArguments`], *optional*):
                By default [`training_arguments`] of a temporary directory. With `validation`, models are saved and
                evaluated after each epoch, whatever these say.
            patience (`int`, *optional*, defaults to `3`):
                See `validation`.

        Raises:
            TypeError, ValueError: If the rows are not example rows (see [`check_rows`]).
            KeyError: If the catalog lacks an item.
        """
        for rows in (dataset, validation):
            if rows is not None:
                check_rows(rows, self.config.max_length)
        with tempfile.TemporaryDirectory() as directory:
            if PartialState().num_processes > 1:  # the best epoch is read again by all
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
            trainer.accelerator.wait_for_everyone()  # before the directory goes
        self.eval()
        return self

    @torch.no_grad()
    def score(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """
        Scores every item for every history. Items' vectors are computed once in each call, so where that is work
        (`MoRec`), many histories should come together.

        Args:
            histories (`Sequence[Sequence[int]]`):
                Item ids, oldest first.

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, float32, in catalog order.

        Raises:
            TypeError, ValueError, KeyError: As [`check_histories`] does, and if the catalog lacks an item.
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
            states = self._read(batch["items"].to(self.device), batch["positions"].to(self.device), table)
            scores[part] = (states[:, 0] @ table[:-1].T).float().cpu().numpy()
        self.train(was_training)
        return scores

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
            ValueError: If a model of another kind is saved there.
        """
        found = cls.config_class.get_config_dict(pretrained_model_name_or_path, **hub_kwargs(kwargs))[0]
        if found.get("model_type") != cls.config_class.model_type:
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a model of type {found.get('model_type')!r}, but "
                f"{cls.__name__} is {cls.config_class.model_type!r}. Load it with the class that it was saved from."
            )
        catalog = Catalog.from_parquet(find_file(pretrained_model_name_or_path, CATALOG_NAME, kwargs))
        return super().from_pretrained(pretrained_model_name_or_path, catalog, *args, **kwargs)


@dataclass(frozen=True)
class SequenceCollator:
    """
    Turns example rows into tensors, as [`SequentialRecommender`] takes them.

    Args:
        catalog ([`Catalog`]):
            Knows every item.
        max_length (`int`):
            Items of a row's history that are kept, the latest ones.
    """

    catalog: Catalog
    max_length: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """`items` `[B, T]`, `positions` and `targets` `[B, S]`; no targets where a row's position is its end."""
        ends = [row["target_positions"][-1] for row in rows]
        starts = [max(end - self.max_length, 0) for end in ends]
        width, num_targets = max(np.subtract(ends, starts)), max(len(row["target_positions"]) for row in rows)
        items = np.full((len(rows), width), len(self.catalog))
        positions = np.zeros((len(rows), num_targets), dtype=np.int64)
        targets = np.full((len(rows), num_targets), IGNORED_LABEL)
        for place, (row, start, end) in enumerate(zip(rows, starts, ends, strict=True)):
            indices = self.catalog.indices_of(row["item_ids"])
            items[place, : end - start] = indices[start:end]
            wanted = np.array([position for position in row["target_positions"] if position > start])
            positions[place, : len(wanted)] = wanted - start - 1
            if end < len(indices):
                targets[place, : len(wanted)] = indices[wanted]
        return {name: torch.from_numpy(array) for name, array in
                {"items": items, "positions": positions, "targets": targets}.items()}  # fmt: skip


def training_arguments(output_dir: str | os.PathLike, **changes: Any) -> TrainingArguments:
    """
    Training arguments that suit the baselines: 50 epochs, 64 rows a step, a constant learning rate of 0.001.

    Args:
        output_dir (`str` or `os.PathLike`):
            Where checkpoints go.
        **changes:
            Of [`~transformers.TrainingArguments`].
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
    }
    return TrainingArguments(str(output_dir), **{**settings, **changes})


def _ranks_of_targets(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The rank of each target, `[B, S]`; equal scores share the mean of their places."""
    own = logits.gather(-1, targets.clamp(min=0)[..., None])
    return mean_rank((logits > own).sum(-1), (logits == own).sum(-1))


def _metrics_of_ranks(prediction: EvalPrediction) -> dict[str, float]:
    return ranking_metrics(prediction.predictions[prediction.label_ids != IGNORED_LABEL], _METRIC_CUT_OFFS)
