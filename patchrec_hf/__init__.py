"""PatchRec for the Hugging Face Trainer: LLM recommenders that read long histories as patches."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor

from .runtime.catalog import Catalog
from .runtime.configuration import PatchRecConfig
from .runtime.layouts import DropLayout, ItemPatchLayout, RandomPatchLayout, SessionPatchLayout, TextLayout
from .runtime.modeling import PatchRecForCausalLM, PatchRecModel
from .runtime.processing import PatchRecProcessor
from .runtime.prompts import (
    BOOK_PROMPT,
    BOOK_PROMPT_INSTRUCTION_FIRST,
    MOVIE_PROMPT,
    MOVIE_PROMPT_INSTRUCTION_FIRST,
    PromptTemplate,
    add_special_tokens,
)


if TYPE_CHECKING:
    from .batches.collators import PatchDataCollator, PatchPretrainDataCollator
    from .data.data_card import DataCard, describe_data
    from .data.filters import Filters
    from .data.loading import load_recommendation_data, prepare_data
    from .data.preparation import PreparedData
    from .data.splits import leave_one_out_split, temporal_split, user_ratio_split
    from .evaluation.protocol import AUTHORS, STRICT, EvaluationProtocol
    from .evaluation.report import EvaluationReport
    from .evaluation.targets import rank_targets, score_targets
    from .hub.exports import export_backbone, export_checkpoint, export_to_hub
    from .runtime.ranking import rank_catalog, score_catalog
    from .runtime.recommender import PatchRecommender, Recommendation
    from .runtime.trie import build_trie
    from .tiny import build_tiny_backbone
    from .training.arguments import PAPER_PRESETS, PatchFinetuneConfig, PatchPretrainConfig
    from .training.trainers import PatchFinetuneTrainer, PatchPretrainTrainer

__version__ = version("patchrec-hf")

# Imported on first use: these bring in TRL, PEFT and datasets.
_LAZY = {
    "AUTHORS": "evaluation.protocol",
    "DataCard": "data.data_card",
    "EvaluationProtocol": "evaluation.protocol",
    "EvaluationReport": "evaluation.report",
    "Filters": "data.filters",
    "PAPER_PRESETS": "training.arguments",
    "PatchDataCollator": "batches.collators",
    "PatchFinetuneConfig": "training.arguments",
    "PatchFinetuneTrainer": "training.trainers",
    "PatchPretrainConfig": "training.arguments",
    "PatchPretrainDataCollator": "batches.collators",
    "PatchPretrainTrainer": "training.trainers",
    "PatchRecommender": "runtime.recommender",
    "PreparedData": "data.preparation",
    "Recommendation": "runtime.recommender",
    "STRICT": "evaluation.protocol",
    "build_tiny_backbone": "tiny",
    "build_trie": "runtime.trie",
    "describe_data": "data.data_card",
    "export_backbone": "hub.exports",
    "export_checkpoint": "hub.exports",
    "export_to_hub": "hub.exports",
    "leave_one_out_split": "data.splits",
    "load_recommendation_data": "data.loading",
    "prepare_data": "data.loading",
    "rank_catalog": "runtime.ranking",
    "rank_targets": "evaluation.targets",
    "score_catalog": "runtime.ranking",
    "score_targets": "evaluation.targets",
    "temporal_split": "data.splits",
    "user_ratio_split": "data.splits",
}

__all__ = [
    "AUTHORS",
    "BOOK_PROMPT",
    "BOOK_PROMPT_INSTRUCTION_FIRST",
    "MOVIE_PROMPT",
    "MOVIE_PROMPT_INSTRUCTION_FIRST",
    "PAPER_PRESETS",
    "STRICT",
    "Catalog",
    "DataCard",
    "DropLayout",
    "EvaluationProtocol",
    "EvaluationReport",
    "Filters",
    "ItemPatchLayout",
    "PatchDataCollator",
    "PatchFinetuneConfig",
    "PatchFinetuneTrainer",
    "PatchPretrainConfig",
    "PatchPretrainDataCollator",
    "PatchPretrainTrainer",
    "PatchRecConfig",
    "PatchRecForCausalLM",
    "PatchRecModel",
    "PatchRecProcessor",
    "PatchRecommender",
    "PreparedData",
    "PromptTemplate",
    "RandomPatchLayout",
    "Recommendation",
    "SessionPatchLayout",
    "TextLayout",
    "add_special_tokens",
    "build_tiny_backbone",
    "build_trie",
    "describe_data",
    "export_backbone",
    "export_checkpoint",
    "export_to_hub",
    "leave_one_out_split",
    "load_recommendation_data",
    "prepare_data",
    "rank_catalog",
    "rank_targets",
    "score_catalog",
    "score_targets",
    "temporal_split",
    "user_ratio_split",
]

AutoConfig.register(PatchRecConfig.model_type, PatchRecConfig)
AutoModel.register(PatchRecConfig, PatchRecModel)
AutoModelForCausalLM.register(PatchRecConfig, PatchRecForCausalLM)
AutoProcessor.register(PatchRecConfig, PatchRecProcessor)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
