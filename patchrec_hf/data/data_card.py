"""The data card: describes a prepared data set by the counts of the paper's Table 1 and some more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
from transformers import PreTrainedTokenizerBase

from ..runtime.catalog import Catalog, tokenize_titles
from .filters import FilterStep, report_steps
from .preparation import PreparedData
from .splits import SPLITS


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
            One row per split: `split`, `interactions`, `from` and `to` (dates, if the interactions have times),
            `cold_share` (share of the split's interactions whose item does not occur in train).
        title_lengths (`numpy.ndarray` of shape `(num_items,)`, *optional*):
            Tokens per title.
    """

    name: str
    counts: Mapping[str, float]
    steps: tuple[FilterStep, ...]
    splits: pl.DataFrame
    title_lengths: np.ndarray | None = None

    def to_markdown(self) -> str:
        """Returns the card as Markdown."""
        rows = [f"| {name} | {_format(value)} |" for name, value in self.counts.items()]
        columns = self.splits.columns
        splits = [f"| {' | '.join(map(_format, row))} |" for row in self.splits.iter_rows()]
        parts = [
            f"# {self.name}",
            "\n".join(["| | |", "|---|---|", *rows]),
            "\n".join([f"| {' | '.join(columns).replace('_', ' ')} |", "|---" * len(columns) + "|", *splits]),
        ]
        return "\n\n".join([*parts, *([report_steps(list(self.steps))] if self.steps else [])]) + "\n"

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
    Describes a prepared data set.

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
    lengths = None
    if tokenizer is not None:
        lengths, num_prefixes = _count_tokens(catalog, tokenizer)
        counts["average title tokens"] = float(lengths.mean())
        counts["longest title, tokens"] = int(lengths.max())
        counts["titles that begin another title"] = num_prefixes
    return DataCard(data.name, counts, data.steps, _describe_splits(interactions), lengths)


def _count_tokens(catalog: Catalog, tokenizer: PreTrainedTokenizerBase) -> tuple[np.ndarray, int]:
    tokens = tokenize_titles(catalog.titles, tokenizer)
    return tokens.lengths, tokens.num_prefix_titles()


def _describe_splits(interactions: pl.DataFrame) -> pl.DataFrame:
    train_items = interactions.filter(pl.col("split") == "train")["item_id"].unique()
    rows = []
    for split in SPLITS:
        part = interactions.filter(pl.col("split") == split)
        row: dict[str, object] = {"split": split, "interactions": len(part)}
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
