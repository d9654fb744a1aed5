"""A study: one data set at one scale in one directory. It holds everything that its methods share."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from accelerate import PartialState
from datasets import DatasetDict
from transformers import AutoConfig, AutoModelForCausalLM, set_seed

import patchrec_hf
from patchrec_hf import (
    ALL_PATCH_PRESET,
    PAPER_PRESETS,
    Catalog,
    EvaluationReport,
    Layout,
    PatchDataCollator,
    PatchRecProcessor,
    build_tiny_backbone,
)
from patchrec_hf.data.rows import TIMES_COLUMN, select_spaced
from patchrec_hf.training.arguments import PaperPreset

from .data import load_rows
from .plans import ALL_ITEMS, RECENT_POPULARITY, VOCABULARY, LLMMethod, Plan, llm_methods
from .settings import DATA, SCALES, DataFacts, Scale
from .tokens import history_tokens


RANKINGS = {"validation": ("validation", False), "test": ("test", False), "test_seen_excluded": ("test", True)}
"""The rankings of each method, by name: the split, and whether items of the history are left out."""

_WHOLE_HISTORY = 10**6


@dataclass(frozen=True, eq=False)
class Study:
    """
    One data set at one scale.

    Args:
        dataset (`str`):
            A key of `DATA`.
        data_dir (`str`, *optional*):
            Directory of the data, raw or prepared. If not given, the data is loaded by its name.
        scale_name (`str`):
            A key of `SCALES`.
        output_dir (`pathlib.Path`):
            Directory for all files of the study.
        per_device_batch_size (`int`, *optional*):
            Rows per forward in training. If not given, as many as fit if the scale has `fits_forwards`; else a process
            reads its share of a step's rows in one forward. The all-patch recipe has its own number.
        seed (`int`, *optional*, defaults to `0`):
            Seed of weights, order and draws.
        ties (`"release"` or `"stable"`, *optional*):
            Order of simultaneous interactions. If not given, the authors' order where the data has file order.
        epochs (`Mapping[str, tuple[float, ...]]`):
            Epochs of each stage, for methods that do not get the scale's.
        changes (`dict[str, Any]`):
            Settings that differ from the scale's.
        facts ([`DataFacts`], *optional*):
            Counts that a dry run uses in place of the data.
    """

    dataset: str
    data_dir: str | None
    scale_name: str
    output_dir: Path
    per_device_batch_size: int | None = None
    seed: int = 0
    ties: str | None = None
    epochs: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    facts: DataFacts | None = None

    @cached_property
    def scale(self) -> Scale:
        """The scale, with `changes` applied."""
        return replace(SCALES[self.scale_name], **self.changes)

    @property
    def preset(self) -> PaperPreset:
        return PAPER_PRESETS[DATA[self.dataset].preset]

    @property
    def session_group_size(self) -> int:
        """Items per session: the scale's, or the paper's number for the data."""
        return self.scale.session_group_size or self.preset.session_group_size

    @property
    def methods(self) -> dict[str, LLMMethod]:
        return llm_methods(self.session_group_size, self.scale.max_history)

    @property
    def order_of_ties(self) -> str | None:
        """Order of simultaneous interactions; `None` for the only order that the data has."""
        data = DATA[self.dataset]
        is_raw = self.data_dir is None or (
            data.raw_file is not None and (Path(self.data_dir) / data.raw_file).exists()
        )
        return self.ties or ("release" if data.has_file_order and is_raw else None)

    def load(
        self, max_history: int | None = None, targets_per_row: int = 1, min_interactions: int | None = None
    ) -> tuple[DatasetDict, Catalog]:
        """
        Loads the splits and the catalog. Validation and test hold the rows that the scale ranks, of users with more
        than `min_interactions` interactions if that is given.
        """
        splits, catalog = self.all_rows(max_history or self.scale.max_history, targets_per_row)
        ranked = {}
        for split in ("validation", "test"):
            rows = splits[split]
            if min_interactions is not None:
                counts = self._num_interactions
                rows = rows.select(
                    [row for row, user in enumerate(rows["user_id"]) if counts[user] > min_interactions]
                )
            ranked[split] = select_spaced(rows, self.scale.max_eval_rows)
        return DatasetDict({**splits, **ranked}), catalog

    def all_rows(self, max_history: int, targets_per_row: int = 1) -> tuple[DatasetDict, Catalog]:
        """Loads the splits and the catalog, with all validation and test rows."""
        source = self.data_dir or self.dataset
        return load_rows(source, max_history, min(targets_per_row, max_history), self.order_of_ties)

    @cached_property
    def _num_interactions(self) -> dict[Any, int]:
        """Number of interactions of each user who has validation or test rows."""
        splits, _ = self.all_rows(_WHOLE_HISTORY, _WHOLE_HISTORY)
        rows = [splits[split].select_columns(["user_id", "item_ids"]).to_polars() for split in ("validation", "test")]
        counts = pl.concat(rows).group_by("user_id").agg(pl.col("item_ids").list.len().max())
        return dict(counts.iter_rows())  # the last row of a user ends with the last interaction

    @cached_property
    def num_items_before_targets(self) -> np.ndarray:
        """Number of all items before each training target, shape `(num_train_examples,)`."""
        splits, _ = self.all_rows(_WHOLE_HISTORY, _WHOLE_HISTORY)
        positions = splits["train"].select_columns(["target_positions"]).to_polars()["target_positions"]
        return positions.explode().to_numpy()

    @property
    def longest_history(self) -> int:
        """Items before the last target of the user with most interactions, among those who are ranked."""
        return self.facts.longest_history if self.facts else max(self._num_interactions.values()) - 1

    def check(self, plan: Plan, names: Sequence[str]) -> None:
        """Ends the script if methods rank other users than the plan, or if the data has no such users."""
        at_least = self._min_interactions(plan.methods[0])
        users = _users(at_least)
        for name in names:
            if self._min_interactions(name) != at_least:
                raise SystemExit(
                    f"{name!r} ranks {_users(self._min_interactions(name))}, but {plan.title} ranks {users}, so "
                    "they cannot be compared. Run this method with another table or figure."
                )
        if at_least is None:
            return
        mend = "Choose another --dataset (the paper: ml-1m), or a --scale with shorter histories."
        if at_least > self.longest_history:
            raise SystemExit(
                f"{plan.title} ranks {users}, but no user of {self.dataset} who is ranked has more than "
                f"{self.longest_history + 1}. {mend}"
            )
        if self.facts is None:
            splits, _ = self.load(min_interactions=at_least)
            for split in ("validation", "test"):
                if len(splits[split]) == 0:
                    raise SystemExit(f"{plan.title} ranks {users}, but the {split} rows have no such user. {mend}")

    def warn_of_other_counts(self) -> None:
        """Says if the data is not as the paper prepares it, because it may be another data set."""
        known = DATA[self.dataset].facts
        if known is not None and self.num_train_examples != known.num_train_examples:
            PartialState().print(
                f"{self.data_dir or self.dataset} has {self.num_train_examples:,} training targets, but "
                f"{self.dataset} as the paper prepares it has {known.num_train_examples:,}. Check --dataset and "
                "--data_dir."
            )

    def _min_interactions(self, name: str) -> int | None:
        return self.methods[name].min_interactions if name in self.methods else None

    def max_history(self, name: str) -> int:
        """Returns the number of items that a method reads of a history."""
        method = self.methods[name]
        if method.tokens_of is not None:
            return self._fitting_length(method.layout, method.tokens_of)
        if method.max_history == ALL_ITEMS:
            return self.longest_history
        return method.max_history or self.scale.max_history

    def _fitting_length(self, layout: Layout, other: str) -> int:
        """Returns how many items, in a layout, take as many tokens as another method's histories on average."""
        title_tokens = self.facts.title_tokens if self.facts else 0.0

        def mean_length(layout: Layout, max_history: int) -> float:
            if self.facts:
                return self.facts.mean(lambda length: history_tokens(layout, length, title_tokens), max_history)
            rows = self.load()[0]["validation"]
            return PatchDataCollator(self.processor(layout, max_history)).row_lengths(rows).mean()

        limit = mean_length(self.methods[other].layout, self.max_history(other))
        lengths = range(1, self.scale.max_history + 1)
        return max(bisect_right(lengths, limit, key=lambda length: mean_length(layout, length)), 1)

    @cached_property
    def num_train_examples(self) -> int:
        """Number of targets in the training set."""
        return self.facts.num_train_examples if self.facts else len(self.load()[0]["train"])

    @cached_property
    def backbone(self) -> str:
        """Name or directory of the backbone. A new backbone is made once."""
        if isinstance(self.scale.backbone, str):
            return self.scale.backbone
        directory, state = self.output_dir / "backbone", PartialState()
        if state.is_main_process and not directory.exists():
            _, catalog = self.load()
            _, tokenizer = build_tiny_backbone(catalog, DATA[self.dataset].vocab_size)
            config = AutoConfig.for_model(
                **self.scale.backbone,
                vocab_size=len(tokenizer),
                max_position_embeddings=4096,
                tie_word_embeddings=True,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
            set_seed(self.seed)
            part = directory.with_suffix(".part")
            tokenizer.save_pretrained(part)
            AutoModelForCausalLM.from_config(config).save_pretrained(part)
            part.rename(directory)
        state.wait_for_everyone()
        return str(directory)

    def processor(
        self, layout: Layout, max_history: int | None = None, predicts_items: bool = False
    ) -> PatchRecProcessor:
        """
        Makes the processor of an LLM, with its backbone's tokenizer. An LLM that predicts items reads nothing after
        the history, so its instruction stands before it; its other settings are [`ALL_PATCH_PRESET`]'s.
        """
        data, (_, catalog) = DATA[self.dataset], self.load()
        is_first = self.scale.instruction_first or predicts_items
        return PatchRecProcessor.from_backbone(
            self.backbone,
            catalog,
            data.instruction_first_prompt if is_first else data.prompt,
            max_history=max_history or self.scale.max_history,
            **(ALL_PATCH_PRESET.processor if predicts_items else {"layout": layout}),
        )

    def has_times(self) -> bool:
        """Whether the rows know when items were chosen."""
        return all(TIMES_COLUMN in rows.column_names for rows in self.load()[0].values())

    def reason_to_skip(self, name: str) -> str | None:
        """Returns why a method of a plan says nothing at this scale or on this data, or `None` if it does."""
        if name == VOCABULARY and self.scale.title_normalizer == "vocabulary":
            return "at this scale, PatchRec-I has this loss"
        if name == RECENT_POPULARITY and not self.has_times():
            return "the rows have no timestamps"
        return None

    def directory(self, method: str) -> Path:
        """Returns the directory of a method."""
        return self.output_dir / "methods" / "".join(c if c.isalnum() else "_" for c in method.lower())

    def result(self, method: str) -> dict[str, Any] | None:
        """Reads the results of a method, or returns `None` if it is not finished."""
        path = self.directory(method) / "results.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def settings(self) -> dict[str, Any]:
        """Returns the JSON-ready settings that all results depend on."""
        return {
            "version": patchrec_hf.__version__,
            "dataset": self.dataset,
            "data_dir": self.data_dir,
            "scale": {"name": self.scale_name, **json.loads(json.dumps(asdict(self.scale)))},
            "changes": self.changes,
            "ties": self.order_of_ties,
            "epochs": {name: list(epochs) for name, epochs in self.epochs.items()},
            "session_group_size": self.session_group_size,
            "vocab_size": DATA[self.dataset].vocab_size,
            "seed": self.seed,
        }


def _users(min_interactions: int | None) -> str:
    return "all users" if min_interactions is None else f"users with more than {min_interactions} interactions"


def summarize(report: EvaluationReport) -> dict[str, Any]:
    """Returns the JSON-ready metrics of a report, each with its interval by users."""
    rows = report.intervals().filter(pl.col("slice") == "all").iter_rows(named=True)
    return {row["metric"]: [row["value"], row["low"], row["high"]] for row in rows if "mrr" not in row["metric"]}
