"""A study: one data set at one scale in one directory. It holds everything that its methods share."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import polars as pl
from accelerate import PartialState
from datasets import DatasetDict
from transformers import AutoConfig, AutoModelForCausalLM, set_seed

import patchrec_hf
from patchrec_hf import (
    PAPER_PRESETS,
    Catalog,
    EvaluationReport,
    Layout,
    PatchRecProcessor,
    build_tiny_backbone,
    load_recommendation_data,
)
from patchrec_hf.data.rows import select_spaced
from patchrec_hf.training.arguments import PaperPreset

from .plans import LLMMethod, llm_methods
from .settings import DATA, SCALES, Scale


RANKINGS = {"validation": ("validation", False), "test": ("test", False), "test_seen_excluded": ("test", True)}
"""The rankings of each method, by name: the split, and whether items of the history are left out."""


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
            Rows per forward in training. If not given, a process reads its share of a step's rows in one forward.
        seed (`int`, *optional*, defaults to `0`):
            Seed of weights, order and draws.
        changes (`dict[str, int]`):
            Settings that differ from the scale's.
    """

    dataset: str
    data_dir: str | None
    scale_name: str
    output_dir: Path
    per_device_batch_size: int | None = None
    seed: int = 0
    changes: dict[str, int] = field(default_factory=dict)

    @cached_property
    def scale(self) -> Scale:
        """The scale, with `changes` applied."""
        return replace(SCALES[self.scale_name], **self.changes)

    @property
    def preset(self) -> PaperPreset:
        return PAPER_PRESETS[DATA[self.dataset].preset]

    @property
    def session_group_size(self) -> int:
        """
        Items per session: the paper's number at the scale "paper", else 5. With larger sessions, more items stay text
        (20 per target on MovieLens-100K), which is too slow for two cores.
        """
        return self.preset.session_group_size if self.scale_name == "paper" else 5

    @property
    def methods(self) -> dict[str, LLMMethod]:
        return llm_methods(self.session_group_size, self.scale.max_history)

    def load(self, max_history: int | None = None, targets_per_row: int = 1) -> tuple[DatasetDict, Catalog]:
        """Loads the splits and the catalog. Validation and test hold the rows that the scale ranks."""
        max_history = max_history or self.scale.max_history
        splits, catalog = _load(self.data_dir or self.dataset, max_history, min(targets_per_row, max_history))
        ranked = {split: select_spaced(splits[split], self.scale.max_eval_rows) for split in ("validation", "test")}
        return DatasetDict({**splits, **ranked}), catalog

    @cached_property
    def num_train_examples(self) -> int:
        """Number of targets in the training set."""
        splits, _ = self.load()
        return len(splits["train"])

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

    def processor(self, layout: Layout, max_history: int | None = None) -> PatchRecProcessor:
        """Makes the processor of an LLM, with its backbone's tokenizer."""
        data, (_, catalog) = DATA[self.dataset], self.load()
        prompt = data.instruction_first_prompt if self.scale.instruction_first else data.prompt
        return PatchRecProcessor.from_backbone(
            self.backbone, catalog, prompt, layout, max_history or self.scale.max_history
        )

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
            "session_group_size": self.session_group_size,
            "vocab_size": DATA[self.dataset].vocab_size,
            "seed": self.seed,
        }


@cache
def _load(name_or_path: str, max_history: int, targets_per_row: int) -> tuple[DatasetDict, Catalog]:
    # Kept, because each load reads all data files to find its key in the cache.
    splits, catalog = load_recommendation_data(name_or_path, max_history, targets_per_row=targets_per_row)
    return DatasetDict(splits), catalog


def check_data_dir(dataset: str, data_dir: str | None) -> None:
    """Ends the script if a directory clearly holds another data set, so that no results get a wrong name."""
    if data_dir is None:
        return
    if dataset == "sample":
        raise SystemExit("The sample comes with the library. Pass the name of the data in --data_dir as --dataset.")
    for name, data in DATA.items():
        if name != dataset and data.raw_file is not None and (Path(data_dir) / data.raw_file).exists():
            raise SystemExit(f"{data_dir} holds {name}, not {dataset}. Pass --dataset {name}.")


def summarize(report: EvaluationReport) -> dict[str, Any]:
    """Returns the JSON-ready metrics of a report, each with its interval by users."""
    rows = report.intervals().filter(pl.col("slice") == "all").iter_rows(named=True)
    return {row["metric"]: [row["value"], row["low"], row["high"]] for row in rows if "mrr" not in row["metric"]}
