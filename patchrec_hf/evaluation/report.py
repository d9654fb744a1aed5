"""Evaluation reports: the rank of each target, the metrics, and the settings that they depend on."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from .beyond_accuracy import calibration_table, list_metrics, probability_metrics
from .collapse import describe_collapse
from .comparison import check_same_candidates, check_same_targets, paired_differences
from .metrics import bootstrap_interval, compression_ratios, per_target_metrics
from .top_lists import top_fields


COUNT_COLUMNS = ("title_tokens", "history_tokens", "prompt_tokens")
"""
[`TokenCounts`] of a prompt as it is fed. The columns with the prefix `text_` count the same prompt with every item as
text. All are null for rankers that read no prompts.
"""

RESULT_SCHEMA = {
    "item_rank": pl.Float64,
    "title_rank": pl.Float64,
    "num_ties": pl.Int64,
    "is_exact": pl.Boolean,
    "ends_in_tie": pl.Boolean,
    "num_distinct_scores": pl.Int64,
    "num_best_titles": pl.Int64,
    "tokens_read": pl.Int64,
    **dict.fromkeys(COUNT_COLUMNS, pl.Int64),
    **{f"text_{name}": pl.Int64 for name in COUNT_COLUMNS},
}
"""The columns of [`EvaluationReport.targets`] that a ranking fills."""
PROOF_COLUMNS = ("is_exact", "ends_in_tie")
"""The columns that say what is proven about a ranking. All are null for rankers that prove nothing."""
_NUMPY_TYPES = {pl.Float64: np.float64, pl.Int64: np.int64, pl.Boolean: np.bool_}

_TARGETS_NAME, _REPORT_NAME, _TABLE_NAME = "targets.parquet", "report.json", "report.md"
_FORMER_TARGETS_NAME, _FORMER_COLUMNS = "examples.parquet", {"certified": "is_exact", "num_read": "tokens_read"}
_HISTORY_BUCKETS = (0, 10, 20, 50, 100)


def result_dtype(*names: str, ranking_length: int = 0, list_length: int = 0, has_log_probs: bool = False) -> np.dtype:
    """
    Makes the dtype of a structured array that holds the results of rankings, one entry per target.

    Args:
        *names (`str`):
            The columns of [`RESULT_SCHEMA`] that the ranking fills.
        ranking_length (`int`, *optional*, defaults to `0`):
            If above 0, a field `ranked_items` holds this many catalog indices per target.
        list_length (`int`, *optional*, defaults to `0`):
            If above 0, the array has the fields of [`top_fields`], for lists of up to this length.
        has_log_probs (`bool`, *optional*, defaults to `False`):
            Whether the scores of the lists are log-probabilities.
    """
    fields: list[Any] = [(name, _NUMPY_TYPES[RESULT_SCHEMA[name]]) for name in names]
    if ranking_length:
        fields.append(("ranked_items", np.int64, (ranking_length,)))
    if list_length:
        fields += top_fields(list_length, has_log_probs)
    return np.dtype(fields)


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """
    The results of an evaluation for each of n targets, and the settings that they depend on.

    Args:
        targets (`polars.DataFrame` with n rows):
            - `user_id`, `target_id` (int64 or texts): the user, and the target's item id.
            - `history_length` (int64): number of items that the row holds before the target.
            - `is_cold` (bool): whether the training rows lack the target; null if no training rows were given.
            - `item_rank` (float64): the target's rank; 1 is first, infinity is beyond the ranking's end. Items with
              equal scores, such as items of one title, share the mean of their ranks (see [`tie_width`]). So a target
              that ties with the ranking's last place can have a rank beyond it. Protocols other than the strict one
              rank lists as they are.
            - `title_rank` (float64): the rank of the target's title in the list of titles, which holds each title
              once (by the method `"diverse"`, possibly several times); titles with equal scores share the mean.
            - `num_ties` (int64): number of items that share the target's rank, including the target.
            - `is_exact` (bool): whether the ranking is proven to be exact; null for other rankers, and for the
              method `"diverse"`, which proves nothing.
            - `ends_in_tie` (bool): whether the ranking leaves out what ties with its last place, so that other lists
              are equally good; null where `is_exact` is.
            - `num_distinct_scores`, `num_best_titles` (int64): the number of different scores among the best titles,
              and the number of these titles, 20 at most; null for other rankers. A model that scores all titles alike
              has 1 score.
            - `tokens_read` (int64): title tokens that the model read for the ranking; null for other rankers.
            - [`COUNT_COLUMNS`] (int64), and the same columns with the prefix `text_`.
            - `ranked_ids` (list of int64 or of texts), if rankings were kept: item ids, best first.
            - `top_ids` (list of int64 or of texts): ids of the best items, best first, 20 at most. A list of titles
              holds the first item of each.
            - `top_place` (int64): place of the target, or of its title, in this list; null if it is not there.
            - `top_users` (list of int64), if training rows were given: how many training users have each of these
              items. `history_users` (float64): the mean of this number over the items of the history.
            - `top_log_probs` (list of float32), if scores are log-probabilities: one for each of `top_ids`, or for
              its title in a list of titles. `log_prob` (float64): the target's own; null if the ranking ended before
              it. Items that share a title share its probability equally.

            Reports that earlier versions saved may lack the columns from `top_ids` on, `ends_in_tie`,
            `num_distinct_scores` and `num_best_titles`.
        settings (`dict[str, Any]`):
            JSON-ready: data set, protocol, seeds, versions and all other values that the results depend on.
        ks (`tuple[int, ...]`, *optional*, defaults to `(10, 20)`):
            Cut-offs of the tables.
        depth (`float`, *optional*, defaults to infinity):
            Length of the rankings; infinity if whole catalogs were ranked. A target beyond this depth has the rank
            infinity, so no cut-off can be larger.
        only_at_depth (`bool`, *optional*, defaults to `False`):
            Whether the rankings have metrics at the cut-off `depth` alone. The method `"diverse"` decodes a list of
            another length with other titles in another order, so a shorter list cannot be read from a longer one.

    Raises:
        ValueError: If there is no cut-off, or one is larger than `depth`, or differs from it and there is
            `only_at_depth`.
    """

    targets: pl.DataFrame
    settings: Mapping[str, Any]
    ks: tuple[int, ...] = (10, 20)
    depth: float = math.inf
    only_at_depth: bool = False

    def __post_init__(self) -> None:
        self._check_depth(self.ks)

    @property
    def examples(self) -> pl.DataFrame:
        """Former name of `targets`."""
        warnings.warn("`EvaluationReport.examples` is now called `targets`.", FutureWarning, stacklevel=2)
        return self.targets

    def with_settings(self, **settings: Any) -> EvaluationReport:
        """Returns the same report with further settings."""
        return replace(self, settings={**self.settings, **settings})

    def metrics(self, ks: Sequence[int] | None = None) -> dict[str, float]:
        """
        Computes means over all targets.

        Args:
            ks (`Sequence[int]`, *optional*):
                Cut-offs; the report's own if not given.

        Returns:
            `dict[str, float]`:
                - `hr@k`, `ndcg@k` and `mrr@k` by item rank, and with the prefix `title_` by title rank.
                - `tied_share`: the share of targets that share their rank with other items.
                - For models whose rankings can be proven: `exact_share`, and `ends_in_tie_share`, the share of
                  rankings whose last place ties with what they leave out. Where it is above 0, an exact ranking is
                  one of several that are equally good.
                - For models that read prompts: the ratios of tokens before compression to tokens after it:
                  `compression_ratio` (titles and patches, as the paper counts), `compression_ratio_history` (with
                  separators) and `compression_ratio_prompt` (the whole prompt).

        Raises:
            ValueError: If there is no cut-off, or one is larger than `depth`, or differs from it and there is
                `only_at_depth`.
        """
        ks = self.ks if ks is None else ks
        self._check_depth(ks)
        values = self._values(self.targets, ks)
        metrics = {name: float(column.mean()) for name, column in values.items()}
        if self.targets["is_exact"].null_count() == 0:
            metrics["exact_share"] = float(self.targets["is_exact"].to_numpy().mean())
            if "ends_in_tie" in self.targets.columns:
                metrics["ends_in_tie_share"] = float(self.targets["ends_in_tie"].to_numpy().mean())
        metrics["tied_share"] = float((self.targets["num_ties"] > 1).to_numpy().mean())
        if self.targets[COUNT_COLUMNS[0]].null_count() == 0:
            fed = self.targets.select(COUNT_COLUMNS).to_numpy()
            as_text = self.targets.select(f"text_{name}" for name in COUNT_COLUMNS).to_numpy()
            metrics |= compression_ratios(fed, as_text)
        return metrics

    def beyond_accuracy(self, ks: Sequence[int] | None = None) -> dict[str, float]:
        """
        Computes what the lists of the best k items are like, and what the scores are worth as probabilities.

        Args:
            ks (`Sequence[int]`, *optional*):
                Cut-offs; the report's own if not given. Those above 20 are skipped, because reports keep 20 items of
                each list.

        Returns:
            `dict[str, float]`, without what the report cannot know:
                - `coverage@k`: the share of the catalog that is in any list.
                - `novelty@k`: the mean self-information of the listed items, in bits: -log2 of the share of training
                  users who have the item (Zhou et al., "Solving the apparent diversity-accuracy dilemma of recommender
                  systems", PNAS 2010). An item that no training user has counts as if one had it.
                - `popularity_bias@k`: the mean number of training users of the listed items (the average
                  recommendation popularity of Abdollahpouri, Burke and Mobasher, "Managing Popularity Bias in
                  Recommender Systems with Personalized Re-ranking", FLAIRS 2019), divided by this mean for the items
                  of the histories. Above 1, the lists are more popular than what these users chose.
                - `calibration_error`: how far the probabilities of the listed items are from the shares of them that
                  were hits. It is the mean over the bins of [`EvaluationReport.calibration`], weighted by their items
                  (the expected calibration error of Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated
                  Probabilities Using Bayesian Binning", AAAI 2015).
                - `log_loss`: the mean of -log p(target), in nats.

        Raises:
            ValueError: As [`EvaluationReport.metrics`] does.
        """
        ks = self.ks if ks is None else ks
        self._check_depth(ks)
        return {**list_metrics(self.targets, self.settings, ks), **probability_metrics(self.targets)}

    def calibration(self) -> pl.DataFrame:
        """
        Compares the probabilities of all listed items (up to 20 for each target) with how often they were the target.
        The probabilities fall into bins whose bounds are half powers of ten, because most items have a small one.

        Returns:
            `polars.DataFrame` with a row for each bin that holds an item: its bounds `low` and `high`, `num_items`,
            `num_hits` (how many of them were the target), `mean_probability` and `hit_share`.

        Raises:
            ValueError: If the report holds no log-probabilities.
        """
        if "top_log_probs" not in self.targets.columns:
            raise ValueError(
                f"The report of {self.settings.get('ranker')} holds no log-probabilities. Evaluate a scorer that has "
                "a method `log_probs`, or a model by its item head, or by titles with the protocol 'strict' and "
                "`length_penalty=0`. Earlier versions of the library did not keep them."
            )
        return calibration_table(self.targets)

    def intervals(self) -> pl.DataFrame:
        """
        Returns every metric with its interval, for all targets and for slices of them: warm targets, cold targets, and
        ranges of history lengths.

        Returns:
            `polars.DataFrame` with the columns `slice`, `num_targets`, `num_users`, `metric`, `value`, and the bounds
            `low` and `high` of the value's 95% interval by users (see [`bootstrap_interval`]).
        """
        return self._intervals

    @cached_property
    def _intervals(self) -> pl.DataFrame:
        rows = []
        for name, targets in self._slices():
            values = self._values(targets, self.ks)
            low, high = bootstrap_interval(np.column_stack(list(values.values())), targets["user_id"].to_numpy())
            sizes = {"slice": name, "num_targets": len(targets), "num_users": targets["user_id"].n_unique()}
            for number, (metric, column) in enumerate(values.items()):
                rows.append(
                    {**sizes, "metric": metric, "value": column.mean(), "low": low[number], "high": high[number]}
                )
        return pl.DataFrame(rows)

    def compare(self, other: EvaluationReport) -> pl.DataFrame:
        """
        Compares with another run on the same targets.

        Args:
            other ([`EvaluationReport`]):
                The other run.

        Returns:
            `polars.DataFrame` with the columns `metric`, `this`, `other`, `difference` (this minus other), and the
            bounds `low` and `high` of the difference's 95% interval by paired bootstrap over users. If the interval
            holds 0, the two runs may be equally good.

        Raises:
            ValueError: As [`EvaluationReport.check_comparable`] of the other run does.
        """
        other.check_comparable(self.targets, self.ks, self.settings.get("candidates"))
        ours, theirs = self._values(self.targets, self.ks), self._values(other.targets, self.ks)
        return paired_differences(ours, theirs, self.targets["user_id"].to_numpy())

    def check_comparable(
        self, targets: pl.DataFrame, ks: Sequence[int], candidates: Mapping[str, Any] | None = None
    ) -> None:
        """
        Checks that another run can be compared with this one. This needs the other run's targets but not its results,
        so it can be checked before hours of ranking.

        Args:
            targets (`polars.DataFrame`):
                `user_id`, `target_id` and `history_length` of the other run, in its order.
            ks (`Sequence[int]`):
                The cut-offs of the other run.
            candidates (`Mapping[str, Any]`, *optional*):
                The setting `candidates` of the other run; `None` if it ranks the whole catalog.

        Raises:
            ValueError: If the two runs do not rank the same targets in the same order, or rank them among other
                candidates, or this report has no metrics at a cut-off.
        """
        self._check_depth(ks)
        check_same_candidates(candidates, self.settings.get("candidates"))
        check_same_targets(targets, self.targets)

    def to_markdown(self) -> str:
        """Formats a table of the results with a row for each slice, and then the settings."""
        lines = ["# Evaluation"]
        summary = [f"{name} {value:.3f}" for name, value in self.metrics().items() if "@" not in name]
        table = self.intervals()
        metrics = [name for name in table["metric"].unique(maintain_order=True) if not name.startswith("title_mrr")]
        lines += ["", f"Over all targets: {', '.join(summary)}.", ""]
        if candidates := self.settings.get("candidates"):
            lines += [
                f"**Targets were ranked among {candidates['mean']:g} candidates each (the mean), and not among all "
                f"{self.settings.get('num_items', 0):,} items. So these metrics are higher than metrics of a whole "
                "catalog, and cannot be compared with them.**",
                "",
            ]
        collapse = describe_collapse(self.targets)
        lines += [] if collapse is None else [f"**{collapse}**", ""]
        lines += ["Means with their 95% intervals, by resampling users.", ""]
        lines += [f"| slice | targets | users | {' | '.join(metrics)} |", "|---" * (3 + len(metrics)) + "|"]
        for (name, num_targets, num_users), part in table.group_by(
            "slice", "num_targets", "num_users", maintain_order=True
        ):
            by_metric = {row["metric"]: row for row in part.iter_rows(named=True)}
            cells = [_interval_cell(by_metric[metric]) for metric in metrics]
            lines.append(f"| {name} | {num_targets} | {num_users} | {' | '.join(cells)} |")
        lines += self._beyond_accuracy_lines()
        lines += ["", "| setting | value |", "|---|---|"]
        lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in self.settings.items()]
        return "\n".join(lines) + "\n"

    def _beyond_accuracy_lines(self) -> list[str]:
        values = self.beyond_accuracy()
        if not values:
            return []
        lines = ["", "Beyond accuracy:", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {value:.4f} |" for name, value in values.items()]
        if "calibration_error" in values:
            lines += ["", "Probabilities of the listed items, and how often they were the target:", ""]
            lines += ["| from | to | items | hits | mean probability | share of hits |", "|---" * 6 + "|"]
            for low, high, *counts, mean, share in self.calibration().iter_rows():
                numbers = " | ".join(f"{count:,}" for count in counts)
                lines.append(f"| {low:.2g} | {high:.2g} | {numbers} | {mean:.5f} | {share:.5f} |")
        return lines

    def save(self, directory: str | Path) -> None:
        """
        Writes `report.json` (settings and metrics), `report.md` (tables) and `targets.parquet` (one row per target).

        Args:
            directory (`str` or `pathlib.Path`):
                Where to write; made if it does not exist. Files with these names are replaced.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        values = {
            "settings": dict(self.settings),
            "ks": self.ks,
            "depth": None if math.isinf(self.depth) else self.depth,
            "only_at_depth": self.only_at_depth,
            "metrics": self.metrics(),
            "beyond_accuracy": self.beyond_accuracy(),
            "intervals": [
                {key: None if value != value else value for key, value in row.items()}  # JSON knows no NaN
                for row in self.intervals().iter_rows(named=True)
            ],
        }
        # Older files are replaced only after all three new ones are complete.
        part = {name: directory / f"{name}.part" for name in (_TARGETS_NAME, _TABLE_NAME, _REPORT_NAME)}
        self.targets.write_parquet(part[_TARGETS_NAME])
        part[_TABLE_NAME].write_text(self.to_markdown(), encoding="utf-8")
        part[_REPORT_NAME].write_text(json.dumps(values, indent=2, ensure_ascii=False), encoding="utf-8")
        for name, path in part.items():
            path.replace(directory / name)

    @classmethod
    def load(cls, directory: str | Path) -> EvaluationReport:
        """
        Reads a report that [`EvaluationReport.save`] wrote.

        Raises:
            OSError: If the directory holds no report.
        """
        directory = Path(directory)
        values = json.loads((directory / _REPORT_NAME).read_text(encoding="utf-8"))
        depth = math.inf if values["depth"] is None else values["depth"]
        path = directory / _TARGETS_NAME
        targets = pl.read_parquet(path if path.is_file() else directory / _FORMER_TARGETS_NAME)
        targets = targets.rename(_FORMER_COLUMNS, strict=False)
        return cls(targets, values["settings"], tuple(values["ks"]), depth, values.get("only_at_depth", False))

    def _check_depth(self, ks: Sequence[int]) -> None:
        if len(ks) == 0:
            raise ValueError("`ks` must hold at least one cut-off.")
        if self.only_at_depth and set(ks) != {self.depth}:
            other = next(k for k in ks if k != self.depth)
            raise ValueError(
                f"The titles were decoded with {self.depth} groups, so they have metrics at the cut-off {self.depth} "
                f"only, got a cut-off of {other}. {other} groups decode other titles in another order: evaluate again "
                f"with `k={other}`."
            )
        if max(ks) > self.depth:
            raise ValueError(
                f"The rankings have {self.depth} ranks, too few for a cut-off of {max(ks)}. Increase `k`, or choose "
                "smaller cut-offs."
            )

    @staticmethod
    def _values(targets: pl.DataFrame, ks: Sequence[int]) -> dict[str, np.ndarray]:
        by_title = per_target_metrics(targets["title_rank"].to_numpy(), ks)
        return {
            **per_target_metrics(targets["item_rank"].to_numpy(), ks),
            **{f"title_{name}": values for name, values in by_title.items()},
        }

    def _slices(self) -> list[tuple[str, pl.DataFrame]]:
        length, stops = pl.col("history_length"), [*_HISTORY_BUCKETS[1:], None]
        slices = [("all", pl.lit(True)), ("warm", ~pl.col("is_cold")), ("cold", pl.col("is_cold"))]
        for start, stop in zip(_HISTORY_BUCKETS, stops, strict=True):
            name = f"history ≥ {start}" if stop is None else f"history {start}–{stop - 1}"
            slices.append((name, (length >= start) & (length < stop if stop else True)))
        parts = [(name, self.targets.filter(condition)) for name, condition in slices]
        return [(name, part) for name, part in parts if len(part) > 0]


def _cell(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _interval_cell(row: Mapping[str, Any]) -> str:
    if row["low"] != row["low"]:  # NaN: a slice with one user has no interval
        return f"{row['value']:.3f}"
    return f"{row['value']:.3f} ({row['low']:.3f}–{row['high']:.3f})"
