"""PatchRec for the Hugging Face Trainer: LLM recommenders that read long histories as patches."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from warnings import warn

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor

from .runtime.base_model import PatchRecModel
from .runtime.configuration import PatchRecConfig
from .runtime.modeling import PatchRecForCausalLM
from .runtime.processing import PatchRecProcessor


# The public names, and the module that each is imported from when it is first used. Some modules bring in TRL, PEFT
# and datasets, which take long to import.
_MODULES = {
    "Catalog": "runtime.catalog",
    "DropLayout": "runtime.layouts",
    "ItemPatchLayout": "runtime.layouts",
    "Layout": "runtime.layouts",
    "RandomPatchLayout": "runtime.layouts",
    "SessionPatchLayout": "runtime.layouts",
    "TextLayout": "runtime.layouts",
    "BudgetLayout": "runtime.long_layouts",
    "PyramidLayout": "runtime.long_layouts",
    "TimeWindowLayout": "runtime.long_layouts",
    "BOOK_PROMPT": "runtime.prompts",
    "BOOK_PROMPT_INSTRUCTION_FIRST": "runtime.prompts",
    "MOVIE_PROMPT": "runtime.prompts",
    "MOVIE_PROMPT_INSTRUCTION_FIRST": "runtime.prompts",
    "PromptTemplate": "runtime.prompts",
    "add_special_tokens": "runtime.prompts",
    "PatchRecProcessor": "runtime.processing",
    "PatchRecConfig": "runtime.configuration",
    "PatchRecForCausalLM": "runtime.modeling",
    "PatchRecModel": "runtime.base_model",
    "load_model": "runtime.adapters",
    "build_trie": "runtime.trie",
    "CatalogRanker": "runtime.ranking",
    "CatalogRanking": "runtime.ranking",
    "RankingConfig": "runtime.ranking_config",
    "IndexSettings": "runtime.index_settings",
    "ItemIndex": "runtime.item_index",
    "Title": "runtime.user_histories",
    "PatchRecommender": "runtime.recommender",
    "Recommendation": "runtime.recommendations",
    "SkippedHistory": "runtime.skipped_histories",
    "UserState": "runtime.user_state",
    "DataCard": "data.data_card",
    "describe_data": "data.data_card",
    "make_rows": "data.examples",
    "Filters": "data.filters",
    "load_recommendation_data": "data.loading",
    "prepare_data": "data.loading",
    "PreparedData": "data.preparation",
    "Row": "data.rows",
    "leave_one_out_split": "data.splits",
    "temporal_split": "data.splits",
    "user_ratio_split": "data.splits",
    "tidy_title": "data.titles",
    "PatchDataCollator": "batches.collators",
    "PatchPretrainDataCollator": "batches.collators",
    "evaluate_model": "evaluation.models",
    "RELEASE_MATCHING": "evaluation.protocol",
    "STRICT_PROTOCOL": "evaluation.protocol",
    "EvaluationProtocol": "evaluation.protocol",
    "EvaluationReport": "evaluation.report",
    "Scorer": "evaluation.scorers",
    "TimedScorer": "evaluation.scorers",
    "evaluate_scorer": "evaluation.scorers",
    "export_backbone": "hub.exports",
    "export_checkpoint": "hub.exports",
    "export_to_hub": "hub.exports",
    "ALL_PATCH_PRESET": "training.arguments",
    "PAPER_PRESETS": "training.arguments",
    "PatchFinetuneConfig": "training.arguments",
    "PatchPretrainConfig": "training.arguments",
    "CheckpointCallback": "training.checkpoint_callback",
    "last_checkpoint": "training.checkpoints",
    "grow_catalog": "training.catalog_growth",
    "fit_fusion": "training.fusion_fit",
    "update_checkpoint": "training.updates",
    "PatchFinetuneTrainer": "training.trainers",
    "PatchPretrainTrainer": "training.trainers",
    "JobSummary": "jobs.job",
    "recommend_users": "jobs.recommend_users",
    "build_tiny_backbone": "tiny",
}
# Former public names: the module that still has them, or the name that replaces them.
_FORMER_FUNCTIONS = {
    "fit_prior": "training.prior_fit",
    "rank_catalog": "evaluation.former_names",
    "rank_targets": "evaluation.former_names",
    "score_catalog": "evaluation.former_names",
    "score_targets": "evaluation.former_names",
}
_FORMER_NAMES = {
    "AUTHORS": "RELEASE_MATCHING",
    "RELEASE_PROTOCOL": "RELEASE_MATCHING",
    "STRICT": "STRICT_PROTOCOL",
    "make_examples": "make_rows",
}

__all__ = [*_MODULES]
__version__ = version("patchrec-hf")

AutoConfig.register(PatchRecConfig.model_type, PatchRecConfig)
AutoModel.register(PatchRecConfig, PatchRecModel)
AutoModelForCausalLM.register(PatchRecConfig, PatchRecForCausalLM)
AutoProcessor.register(PatchRecConfig, PatchRecProcessor)


def __getattr__(name: str) -> Any:
    if name in _FORMER_NAMES:
        warn(f"`{name}` is now called `{_FORMER_NAMES[name]}`.", FutureWarning, stacklevel=2)
        name = _FORMER_NAMES[name]
    if name in _FORMER_FUNCTIONS:
        return getattr(import_module(f".{_FORMER_FUNCTIONS[name]}", __name__), name)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:  # type checkers and editors cannot read the table
    from .batches.collators import PatchDataCollator as PatchDataCollator
    from .batches.collators import PatchPretrainDataCollator as PatchPretrainDataCollator
    from .data.data_card import DataCard as DataCard
    from .data.data_card import describe_data as describe_data
    from .data.examples import make_rows as make_rows
    from .data.filters import Filters as Filters
    from .data.loading import load_recommendation_data as load_recommendation_data
    from .data.loading import prepare_data as prepare_data
    from .data.preparation import PreparedData as PreparedData
    from .data.rows import Row as Row
    from .data.splits import leave_one_out_split as leave_one_out_split
    from .data.splits import temporal_split as temporal_split
    from .data.splits import user_ratio_split as user_ratio_split
    from .data.titles import tidy_title as tidy_title
    from .evaluation.models import evaluate_model as evaluate_model
    from .evaluation.protocol import RELEASE_MATCHING as RELEASE_MATCHING
    from .evaluation.protocol import STRICT_PROTOCOL as STRICT_PROTOCOL
    from .evaluation.protocol import EvaluationProtocol as EvaluationProtocol
    from .evaluation.report import EvaluationReport as EvaluationReport
    from .evaluation.scorers import Scorer as Scorer
    from .evaluation.scorers import TimedScorer as TimedScorer
    from .evaluation.scorers import evaluate_scorer as evaluate_scorer
    from .hub.exports import export_backbone as export_backbone
    from .hub.exports import export_checkpoint as export_checkpoint
    from .hub.exports import export_to_hub as export_to_hub
    from .jobs.job import JobSummary as JobSummary
    from .jobs.recommend_users import recommend_users as recommend_users
    from .runtime.adapters import load_model as load_model
    from .runtime.catalog import Catalog as Catalog
    from .runtime.index_settings import IndexSettings as IndexSettings
    from .runtime.item_index import ItemIndex as ItemIndex
    from .runtime.layouts import DropLayout as DropLayout
    from .runtime.layouts import ItemPatchLayout as ItemPatchLayout
    from .runtime.layouts import Layout as Layout
    from .runtime.layouts import RandomPatchLayout as RandomPatchLayout
    from .runtime.layouts import SessionPatchLayout as SessionPatchLayout
    from .runtime.layouts import TextLayout as TextLayout
    from .runtime.long_layouts import BudgetLayout as BudgetLayout
    from .runtime.long_layouts import PyramidLayout as PyramidLayout
    from .runtime.long_layouts import TimeWindowLayout as TimeWindowLayout
    from .runtime.prompts import BOOK_PROMPT as BOOK_PROMPT
    from .runtime.prompts import BOOK_PROMPT_INSTRUCTION_FIRST as BOOK_PROMPT_INSTRUCTION_FIRST
    from .runtime.prompts import MOVIE_PROMPT as MOVIE_PROMPT
    from .runtime.prompts import MOVIE_PROMPT_INSTRUCTION_FIRST as MOVIE_PROMPT_INSTRUCTION_FIRST
    from .runtime.prompts import PromptTemplate as PromptTemplate
    from .runtime.prompts import add_special_tokens as add_special_tokens
    from .runtime.ranking import CatalogRanker as CatalogRanker
    from .runtime.ranking import CatalogRanking as CatalogRanking
    from .runtime.ranking_config import RankingConfig as RankingConfig
    from .runtime.recommendations import Recommendation as Recommendation
    from .runtime.recommender import PatchRecommender as PatchRecommender
    from .runtime.skipped_histories import SkippedHistory as SkippedHistory
    from .runtime.trie import build_trie as build_trie
    from .runtime.user_histories import Title as Title
    from .runtime.user_state import UserState as UserState
    from .tiny import build_tiny_backbone as build_tiny_backbone
    from .training.arguments import ALL_PATCH_PRESET as ALL_PATCH_PRESET
    from .training.arguments import PAPER_PRESETS as PAPER_PRESETS
    from .training.arguments import PatchFinetuneConfig as PatchFinetuneConfig
    from .training.arguments import PatchPretrainConfig as PatchPretrainConfig
    from .training.catalog_growth import grow_catalog as grow_catalog
    from .training.checkpoint_callback import CheckpointCallback as CheckpointCallback
    from .training.checkpoints import last_checkpoint as last_checkpoint
    from .training.fusion_fit import fit_fusion as fit_fusion
    from .training.trainers import PatchFinetuneTrainer as PatchFinetuneTrainer
    from .training.trainers import PatchPretrainTrainer as PatchPretrainTrainer
    from .training.updates import update_checkpoint as update_checkpoint
