"""Arguments of `patchrec evaluate`: the recommender, the rows and the rules, and whether they go together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..baselines import CoVisitation, Popularity, Transitions
from ..data.data_arguments import DataArguments
from ..runtime.configuration import NORMALIZERS
from ..runtime.ranking_config import ITEM_METHODS, METHODS
from .options import CommandParser


BASELINES = {"popularity": Popularity, "co-visitation": CoVisitation, "transitions": Transitions}
PROTOCOLS = ["strict", "release", "release-matching", "effects"]


_SHOWN = {
    "The recommender": ["model", "baseline"],
    "The data": [
        "data", "items", "columns", "where", "min_user_interactions", "min_item_users", "k_core", "split_rule", "cuts",
    ],
    "The rows and the rules": ["split", "max_rows", "max_history", "exclude_seen", "protocol", "ks"],
    "The ranking": [
        "method", "num_beams", "length_penalty", "max_title_tokens", "normalizer", "temperature", "max_tokens",
        "batch_size",
    ],
    "The report": ["output_dir", "compare", "plot"],
}  # fmt: skip


@dataclass
class EvaluateArguments:
    """
    The recommender to evaluate, the rows, and the rules. The help of each argument says what it is.

    Raises:
        ValueError: If a number is out of range.
    """

    output_dir: str = field(metadata={"help": "Directory for the report."})
    model: str | None = field(default=None, metadata={"help": "A checkpoint of this library."})
    baseline: str | None = field(default=None, metadata={"help": f"{', '.join(BASELINES)}, or a saved baseline."})
    split: str = field(
        default="test", metadata={"help": "The rows to rank.", "choices": ["train", "validation", "test"]}
    )
    max_history: int | None = field(
        default=None, metadata={"help": "Items per history. Default: the model's, or 100."}
    )
    ks: list[int] = field(default_factory=lambda: [10, 20], metadata={"help": "Cut-offs."})
    method: str | None = field(
        default=None,
        metadata={
            "help": "Ranking method. Default: fusion if the checkpoint has one, item if the model has an item head, "
            "else exact; diverse by the protocol release.",
            "choices": list(METHODS),
        },
    )
    num_beams: int | None = field(default=None, metadata={"help": "Beams of the method beam."})
    length_penalty: float = field(
        default=0.0, metadata={"help": "Exponent of the title length by which scores are divided: 0 sum, 1 mean."}
    )
    max_title_tokens: int | None = field(
        default=None, metadata={"help": "Title tokens that the method exact reads for a row at most."}
    )
    normalizer: str | None = field(
        default=None,
        metadata={
            "help": "Whether a title token's probability is one among the vocabulary or among the catalog's titles. "
            "Default: the checkpoint's.",
            "choices": list(NORMALIZERS),
        },
    )
    temperature: float | None = field(
        default=None, metadata={"help": "By what logits are divided, with `--normalizer catalog`."}
    )
    protocol: str = field(default="strict", metadata={"help": "Rules for a hit.", "choices": PROTOCOLS})
    exclude_seen: bool = field(default=False, metadata={"help": "Whether to leave out items of the history."})
    max_rows: int | None = field(default=None, metadata={"help": "Number of rows to rank, evenly spaced."})
    batch_size: int = field(default=8, metadata={"help": "Histories per forward."})
    seed: int = field(default=0, metadata={"help": "Seed of random layouts."})
    max_tokens: int | None = field(
        default=None, metadata={"help": "Most positions of a history, for a checkpoint whose layout has a budget."}
    )
    trust_layout_code: bool = field(
        default=False, metadata={"help": "Whether to import the checkpoint's layout, if it is a class of your own."}
    )
    compare: str | None = field(default=None, metadata={"help": "Directory of another report to compare with."})
    plot: str | None = field(default=None, metadata={"help": "Where to draw the report (an image file)."})

    def __post_init__(self) -> None:
        least = {"max_history": 1, "num_beams": 1, "max_title_tokens": 0, "max_rows": 1, "batch_size": 1, "seed": 0,
                 "max_tokens": 1}  # fmt: skip
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise ValueError(f"--{name} must be at least {minimum}, got {value}.")
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"--ks takes cut-offs of at least 1, got {self.ks}.")
        if not math.isfinite(self.length_penalty):
            raise ValueError(f"--length_penalty must be a finite number, got {self.length_penalty}.")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise ValueError(f"--temperature must be a positive number, got {self.temperature}.")

    def check_combination(self, default_method: str | None = None) -> None:
        """
        Checks that the arguments go together.

        Args:
            default_method (`str`, *optional*):
                The method of the checkpoint, `"fusion"`, `"item"` or `"exact"`, once it is loaded.

        Raises:
            ValueError: If one has no effect, or contradicts another.
        """
        if (self.model is None) == (self.baseline is None):
            raise ValueError("Give exactly one of --model and --baseline.")
        of_search = {"num_beams": None, "length_penalty": 0.0, "max_title_tokens": None, "normalizer": None,
                     "temperature": None}  # fmt: skip
        given = [name for name, default in of_search.items() if getattr(self, name) != default]
        if self.baseline is not None:
            given += [name for name, default in (("protocol", "strict"), ("method", None), ("max_tokens", None),
                                                 ("trust_layout_code", False))
                      if getattr(self, name) != default]  # fmt: skip
            if given:
                raise ValueError(f"A baseline scores every item: leave out {_options(given)}.")
            return
        if self.protocol == "release" and self.method not in (None, "diverse"):
            raise ValueError(
                "`--protocol release` decodes titles by the method diverse: leave out --method, or choose "
                "`--protocol release-matching`."
            )
        if self.method == "diverse" and self.protocol != "release":
            raise ValueError("`--method diverse` decodes anew for each cut-off: choose `--protocol release`.")
        if self.method in ITEM_METHODS and self.protocol != "strict":
            raise ValueError(
                f"`--method {self.method}` ranks items, so it needs `--protocol strict`, got {self.protocol}."
            )
        searches = ["exact", "beam", "all"]
        uses = {"num_beams": ["beam"], "length_penalty": searches, "max_title_tokens": ["exact"],
                "normalizer": searches, "temperature": searches}  # fmt: skip
        default = default_method if self.protocol in ("strict", "effects") else "exact"
        method = "diverse" if self.protocol == "release" else self.method or default
        # As long as the method is unknown, it is exact, item or fusion, and only the beams are wrong.
        if wrong := [name for name in given if (method or "exact") not in uses[name]]:
            raise ValueError(f"The method {method or 'exact'} does not use {_options(wrong)}: leave it out.")


def make_parser(description: str, notes: str = "") -> CommandParser:
    """
    Makes the parser of `patchrec evaluate`.

    Args:
        description (`str`):
            The text above the options.
        notes (`str`, *optional*):
            The text below them.
    """
    kinds = (EvaluateArguments, DataArguments)
    return CommandParser("evaluate", kinds, description=description, shown=_SHOWN, notes=notes)


def _options(names: list[str]) -> str:
    return ", ".join(f"--{name}" for name in names)
