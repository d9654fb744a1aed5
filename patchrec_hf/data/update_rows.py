"""Update rows: rows of a log up to a moment and after it, and the mix of both from which a checkpoint continues."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
from datasets import Dataset, concatenate_datasets

from ..runtime.catalog import Catalog
from .examples import make_rows
from .rows import read_frame


_REPLAY_STREAM = 0x5EED
_NO_SPLIT = "test"
"""The split of interactions that are no targets of a set of rows. They are in histories."""


@dataclass(frozen=True)
class UpdateRows:
    """
    The rows of an update.

    Args:
        new ([`~datasets.Dataset`]):
            Rows whose targets are new interactions. Their histories also hold old ones.
        old ([`~datasets.Dataset`], *optional*):
            Rows whose targets are the interactions before. `None` if the log has none.
        validation ([`~datasets.Dataset`], *optional*):
            Rows of the latest interactions, which nothing is trained on.
    """

    new: Dataset
    old: Dataset | None = None
    validation: Dataset | None = None


def show_moment(seconds: int) -> str:
    """Returns a moment as text, in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def rows_since(
    interactions: pl.DataFrame,
    catalog: Catalog,
    since: int,
    max_history: int = 100,
    targets_per_row: int = 1,
    validation_share: float = 0.0,
    min_history: int = 3,
) -> UpdateRows:
    """
    Makes the rows of an update from a whole log.

    Args:
        interactions (`polars.DataFrame`):
            Old and new interactions, as [`order_interactions`] returns them, with `timestamp`.
        catalog ([`Catalog`]):
            Holds every item of them.
        since (`int`):
            Interactions from this moment on are new; whole seconds since 1970 UTC.
        max_history, targets_per_row, min_history:
            See [`make_rows`].
        validation_share (`float`, *optional*, defaults to `0.0`):
            Share of the new interactions, the latest ones, that become validation rows.

    Returns:
        [`UpdateRows`]

    Raises:
        ValueError: If there is no `timestamp`, no interaction is new, the share is not at least 0 and below 1, or it
            leaves nothing to train on or to validate.
        ValueError, KeyError: As [`make_rows`] does.
    """
    if not 0 <= validation_share < 1:
        raise ValueError(f"`validation_share` must be at least 0 and below 1, got {validation_share}.")
    if "timestamp" not in interactions.columns:
        raise ValueError(
            "The interactions have no times, so nothing tells new ones from old ones. An update needs the column "
            f"'timestamp'; the columns are {interactions.columns}."
        )
    times = interactions["timestamp"].cast(pl.Int64)
    new_times = np.sort(times.filter(times >= since).to_numpy())
    if len(new_times) == 0:
        latest = show_moment(int(times.to_numpy().max()))
        raise ValueError(
            f"The log has no new interactions: its latest is of {latest}, and new ones begin at "
            f"{show_moment(since)}. Give the log with the interactions since then, or an earlier moment."
        )
    settings: dict[str, Any] = {"max_history": max_history, "min_history": min_history}
    settings["targets_per_row"] = targets_per_row
    last_trained = new_times[max(int(len(new_times) * (1 - validation_share)) - 1, 0)]
    if validation_share > 0 and last_trained == new_times[-1]:
        raise ValueError(
            f"`validation_share={validation_share}` leaves no validation rows: the {len(new_times)} new interactions "
            "share one time, or are too few. Give more new interactions, a larger share, or none."
        )
    is_old, is_trained = times < since, (times >= since) & (times <= last_trained)
    labels = {"old": pl.when(is_old).then(pl.lit("train")).otherwise(pl.lit(_NO_SPLIT))}
    labels["new"] = (
        pl.when(is_old).then(pl.lit(_NO_SPLIT)).when(is_trained).then(pl.lit("train")).otherwise(pl.lit("validation"))
    )
    kept = ("train", "validation") if validation_share > 0 else ("train",)
    new = make_rows(interactions.with_columns(split=labels["new"]), catalog, **settings, splits=kept)
    old = None
    if (is_old & (interactions["position"] >= max(1, min_history))).any():
        old = make_rows(interactions.with_columns(split=labels["old"]), catalog, **settings, splits=("train",))
    return UpdateRows(new["train"], None if old is None else old["train"], new.get("validation"))


def mix_replay(new: Dataset, old: Dataset | None, replay_share: float, seed: int) -> Dataset:
    """
    Mixes new rows with a sample of old ones, so that a model that learns further does not forget. The draw is a pure
    function of the seed and of the numbers of targets.

    Args:
        new, old ([`~datasets.Dataset`], *optional*):
            Rows.
        replay_share (`float`):
            Share of old targets among all targets of the mix. Whole rows are drawn, until they hold as many. All old
            rows are taken if they hold fewer.
        seed (`int`):
            Seed of the draw.

    Returns:
        [`~datasets.Dataset`]: all new rows, then the drawn ones in their order.

    Raises:
        ValueError: If the share is not at least 0 and below 1, or there are no old rows for it.
    """
    if not 0 <= replay_share < 1:
        raise ValueError(f"`replay_share` must be at least 0 and below 1, got {replay_share}.")
    if replay_share == 0:
        return new
    if old is None:
        raise ValueError(
            f"`replay_share={replay_share}` replays old rows, but the log has no interactions before the new ones. "
            "Give the whole log, or `replay_share` 0."
        )
    wanted = replay_share / (1 - replay_share) * count_targets(new).sum()
    return concatenate_datasets([new, old.select(draw_rows(count_targets(old), wanted, seed))])


def draw_rows(sizes: np.ndarray, wanted: float, seed: int) -> np.ndarray:
    """
    Draws rows until they hold as many targets as wanted.

    Args:
        sizes (`numpy.ndarray` of shape `(n,)`, int64):
            Number of targets of each row.
        wanted (`float`):
            Number of targets. All rows are drawn if they hold fewer.
        seed (`int`):
            Seed of the draw.

    Returns:
        `numpy.ndarray`, int64: row numbers, ascending. At least one row is drawn.
    """
    order = np.random.default_rng([_REPLAY_STREAM, seed]).permutation(len(sizes))
    num_drawn = int(np.searchsorted(np.cumsum(sizes[order]), wanted)) + 1
    return np.sort(order[:num_drawn])


def count_targets(rows: Dataset) -> np.ndarray:
    """
    Counts the targets of rows.

    Args:
        rows ([`~datasets.Dataset`]):
            Rows.

    Returns:
        `numpy.ndarray` of shape `(n,)`, int64: number of targets of each row.
    """
    return read_frame(rows, "target_positions")["target_positions"].list.len().to_numpy().astype(np.int64)
