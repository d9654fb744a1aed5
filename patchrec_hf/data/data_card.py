"""The data card: describes a prepared data set by the counts of the paper's Table 1 and some more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..runtime.catalog import Catalog
from ..runtime.title_order import num_prefix_titles
from ..runtime.title_tokens import tokenize_titles
from .balance import find_heavy_users
from .filters import FilterStep, report_steps
from .history_facts import history_facts
from .preparation import PreparedData
from .splits import SPLITS
from .titles import find_faults


logger = logging.get_logger(__name__)

_ENOUGH_USERS = 200


@dataclass(frozen=True, eq=False)
class DataCard:
    """
    A description of a prepared data set, made by [`describe_data`].

    Args:
        name (`str`):
            Name of the data set.
        counts (`Mapping[str, float]`):
            Counts and averages, each under a text that describes it.
        steps (`tuple[FilterStep, ...]`):
            Counts after each filter.
        splits (`polars.DataFrame`):
            One row per split: `split`, `users` and `interactions` (how many), `from` and `to` (dates in UTC, if the
            interactions have times), `cold_share` (share of the split's interactions whose item does not occur in
            train).
        title_lengths (`numpy.ndarray` of shape `(num_items,)`, *optional*):
            Tokens per title.
        warnings (`tuple[str, ...]`, *optional*, defaults to `()`):
            Facts that may spoil training or metrics: few test users, few users with much of the training data, and
            titles that need cleaning.
    """

    name: str
    counts: Mapping[str, float]
    steps: tuple[FilterStep, ...]
    splits: pl.DataFrame
    title_lengths: np.ndarray | None = None
    warnings: tuple[str, ...] = ()

    def to_markdown(self) -> str:
        """Returns the card as Markdown."""
        rows = [f"| {name} | {_format(value)} |" for name, value in self.counts.items()]
        columns = [f"{name} (UTC)" if name in ("from", "to") else name for name in self.splits.columns]
        splits = [f"| {' | '.join(map(_format, row))} |" for row in self.splits.iter_rows()]
        parts = [
            f"# {self.name}",
            "\n".join(["| | |", "|---|---|", *rows]),
            "\n".join([f"| {' | '.join(columns).replace('_', ' ')} |", "|---" * len(columns) + "|", *splits]),
        ]
        if self.steps:
            parts.append(report_steps(list(self.steps)))
        if self.warnings:
            parts.append("\n".join(["Warnings:", "", *(f"- {warning}" for warning in self.warnings)]))
        return "\n\n".join(parts) + "\n"

    def plot_title_lengths(self, path: str | Path) -> None:
        """
        Draws a bar chart: for each number of tokens, how many titles have it.

        Args:
            path (`str` or `pathlib.Path`):
                Image file to write. Its extension selects the format.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If the card was made without a tokenizer.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError('`plot_title_lengths` needs matplotlib: pip install "patchrec-hf[plots]".') from error
        if self.title_lengths is None:
            raise ValueError("The data card holds no title lengths to plot. Pass `tokenizer` to `describe_data`.")
        figure = Figure(figsize=(7, 3.5), layout="constrained")
        axes = figure.add_subplot()
        axes.bar(*np.unique(self.title_lengths, return_counts=True), color="#4c72b0")
        mean = float(self.title_lengths.mean())
        axes.axvline(mean, color="#333333", linestyle="--", label=f"mean {mean:.1f}")
        axes.set(xlabel="tokens per title", ylabel="items", title=self.name)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=150)


def describe_data(data: PreparedData, tokenizer: PreTrainedTokenizerBase | None = None) -> DataCard:
    """
    Describes a prepared data set, and logs warnings about it.

    Args:
        data ([`PreparedData`]):
            The data set to describe.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The backbone's tokenizer. If given, the card also counts title tokens.

    Returns:
        [`DataCard`]
    """
    interactions, catalog = data.interactions, data.catalog
    num_users, num_rows = interactions["user_id"].n_unique(), len(interactions)
    counts: dict[str, float] = {
        "users": num_users,
        "items in the catalog": len(catalog),
        "items with interactions": interactions["item_id"].n_unique(),
        "interactions": num_rows,
        "average interactions of a user": num_rows / num_users,
        "interactions of a user with an item for another time, share": 1
        - len(interactions.select("user_id", "item_id").unique()) / num_rows,
        "items that share their title with another": catalog.num_shared_titles(),
    }
    if "timestamp" in interactions.columns:
        is_tied = (pl.col("position") > 0) & (pl.col("timestamp") == pl.col("timestamp").shift(1))
        counts["interactions at the time of the user's previous one, share"] = interactions.select(
            is_tied.fill_null(False).mean()
        ).item()
    counts |= history_facts(interactions)
    lengths = None
    if tokenizer is not None:
        lengths, num_prefixes = _count_tokens(catalog, tokenizer)
        counts["average title tokens"] = float(lengths.mean())
        counts["longest title, tokens"] = int(lengths.max())
        counts["titles that begin another title"] = num_prefixes
    splits = _describe_splits(interactions)
    warnings = [*_find_few_users(splits), *_find_title_faults(data.items["title"])]
    if heavy_users := find_heavy_users(interactions):
        warnings.append(heavy_users)
    for warning in warnings:
        logger.warning(warning)
    return DataCard(data.name, counts, data.steps, splits, lengths, tuple(warnings))


def _find_few_users(splits: pl.DataFrame) -> list[str]:
    num_users = dict(splits.select("split", "users").iter_rows())["test"]
    if num_users >= _ENOUGH_USERS:
        return []
    return [
        f"Only {num_users} users have test interactions. Metrics of fewer than {_ENOUGH_USERS} users vary much by "
        "chance, so read them with their intervals, or choose earlier `cuts` of the split."
    ]


def _find_title_faults(titles: pl.Series) -> list[str]:
    # A title is shown as Python writes it, so that white space is seen, and in a code span, so that markup is.
    return [
        f"{fault.capitalize()}: {len(faulty):,}, such as `{_shorten(faulty[0])!r}`. {advice}"
        for fault, advice, faulty in find_faults(titles)
    ]


def _shorten(title: str) -> str:
    return title if len(title) <= 60 else f"{title[:57]}..."


def _count_tokens(catalog: Catalog, tokenizer: PreTrainedTokenizerBase) -> tuple[np.ndarray, int]:
    tokens = tokenize_titles(catalog.titles, tokenizer)
    return tokens.lengths, num_prefix_titles(tokens)


def _describe_splits(interactions: pl.DataFrame) -> pl.DataFrame:
    train_items = interactions.filter(pl.col("split") == "train")["item_id"].unique()
    rows = []
    for split in SPLITS:
        part = interactions.filter(pl.col("split") == split)
        num_users = part["user_id"].n_unique()
        row: dict[str, object] = {"split": split, "users": num_users, "interactions": len(part)}
        if "timestamp" in part.columns and len(part):
            row |= {"from": _date(part["timestamp"].min()), "to": _date(part["timestamp"].max())}
        is_cold = ~part["item_id"].is_in(train_items.implode())
        row["cold_share"] = is_cold.sum() / max(len(part), 1)
        rows.append(row)
    return pl.DataFrame(rows)


def _date(seconds: object) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")  # type: ignore[arg-type]


def _format(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
