"""Arguments of `patchrec train`: the recipe, the data, the backbone and the training, with the recipe's defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trl import ModelConfig, get_quantization_config

from ..data.data_arguments import DataArguments
from ..runtime.layouts import ItemPatchLayout, SessionPatchLayout, TextLayout
from ..runtime.long_layouts import BudgetLayout, PyramidLayout, TimeWindowLayout
from ..runtime.moments import parse_moment
from ..training.arguments import PatchPretrainConfig
from ..training.catalog_growth import CHANGED_TITLES
from ..training.recipes import RECIPES
from ..training.updates import REPLAY_SHARE, read_config, recipe_of, update_settings
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
_OF_UPDATES = ("since", "replay_share", "validation_share", "changed_titles", "trust_layout_code")
_OF_CHECKPOINTS = ("prompt", "system", "layout", "max_history")


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
    start_from: str | None = field(
        default=None,
        metadata={"help": "Also --from: a checkpoint to update by new interactions and items.", "aliases": ["--from"]},
    )
    since: str | None = field(
        default=None, metadata={"help": "With --from: when new interactions begin. Default: after its training."}
    )
    replay_share: float | None = field(
        default=None, metadata={"help": f"With --from: share of old targets. Default: {REPLAY_SHARE}."}
    )
    validation_share: float | None = field(
        default=None, metadata={"help": "With --from: latest share of new interactions, to weigh the fusion anew."}
    )
    changed_titles: str | None = field(
        default=None,
        metadata={"help": "With --from: if an item has a new title. Default: refuse.", "choices": [*CHANGED_TITLES]},
    )
    trust_layout_code: bool = field(
        default=False, metadata={"help": "With --from: import the checkpoint's layout, if it is a class of your own."}
    )

    def __post_init__(self) -> None:
        for name in ("max_history", "targets_per_row", "max_train_rows", "max_eval_rows", "max_test_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}.")
        for name in _OF_UPDATES:
            value = getattr(self, name)
            if self.start_from is None and value is not None and value is not False:  # 0 was given
                raise ValueError(f"--{name} belongs to an update: pass the checkpoint to go on from by --from.")
        for name in ("replay_share", "validation_share"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"--{name} must be at least 0 and below 1, got {value}.")
        for name in _OF_CHECKPOINTS:
            if self.start_from is not None and getattr(self, name) is not None:
                raise ValueError(
                    f"--{name} {getattr(self, name)} cannot be chosen in an update: {self.start_from} continues with "
                    f"its own. Leave --{name} out, or train from the start without --from."
                )
        if self.since is not None:
            parse_moment(self.since)


_SHOWN = {
    "The recipe and the run": [
        "config", "preset", "output_dir", "prompt", "layout", "max_history", "targets_per_row",
        "start_from", "fusion",
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
    if script.start_from is not None:
        return _parse_update(parser, arguments, script.start_from, backbone)
    defaults = dict(RECIPES[script.preset].training)
    if backbone.model_name_or_path is not None:  # the recipe's rate suits a new backbone
        defaults.pop("learning_rate", None)
    if defaults.get("objective") == "item":  # ranking by the item head takes seconds
        defaults["eval_strategy"] = "epoch"
    parser.set_defaults(**defaults)
    script, data, backbone, args = parser.parse(arguments)
    return script, data, backbone, args


def model_settings(backbone: ModelConfig) -> dict[str, Any]:
    """Returns how the backbone is loaded."""
    settings = {
        "dtype": backbone.dtype,
        "attn_implementation": backbone.attn_implementation,
        "revision": backbone.model_revision,
        "quantization_config": get_quantization_config(backbone),
    }
    return {name: value for name, value in settings.items() if value is not None}


def _parse_update(
    parser: CommandParser, arguments: Sequence[str], checkpoint: str, backbone: ModelConfig
) -> tuple[TrainArguments, DataArguments, ModelConfig, PatchPretrainConfig]:
    """Parses the arguments of an update. The checkpoint gives the defaults, and what cannot be changed."""
    if backbone.model_name_or_path is not None:
        raise ValueError(
            f"--from {checkpoint} continues from a checkpoint, and --model_name_or_path {backbone.model_name_or_path} "
            "starts from a backbone. Leave out one of them."
        )
    config = read_config(checkpoint, revision=backbone.model_revision)
    defaults, preset = update_settings(checkpoint, revision=backbone.model_revision), recipe_of(config)
    parser.set_defaults(**defaults, preset=preset)
    script, data, backbone, args = parser.parse(arguments)
    if script.preset != preset:
        raise ValueError(f"--preset {script.preset} is not the checkpoint's, which is {preset}. Leave it out.")
    if args.objective != defaults["objective"]:
        has_head = config.item_head is not None
        lack = "" if has_head else ", and it has no item head, so no residuals and biases of items to go on with"
        raise ValueError(
            f"--objective {args.objective} is not the checkpoint's: {checkpoint} was trained on "
            f"{defaults['objective']}{lack}. Leave --objective out, or train from the start without --from."
        )
    if "learning_rate" not in defaults and not _names(arguments, "--learning_rate"):
        raise ValueError(
            f"{checkpoint} does not say with which learning rate it was trained, because an earlier version wrote it. "
            f"Pass --learning_rate: a quarter of that rate suits an update."
        )
    return script, data, backbone, args


def _names(arguments: Sequence[str], option: str) -> bool:
    return any(text == option or text.startswith(f"{option}=") for text in arguments)
