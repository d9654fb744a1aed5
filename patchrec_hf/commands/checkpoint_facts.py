"""Checkpoint facts: what a checkpoint is, read from its small files and from the headers of its weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import polars as pl
from huggingface_hub import ModelCard
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    CONFIG_NAME,
    PROCESSOR_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
)

from ..runtime.configuration import PatchRecConfig
from ..runtime.hub_files import CATALOG_NAME, CO_VISITATION_NAME, check_format_version, check_path, find_file
from ..runtime.item_index import INDEX_SETTINGS_NAME, read_index_settings
from ..runtime.neighbors import NeighborTable
from ..runtime.processing import PatchRecProcessor
from ..runtime.prompts import END_TOKEN, START_TOKEN
from ..runtime.ranking_config import ITEM_METHODS, METHODS


_CARD_NAME, _TOKENIZER_NAME = "README.md", "tokenizer.json"
_HISTORY_MARK = "…"
_MAX_NAMED = 8
_BACKBONE_PARTS = ("model.language_model.", "lm_head.")
_PARTS_OF_PRIOR = {"head": "item", "co_visits": "co_visits", "titles": "similar_titles", "seen": "seen"}


def read_checkpoint(checkpoint: str) -> dict[str, Any]:
    """
    Reads what a checkpoint is. No weights are loaded.

    Args:
        checkpoint (`str`):
            Directory of a model or an adapter with its processor, as a trainer or [`export_checkpoint`] saves it.

    Returns:
        `dict[str, Any]`: JSON-ready values. `None` stands for what the files do not tell.

    Raises:
        FileNotFoundError, NotADirectoryError: If there is no such directory, or it lacks a file of a checkpoint.
        ValueError: If the directory holds something else, a file is no JSON, or a newer version of the library wrote
            the checkpoint.
    """
    directory = Path(checkpoint)
    check_path(directory, {})
    processor, adapter = _read_processor(directory), _read_json(directory / ADAPTER_CONFIG_NAME)
    config = _read_config(directory, is_adapter=bool(adapter))
    fusion = _read_fusion(directory, processor)
    head = config.get("item_head")
    titles_only = [method for method in METHODS if method not in ITEM_METHODS]
    methods = [*(["fusion"] if fusion else []), *(["item"] if head else []), *titles_only]
    items = pl.scan_parquet(find_file(directory, CATALOG_NAME, {}))
    return {
        "checkpoint": checkpoint,
        "kind": "adapter" if adapter else "model",
        "format_version": max(processor.get("format_version", 0), config.get("format_version", 0)),
        "backbone": _describe_backbone(directory, config, adapter),
        "adapter": _describe_adapter(directory, adapter) if adapter else None,
        "items": items.select(pl.len()).collect().item(),
        "item_ids": "texts" if items.collect_schema()["item_id"] == pl.String else "whole numbers",
        "layout": processor["layout"],
        "max_history": processor["max_history"],
        "separate_patches": processor["separate_patches"],
        "item_residuals": processor.get("item_residuals", 0),
        "time_gaps": processor.get("time_gaps", 0),
        "prompt": _describe_prompt(directory, processor["prompt"]),
        "objective": config.get("objective"),
        "trained_until": config.get("trained_until"),
        "item_head": head,
        "patcher": config.get("patcher", "mean"),
        "patcher_layers": config.get("patcher_layers", 1) if config.get("patcher") == "contextual" else None,
        "title_normalizer": config.get("title_normalizer", "vocabulary"),
        "title_temperature": config.get("title_temperature", 1.0),
        "fusion": fusion,
        "index": _read_index(directory),
        "methods": methods,
        "default_method": methods[0],
        "metrics": _read_metrics(directory),
    }


def _read_json(path: Path) -> dict[str, Any]:
    """Returns the mapping that a file holds; an empty one if there is no file."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a mapping, got {values!r:.80}.")
    return values


def _read_processor(directory: Path) -> dict[str, Any]:
    path = directory / PROCESSOR_NAME
    if not path.is_file():
        kind = _read_json(directory / CONFIG_NAME).get("model_type")
        names = sorted(child.name for child in directory.iterdir())
        shown = f"{', '.join(names[:_MAX_NAMED])}{', …' if len(names) > _MAX_NAMED else ''}" or "nothing"
        holds = f"holds {shown}" if kind is None else f"holds a model of the type {kind!r}, a backbone or a baseline"
        raise FileNotFoundError(
            f"{directory} is no checkpoint of this library: it has no {PROCESSOR_NAME}, and {holds}. Give the "
            "directory that a trainer or `save_pretrained` of model and processor wrote."
        )
    processor = _read_json(path)
    if processor.get("processor_class") != PatchRecProcessor.__name__:
        raise ValueError(
            f"{path} belongs to a {processor.get('processor_class')}, and a checkpoint of this library has a "
            f"{PatchRecProcessor.__name__}."
        )
    check_format_version(processor.get("format_version", 0), str(path))
    return processor


