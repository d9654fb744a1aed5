"""Evaluation of recommenders that score the whole catalog, such as the baselines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Protocol, runtime_checkable

import numpy as np
from datasets import Dataset

from ..data.rows import TIMES_COLUMN
from ..runtime.best_items import best_items, rows_at_once
from ..runtime.catalog import Catalog
from ..runtime.progress import progress_bar
from .protocol import STRICT_PROTOCOL
from .report import EvaluationReport, result_dtype
from .score_ranks import TitleGroups
from .targets import find_targets, seen_items
from .top_lists import LIST_LENGTH, fill_top, log_probs_of, places_of


class Scorer(Protocol):
    """Any recommender that scores the whole catalog, such as the baselines."""

    def score(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """Takes B lists of item ids, and returns scores of shape `(B, num_items)`, in catalog order."""
        ...


@runtime_checkable
class TimedScorer(Protocol):
    """
    A scorer that may read the moment of asking, such as [`~patchrec_hf.baselines.Popularity`] with a window. In an
    evaluation, the moment of asking is the target's own time.
    """

    @property
    def reads_times(self) -> bool:
        """Whether `score` needs `times`."""
        ...

    def score(self, histories: Sequence[Sequence[int]], times: np.ndarray | None = None) -> np.ndarray:
        """
        Takes B lists of item ids, and B moments of asking (int64, whole seconds since 1970 UTC). Returns scores of
        shape `(B, num_items)`, in catalog order. Nothing that happened after a moment may change its scores.
        """
        ...


def reads_times(scorer: object) -> bool:
    """Whether a scorer reads the moment of asking: a [`TimedScorer`] whose `reads_times` is true."""
    return isinstance(scorer, TimedScorer) and scorer.reads_times


def score_at(scorer: Scorer, histories: Sequence[Sequence[int]], times: np.ndarray | None) -> np.ndarray:
    """
    Scores histories at the moments of asking, by a scorer that may or may not read them.

    Args:
        scorer ([`Scorer`] or [`TimedScorer`]):
            The scorer.
        histories (`Sequence[Sequence[int]]`):
            B lists of item ids, oldest first.
        times (`numpy.ndarray` of shape `(B,)`, int64, *optional*):
            The moments, in whole seconds since 1970 UTC.

    Returns:
        `numpy.ndarray` of shape `(B, num_items)`, as the scorer returned it.

    Raises:
        ValueError: If the scorer reads moments, and none are given.
    """
    if not (isinstance(scorer, TimedScorer) and scorer.reads_times):
        return scorer.score(histories)
    if times is None:
        raise missing_times(type(scorer).__name__)
    return scorer.score(histories, times)


def missing_times(name: str) -> ValueError:
    """Returns an error that says what a scorer called `name` lacks, if it reads moments and gets none."""
    return ValueError(
        f"{name} reads the moment of asking of each history, and got none. Pass `times` (whole seconds since 1970 "
        f"UTC). An evaluation takes them from the column `{TIMES_COLUMN}` of its rows; rows have it if their "
        "interactions have the column `timestamp`. Without times, leave out what reads them: the `window` of "
        "`Popularity`, or the fusion's part 'popularity'."
    )


@runtime_checkable
class LogProbScorer(Protocol):
    """A scorer that also gives log-probabilities over the catalog, such as most baselines."""

    def log_probs(self, histories: Sequence[Sequence[int]], times: np.ndarray | None = None) -> np.ndarray:
        """Takes B lists of item ids, and returns log-probabilities `(B, num_items)`. `exp` of each row sums to 1."""
        ...


def checked_scores(scorer: object, scores: np.ndarray, shape: tuple[int, int], method: str = "score") -> np.ndarray:
    """
    Checks that a scorer returned one score for each history and item.

    Args:
        scorer (`object`):
            The scorer, for the error message.
        scores (`numpy.ndarray` of shape `(B, num_items)`):
            Its scores.
        shape (`tuple[int, int]`):
            The expected shape.
        method (`str`, *optional*, defaults to `"score"`):
            The method that returned them, for the error message.

    Returns:
        `numpy.ndarray` of shape `(B, num_items)`, float64: a copy that may be changed.

    Raises:
        ValueError: If the scores have another shape.
    """
    copy = np.array(scores, dtype=np.float64)
    if copy.shape != shape:
        raise ValueError(
            f"{type(scorer).__name__}.{method} returned an array of shape {copy.shape}, expected {shape}: one number "
            "for each history and item."
        )
    return copy


@runtime_checkable
class _CatalogScorer(Protocol):
    """A scorer that knows its catalog, as all baselines do."""

    catalog: Catalog


def check_same_items(own: Catalog, given: Catalog, name: str) -> None:
    """
    Checks that two catalogs hold the same ids in the same order, so that scores by catalog index mean the same items.

    Raises:
        ValueError: If they do not.
    """
    if np.array_equal(own.id_numbers, given.id_numbers):
        return
    problem = "in another order" if set(own.id_numbers) == set(given.id_numbers) else "which are not the same ids"
    raise ValueError(
        f"{name} was fitted on a catalog of {len(own)} items, and the given catalog has {len(given)} items, {problem}."
        f" Scores are in the order of the catalog, so pass the catalog that it was fitted on (`catalog` of {name})."
    )


def evaluate_scorer(
    scorer: Scorer,
    catalog: Catalog,
    dataset: Dataset,
    exclude_seen: bool = False,
    max_rows: int | None = None,
    train_dataset: Dataset | None = None,
    batch_size: int = 256,
    show_progress: bool = True,
) -> EvaluationReport:
    """
    Evaluates a recommender that scores the whole catalog, by the strict protocol. Under a launcher, every process
    evaluates all targets.

    Args:
        scorer ([`Scorer`] or [`TimedScorer`]):
            A fitted baseline, or any object with a `score` method. A [`TimedScorer`] whose `reads_times` is true gets
            the time of each target as the moment of asking. If it has `log_probs` ([`LogProbScorer`]), the report says
            how well these probabilities are calibrated.
        catalog ([`Catalog`]):
            The items that the scorer scores.
        dataset, exclude_seen, max_rows, train_dataset, show_progress:
            See [`evaluate_model`].
        batch_size (`int`, *optional*, defaults to `256`):
            Most histories per call of `score`. Of a large catalog, fewer are scored at a time (see
            [`rows_at_once`]).

    Returns:
        [`EvaluationReport`]

    Raises:
        ValueError: If the data set is empty, a number is out of range, the scores do not have the shape
            `(B, num_items)`, a score is NaN, the scorer has a `catalog` with other items or another order, or it reads
            times and the rows have no timestamps.
        KeyError: If the catalog lacks an item.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if isinstance(scorer, _CatalogScorer):
        check_same_items(scorer.catalog, catalog, type(scorer).__name__)
    targets = find_targets(dataset, catalog, max_rows, train_dataset)
    if reads_times(scorer) and targets.times is None:
        raise missing_times(type(scorer).__name__)
    titles = TitleGroups.from_catalog(catalog)
    length, has_log_probs = min(LIST_LENGTH, len(catalog)), isinstance(scorer, LogProbScorer)
    dtype = result_dtype("item_rank", "title_rank", "num_ties", list_length=length, has_log_probs=has_log_probs)
    parts, batch_size = [], min(batch_size, rows_at_once(len(catalog)))
    with progress_bar(show_progress, total=len(targets), desc="Scoring", unit="target") as progress:
        for start in range(0, len(targets), batch_size):
            numbers = np.arange(start, min(start + batch_size, len(targets)))
            items = targets.items[numbers]
            histories = targets.history_ids(numbers)
            times = None if targets.times is None else targets.times[numbers]
            scores = checked_scores(scorer, score_at(scorer, histories, times), (len(numbers), len(catalog)))
            allowed = np.ones(scores.shape, dtype=bool)
            if exclude_seen:
                for row, seen in enumerate(seen_items(map(catalog.indices_of, histories), items)):
                    allowed[row, seen] = False
            part = np.empty(len(numbers), dtype)
            part["item_rank"], part["title_rank"], part["num_ties"] = titles.ranks(scores, items, allowed)
            best, _ = best_items(np.where(allowed, scores, -np.inf), length)
            places = places_of(best, items)
            if isinstance(scorer, LogProbScorer) and scorer.score == scorer.log_probs:
                fill_top(part, best, places, *log_probs_of(scores, best, items))
            elif isinstance(scorer, LogProbScorer):
                log_probs = checked_scores(scorer, scorer.log_probs(histories, times), scores.shape, "log_probs")
                fill_top(part, best, places, *log_probs_of(log_probs, best, items))
            else:
                fill_top(part, best, places)
            if targets.item_users is not None:
                part["history_users"] = targets.item_users.means([catalog.indices_of(one) for one in histories])
            parts.append(part)
            progress.update(len(numbers))
    settings = {
        "ranker": type(scorer).__name__,
        "k": len(catalog),
        "protocol": asdict(STRICT_PROTOCOL),
        "exclude_seen": exclude_seen,
        "max_rows": max_rows,
    }
    return targets.report(np.concatenate(parts), settings, depth=math.inf)
