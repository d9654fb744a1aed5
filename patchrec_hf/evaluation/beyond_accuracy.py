"""Beyond accuracy: coverage, novelty, popularity bias and calibration of the lists that a recommender gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from .top_lists import LIST_LENGTH


PROBABILITY_EDGES = (0.0, *(10 ** (exponent / 2) for exponent in range(-8, 1)))
"""Bounds of the bins of probabilities: 0, 10⁻⁴, 10⁻³·⁵, …, 10⁰. They are the same for all reports."""


def list_metrics(targets: pl.DataFrame, settings: Mapping[str, Any], ks: Sequence[int]) -> dict[str, float]:
    """
    Computes what lists are like, whether or not they hold their targets. See [`EvaluationReport.beyond_accuracy`].

    Args:
        targets (`polars.DataFrame`):
            Targets of a report.
        settings (`Mapping[str, Any]`):
            Settings of the report.
        ks (`Sequence[int]`):
            Cut-offs. Those above [`LIST_LENGTH`] are skipped.
    """
    metrics: dict[str, float] = {}
    if "top_ids" not in targets.columns:
        return metrics
    for k in (k for k in ks if k <= LIST_LENGTH):
        metrics[f"coverage@{k}"] = targets["top_ids"].list.head(k).explode().n_unique() / settings["num_items"]
        if "top_users" in targets.columns:
            users = targets["top_users"].list.head(k).explode().drop_nulls().to_numpy()
            shares = np.maximum(users, 1) / settings["num_train_users"]
            metrics[f"novelty@{k}"] = float(-np.log2(shares).mean())
            of_histories = targets["history_users"].drop_nulls().to_numpy()
            if of_histories.sum() > 0:
                metrics[f"popularity_bias@{k}"] = float(users.mean() / of_histories.mean())
    return metrics


def probability_metrics(targets: pl.DataFrame) -> dict[str, float]:
    """
    Computes `calibration_error` and, if the log-probability of every target is known, `log_loss`; nothing if the
    scores are no log-probabilities. See [`EvaluationReport.beyond_accuracy`].

    Args:
        targets (`polars.DataFrame`):
            Targets of a report.
    """
    if "top_log_probs" not in targets.columns:
        return {}
    table = calibration_table(targets)
    gaps = np.abs(table["mean_probability"].to_numpy() - table["hit_share"].to_numpy())
    metrics = {"calibration_error": float(np.average(gaps, weights=table["num_items"].to_numpy()))}
    if targets["log_prob"].null_count() == 0:
        metrics["log_loss"] = float(-targets["log_prob"].to_numpy().mean())
    return metrics


def calibration_table(targets: pl.DataFrame) -> pl.DataFrame:
    """
    Compares the probabilities of listed items with how often they were the target. See
    [`EvaluationReport.calibration`].

    Args:
        targets (`polars.DataFrame`):
            Targets of a report, with log-probabilities.
    """
    lengths = targets["top_log_probs"].list.len().to_numpy().astype(np.int64)
    log_probs = targets["top_log_probs"].explode(empty_as_null=False, keep_nulls=False).to_numpy()
    probabilities = np.exp(log_probs.astype(np.float64))
    is_listed = targets["top_place"].is_not_null().to_numpy()
    is_hit = np.zeros(len(probabilities), dtype=bool)
    starts = np.cumsum(lengths) - lengths
    is_hit[starts[is_listed] + targets["top_place"].drop_nulls().to_numpy() - 1] = True
    bins = np.clip(np.digitize(probabilities, PROBABILITY_EDGES) - 1, 0, len(PROBABILITY_EDGES) - 2)
    sizes, hits = (np.bincount(bins, weights, len(PROBABILITY_EDGES) - 1) for weights in (None, is_hit))
    sums = np.bincount(bins, probabilities, len(PROBABILITY_EDGES) - 1)
    filled = np.flatnonzero(sizes)
    return pl.DataFrame(
        {
            "low": np.array(PROBABILITY_EDGES)[filled],
            "high": np.array(PROBABILITY_EDGES)[filled + 1],
            "num_items": sizes[filled].astype(np.int64),
            "num_hits": hits[filled].astype(np.int64),
            "mean_probability": sums[filled] / sizes[filled],
            "hit_share": hits[filled] / sizes[filled],
        }
    )
