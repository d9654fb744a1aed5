"""Top lists: the best items of each target with their log-probabilities, and how many training users know them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from datasets import Dataset

from ..data.examples import rows_to_interactions
from ..runtime.catalog import Catalog
from ..runtime.ids import as_ids


LIST_LENGTH = 20
"""Number of best items that a report keeps for each target at most."""


@dataclass(frozen=True, eq=False)
class ItemUsers:
    """
    How many training users have each item.

    Args:
        counts (`numpy.ndarray` of shape `(num_items,)`, int64):
            Number of users of each item, in catalog order.
        num_users (`int`):
            Number of all training users.
    """

    counts: np.ndarray
    num_users: int

    @classmethod
    def from_rows(cls, dataset: Dataset, catalog: Catalog) -> ItemUsers:
        """Counts the users in training rows. Items that the catalog lacks are skipped."""
        pairs = rows_to_interactions(dataset).select("user_id", "item_id").unique()
        ids = as_ids(pairs["item_id"].to_numpy())
        items = catalog.indices_of(ids[np.isin(ids, catalog.item_ids)])
        return cls(np.bincount(items, minlength=len(catalog)), pairs["user_id"].n_unique())

    def means(self, histories: Sequence[np.ndarray]) -> np.ndarray:
        """
        Returns the mean number of users of the items of each history, float64; NaN for an empty history.

        Args:
            histories (`Sequence[numpy.ndarray]`):
                Catalog indices of B histories.
        """
        lengths = np.fromiter(map(len, histories), dtype=np.int64, count=len(histories))
        rows = np.repeat(np.arange(len(histories)), lengths)
        flat = np.concatenate([np.empty(0, dtype=np.int64), *histories])
        sums = np.bincount(rows, self.counts[flat], minlength=len(histories))
        return np.divide(sums, lengths, out=np.full(len(lengths), np.nan), where=lengths > 0)


def top_fields(length: int, has_log_probs: bool) -> list[Any]:
    """Returns the fields of a structured array that [`fill_top`] fills, and `history_users`."""
    fields: list[Any] = [("top_items", np.int64, (length,)), ("top_place", np.int64), ("history_users", np.float64)]
    if has_log_probs:
        fields += [("top_log_probs", np.float32, (length,)), ("log_prob", np.float64)]
    return fields


def fill_top(
    results: np.ndarray,
    best: np.ndarray,
    places: np.ndarray,
    log_probs: np.ndarray | None = None,
    target_log_probs: np.ndarray | None = None,
) -> None:
    """
    Writes the top lists of B targets.

    Args:
        results (`numpy.ndarray` of shape `(B,)`):
            A structured array with the fields of [`top_fields`].
        best (`numpy.ndarray` of shape `(B, k)`, int64):
            Catalog indices, best first; -1 after the end of a shorter list.
        places (`numpy.ndarray` of shape `(B,)`):
            Place of each target in its list: 1 is first; any number beyond the list or infinity is not in it.
        log_probs (`numpy.ndarray` of shape `(B, k)`, *optional*):
            Log-probabilities of the best items.
        target_log_probs (`numpy.ndarray` of shape `(B,)`, *optional*):
            Log-probabilities of the targets; NaN if unknown.
    """
    length = results["top_items"].shape[1]
    results["top_items"] = -1
    results["top_items"][:, : best.shape[1]] = best[:, :length]
    results["top_place"] = np.where(places <= length, places, 0).astype(np.int64)
    if log_probs is not None:
        results["top_log_probs"] = np.nan
        results["top_log_probs"][:, : best.shape[1]] = log_probs[:, :length]
        results["log_prob"] = target_log_probs


def places_of(best: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Returns the place of each target in its row of `best`, `(B, k)`: 1 is first, and infinity is beyond."""
    is_target = best == items[:, None]
    return np.where(is_target.any(axis=1), is_target.argmax(axis=1) + 1.0, np.inf)


def log_probs_of(log_probs: np.ndarray, best: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the log-probabilities of the best items, `(B, k)`, and of the targets, `(B,)`, out of all items'."""
    return np.take_along_axis(log_probs, best.clip(min=0), axis=1), log_probs[np.arange(len(items)), items]


def top_columns(results: np.ndarray, catalog: Catalog, item_users: ItemUsers | None) -> list[pl.Series]:
    """
    Makes the columns of a report of what [`fill_top`] has written.

    Args:
        results (`numpy.ndarray` of shape `(n,)`):
            The structured array.
        catalog ([`Catalog`]):
            The items.
        item_users ([`ItemUsers`], *optional*):
            The training users of the items.

    Returns:
        `list[polars.Series]`: the columns that [`EvaluationReport`] describes.
    """
    names = results.dtype.names or ()
    top = results["top_items"]
    is_listed = top >= 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(is_listed.sum(axis=1))]), type=pa.int64())

    def lists(name: str, values: np.ndarray) -> pl.Series:
        flat = pa.array(values.tolist() if values.dtype == object else values)
        return pl.Series(name, pl.from_arrow(pa.LargeListArray.from_arrays(offsets, flat)))

    items = top[is_listed]
    columns = [
        lists("top_ids", catalog.item_ids[items]),
        pl.Series("top_place", np.ascontiguousarray(results["top_place"])).replace(0, None),
    ]
    if item_users is not None:
        means = pl.Series("history_users", np.ascontiguousarray(results["history_users"])).fill_nan(None)
        columns += [lists("top_users", item_users.counts[items]), means]
    if "top_log_probs" in names:
        own = pl.Series("log_prob", np.ascontiguousarray(results["log_prob"])).fill_nan(None)
        columns += [lists("top_log_probs", results["top_log_probs"][is_listed]), own]
    return columns
