"""Arguments of `patchrec train`: the recipe, the data, the backbone and the training, with the recipe's defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trl import ModelConfig

from ..data.data_arguments import DataArguments
from ..runtime.layouts import ItemPatchLayout, SessionPatchLayout, TextLayout
from ..runtime.long_layouts import BudgetLayout, PyramidLayout, TimeWindowLayout
from ..training.arguments import PatchPretrainConfig
from ..training.recipes import RECIPES
from .options import CommandParser


LAYOUTS = {
    "item": ItemPatchLayout(),
    "session": SessionPatchLayout(),
    "text": TextLayout(),
    "day": TimeWindowLayout(max_gap=24 * 3600),
    "pyramid": PyramidLayout(),
    "budget": BudgetLayout(max_tokens=200, min_tokens=25),
}
METRICS = ("hr@10", "ndcg@10", "hr@20", "ndcg@20")


@dataclass
class TrainArguments:
    """
    Arguments of `patchrec train`, in addition to the arguments of the data, the backbone and the training. Their help
    says what each is.

    Raises:
        ValueError: If a number is below 1.
    """

    preset: str = field(default="all-patch", metadata={"help": "The recipe.", "choices": list(RECIPES)})
    prompt: str | None = field(
        default=None, metadata={"help": "items, books, movies, or an instruction that holds {history}."}
    )
    system: str | None = field(default=None, metadata={"help": "The system turn, for an instruction of your own."})
    layout: str | None = field(
        default=None, metadata={"help": "Which items become patches. Default: the recipe's.", "choices": list(LAYOUTS)}
    )
    max_history: int | None = field(default=None, metadata={"help": "Items per history. Default: 100; sample: 20."})
    targets_per_row: int | None = field(default=None, metadata={"help": "Targets per row. Default: the recipe's."})
    max_train_rows: int | None = field(default=None, metadata={"help": "Training rows to use. Default: all."})
    max_eval_rows: int = field(default=500, metadata={"help": "Validation rows to evaluate, evenly spaced."})
    max_test_rows: int = field(default=500, metadata={"help": "Test rows to rank, evenly spaced."})
    fusion: bool = field(
        default=True,
        metadata={"help": "Whether co-visits and other parts join the model after training, if the recipe says so."},
    )
    prior: bool = field(default=True, metadata={"help": "Former name of --fusion."})

    def __post_init__(self) -> None:
        for name in ("max_history", "targets_per_row", "max_train_rows", "max_eval_rows", "max_test_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}.")


_SHOWN = {
    "The recipe and the run": [
        "config", "preset", "output_dir", "prompt", "layout", "max_history", "targets_per_row",
        "max_test_rows", "fusion",
    ],
    "The data": [
        "data", "items", "columns", "where", "min_user_interactions", "min_item_users", "k_core", "split_rule", "cuts",
    ],
    "The backbone": ["model_name_or_path", "use_peft", "lora_r"],
    "The training": [
        "objective", "title_normalizer", "patcher", "learning_rate", "num_train_epochs", "max_steps",
        "per_device_train_batch_size", "gradient_accumulation_steps", "seed",
    ],
}  # fmt: skip


def make_parser(description: str, notes: str = "") -> CommandParser:
    """
    Makes the parser of `patchrec train`.

    Args:
        description (`str`):
            The text above the options.
        notes (`str`, *optional*):
            The text below them.
    """
    kinds = (TrainArguments, DataArguments, ModelConfig, PatchPretrainConfig)
    parser = CommandParser("train", kinds, description=description, shown=_SHOWN, takes_recipe=True, notes=notes)
    parser.set_defaults(
        output_dir="outputs/train",
        logging_steps=25,
        save_steps=0.25,
        save_total_limit=1,
        report_to="none",
    )
    return parser


def parse_arguments(
    parser: CommandParser, arguments: Sequence[str]
) -> tuple[TrainArguments, DataArguments, ModelConfig, PatchPretrainConfig]:
    """
    Parses the arguments. The settings of the chosen preset are the defaults of the training arguments.

    Args:
        parser ([`CommandParser`]):
            The result of [`make_parser`].
        arguments (`Sequence[str]`):
            The arguments after the command's name.

    Raises:
        ValueError, TypeError, OSError: As [`CommandParser.parse`] and the arguments themselves do.
    """
    script, _, backbone, _ = parser.parse(arguments)
    defaults = dict(RECIPES[script.preset].training)
    if backbone.model_name_or_path is not None:  # the recipe's rate suits a new backbone
        defaults.pop("learning_rate", None)
    if defaults.get("objective") == "item":  # ranking by the item head takes seconds
        defaults["eval_strategy"] = "epoch"
    parser.set_defaults(**defaults)
    script, data, backbone, args = parser.parse(arguments)
    return script, data, backbone, args
