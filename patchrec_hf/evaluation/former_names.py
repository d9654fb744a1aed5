"""Former names of public functions. Each takes its former arguments, warns, and calls the present function."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from peft import PeftModel

from ..batches.collators import PatchDataCollator
from ..runtime.catalog import Catalog
from ..runtime.configuration import Normalizer
from ..runtime.encoding import EncodedHistory
from ..runtime.modeling import PatchRecForCausalLM
from ..runtime.processing import PatchRecProcessor
from ..runtime.ranking import CatalogRanker, CatalogRanking
from ..runtime.ranking_config import RankingConfig
from ..runtime.trie import TitleTrie
from .models import evaluate_model
from .report import EvaluationReport
from .scorers import Scorer, evaluate_scorer


_ARGUMENTS = {"max_expansions": "max_title_tokens"}
_RANKING = ("k", "method", "num_beams", "length_penalty", "max_title_tokens")
_TARGETS = (*_RANKING, "protocol", "exclude_seen", "max_rows", "train_dataset", "batch_size", "resume_dir")
_RANK_ARGUMENTS = ("candidates", "excluded", "show_progress")


def rank_targets(
    model: PatchRecForCausalLM | PeftModel,
    collator: PatchDataCollator | PatchRecProcessor,
    dataset: Dataset,
    *args: Any,
    **settings: Any,
) -> EvaluationReport:
    """Former name of [`evaluate_model`]. It also takes a collator, and uses its processor, layout and seed."""
    _warn("rank_targets", "evaluate_model(model, processor, dataset)")
    settings = _named((*_TARGETS, "show_progress"), args, settings)
    if settings.get("protocol") == "authors":  # the matching rules, as they were before the release's decoding
        settings["protocol"] = "release-matching"
    if isinstance(collator, PatchRecProcessor):
        return evaluate_model(model, collator, dataset, **settings)
    settings = {"layout": collator.layout, "seed": collator.seed, **settings}
    return evaluate_model(model, collator.processor, dataset, **settings)


def score_targets(scorer: Scorer, catalog: Catalog, dataset: Dataset, *args: Any, **settings: Any) -> EvaluationReport:
    """Former name of [`evaluate_scorer`]."""
    _warn("score_targets", "evaluate_scorer(scorer, catalog, dataset)")
    return evaluate_scorer(scorer, catalog, dataset, *args, **settings)


def rank_catalog(
    model: PatchRecForCausalLM,
    trie: TitleTrie,
    prompts: Sequence[EncodedHistory],
    pad_id: int,
    *args: Any,
    **settings: Any,
) -> CatalogRanking:
    """Former way to call [`CatalogRanker.rank`]; `settings` are its arguments and [`RankingConfig`]'s."""
    _warn("rank_catalog", "CatalogRanker(model, processor, RankingConfig(...)).rank(prompts)")
    names = (*_RANKING, *_RANK_ARGUMENTS[:2], "batch_size", "synchronize", _RANK_ARGUMENTS[2])
    settings = _named(names, args, settings)
    arguments = {name: settings.pop(name) for name in _RANK_ARGUMENTS if name in settings}
    return CatalogRanker.from_trie(model, trie, pad_id, RankingConfig(**settings)).rank(prompts, **arguments)


def score_catalog(
    model: PatchRecForCausalLM,
    trie: TitleTrie,
    prompts: Sequence[EncodedHistory],
    pad_id: int,
    batch_size: int = 8,
    synchronize: bool = False,
    show_progress: bool = False,
    normalizer: Normalizer | None = None,
    temperature: float | None = None,
) -> np.ndarray:
    """Former way to call [`CatalogRanker.score`]."""
    _warn("score_catalog", "CatalogRanker(model, processor).score(prompts)")
    config = RankingConfig(
        k=1, batch_size=batch_size, synchronize=synchronize, normalizer=normalizer, temperature=temperature
    )
    return CatalogRanker.from_trie(model, trie, pad_id, config).score(prompts, show_progress)


def _named(names: Sequence[str], args: Sequence[Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Returns all arguments by their present names. `names` lists the positional arguments in order."""
    if len(args) > len(names):
        raise TypeError(f"Too many positional arguments: {len(args)}, but there are {len(names)} at most.")
    by_position = dict(zip(names, args, strict=False))
    by_keyword = {_ARGUMENTS.get(name, name): value for name, value in settings.items()}
    if twice := by_position.keys() & by_keyword.keys():
        raise TypeError(f"`{min(twice)}` is given twice.")
    return {**by_position, **by_keyword}


def _warn(former: str, present: str) -> None:
    warnings.warn(f"`{former}` is deprecated; use `{present}`.", FutureWarning, stacklevel=3)