def _read_config(directory: Path, is_adapter: bool) -> dict[str, Any]:
    path = directory / CONFIG_NAME
    config = _read_json(path)
    if not config and is_adapter:  # an adapter that no trainer has saved has none
        return {}
    if config.get("model_type") != PatchRecConfig.model_type:
        found = f"a model of type {config.get('model_type')!r}" if config else "no model"
        raise ValueError(f"{path} holds {found}. Expected is the type {PatchRecConfig.model_type!r}: save model and "
                         "processor to one directory.")  # fmt: skip
    check_format_version(config.get("format_version", 0), str(path))
    return config


def _describe_backbone(directory: Path, config: Mapping[str, Any], adapter: Mapping[str, Any]) -> dict[str, Any]:
    text = config.get("text_config") or {}
    text = text.get("text_config", text)  # a multimodal backbone holds the decoder's one level deeper
    weights = directory
    if adapter:
        weights = Path(adapter.get("base_model_name_or_path") or "")
        weights = weights if weights.is_dir() and adapter.get("base_model_name_or_path") else directory
    sizes = {} if adapter and weights == directory else _sizes(weights, is_required=not adapter)
    own = sum(size for name, (size, _) in sizes.items() if not name.startswith(_BACKBONE_PARTS))
    total = sum(size for size, _ in sizes.values())
    is_plain = adapter and not any(name.startswith(_BACKBONE_PARTS[0]) for name in sizes)  # a backbone of transformers
    return {
        "family": text.get("model_type"),
        "parameters": (total if is_plain else total - own) if sizes else None,
        "parameters_of_other_parts": (0 if is_plain else own) if sizes else None,
        "dtypes": sorted({dtype for _, dtype in sizes.values()}) or None,
        "layers": text.get("num_hidden_layers"),
        "hidden_size": text.get("hidden_size"),
        "vocabulary": text.get("vocab_size"),
    }


def _describe_adapter(directory: Path, adapter: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": adapter.get("peft_type"),
        "rank": adapter.get("r"),
        "base_model": adapter.get("base_model_name_or_path"),
        "parameters": sum(size for size, _ in _sizes(directory).values()),
    }


def _sizes(directory: Path, is_required: bool = True) -> dict[str, tuple[int, str]]:
    """Returns the number of values and the type of each weight, by its name. Counters and ids are no weights."""
    sizes: dict[str, tuple[int, str]] = {}
    for path in _weight_files(directory, is_required):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (a file is no mapping)
                values = file.get_slice(name)
                if values.get_dtype().startswith(("F", "BF")):
                    sizes[name] = prod(values.get_shape()), values.get_dtype()
    return sizes


def _weight_files(directory: Path, is_required: bool) -> Iterator[Path]:
    names = [ADAPTER_SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_NAME]
    index = _read_json(directory / SAFE_WEIGHTS_INDEX_NAME)
    names += sorted(set(index.get("weight_map", {}).values()))
    found = [directory / name for name in names if (directory / name).is_file()]
    missing = [name for name in index.get("weight_map", {}).values() if not (directory / name).is_file()]
    if is_required and (missing or not found):
        wanted = missing[0] if missing else f"{SAFE_WEIGHTS_NAME} or {ADAPTER_SAFE_WEIGHTS_NAME}"
        raise FileNotFoundError(f"{directory} has no weights: it lacks {wanted}. Save or copy the checkpoint again.")
    yield from found


def _describe_prompt(directory: Path, prompt: Mapping[str, Any]) -> str | None:
    """Returns the words of the prompt, with a mark in place of the history."""
    if not (directory / _TOKENIZER_NAME).is_file():
        return None
    tokenizer = Tokenizer.from_file(str(directory / _TOKENIZER_NAME))
    before, after = (
        tokenizer.decode(prompt[name], skip_special_tokens=False) for name in ("prefix_ids", "suffix_ids")
    )
    return f"{before}{START_TOKEN}{_HISTORY_MARK}{END_TOKEN}{after}".strip()


def _read_fusion(directory: Path, processor: Mapping[str, Any]) -> dict[str, Any] | None:
    fusion = processor.get("fusion")
    if fusion is not None:
        fit = fusion.get("fit_result") or {}
        return {
            "weights": {name: part["weight"] for name, part in fusion["parts"].items()},
            "log_likelihood": fit.get("log_likelihood"),
            "num_targets": fit.get("num_targets"),
        }
    if processor.get("has_prior", False):  # before format version 2
        weights = NeighborTable.settings_of(find_file(directory, CO_VISITATION_NAME, {}))["weights"]
        named = {_PARTS_OF_PRIOR[name]: weight for name, weight in weights.items()}
        return {"weights": named, "log_likelihood": None, "num_targets": None}
    return None


def _read_index(directory: Path) -> dict[str, Any] | None:
    """Returns the kind, the settings and the number of items of a saved item index; `None` if there is none."""
    if not (directory / INDEX_SETTINGS_NAME).is_file():
        return None
    values = read_index_settings(directory, {})
    return {**values["settings"], "num_items": values["num_items"]}


def _read_metrics(directory: Path) -> dict[str, dict[str, float]] | None:
    """Returns the metrics of the card, by the data set on which they were measured; `None` if it has none."""
    path = directory / _CARD_NAME
    if not path.is_file():
        return None
    metrics: dict[str, dict[str, float]] = {}
    for result in ModelCard.load(path, ignore_metadata_errors=True).data.eval_results or []:
        metrics.setdefault(result.dataset_name, {})[result.metric_type] = result.metric_value
    return metrics or None
