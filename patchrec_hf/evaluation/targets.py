"""Targets: the items to rank, the histories before them, and the report of their results."""

from __future__ import annotations

import platform
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import polars as pl
from datasets import Dataset

from ..data.row_facts import check_same_catalog
from ..data.rows import (
    ROW_COLUMNS,
    TIMES_COLUMN,
    check_columns,
    check_targets,
    check_times,
    find_bad_row,
    plain_rows,
    read_columns,
    read_frame,
    spaced_rows,
)
from ..runtime.catalog import Catalog
from ..runtime.ids import as_ids, id_numbers
from .comparison import TARGET_COLUMNS
from .report import RESULT_SCHEMA, EvaluationReport
from .top_lists import ItemUsers, top_columns


@dataclass(frozen=True, eq=False)
class Targets:
    """
    The n targets of an evaluation, each with the items before it in its row.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows.
        catalog ([`Catalog`]):
            Catalog that holds every item of the rows.
        rows (`numpy.ndarray` of shape `(n,)`, int64):
            Row number of each target in `dataset`.
        user_ids, ids (`numpy.ndarray` of shape `(n,)`):
            User and item id of each target: int64, or an object array of `str`.
        items (`numpy.ndarray` of shape `(n,)`, int64):
            Catalog index of each target.
        history_lengths (`numpy.ndarray` of shape `(n,)`, int64):
            Number of items before each target.
        is_cold (`numpy.ndarray` of shape `(n,)`, bool, *optional*):
            Whether the training rows lack the target.
        times (`numpy.ndarray` of shape `(n,)`, int64, *optional*):
            Time of each target, in whole seconds since 1970 UTC: the moment of asking. `None` if the rows have no
            timestamps.
        item_users ([`ItemUsers`], *optional*):
            How many training users have each item.
    """

    dataset: Dataset
    catalog: Catalog
    rows: np.ndarray
    user_ids: np.ndarray
    ids: np.ndarray
    items: np.ndarray
    history_lengths: np.ndarray
    is_cold: np.ndarray | None = None
    times: np.ndarray | None = None
    item_users: ItemUsers | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def history_ids(self, numbers: np.ndarray) -> list[list[Any]]:
        """Returns the item ids before each of some targets, oldest first."""
        lengths = self.history_lengths[numbers]
        item_ids = self.dataset.select(self.rows[numbers])["item_ids"]
        return [ids[:length] for ids, length in zip(item_ids, lengths, strict=True)]

    def history_items(self, numbers: np.ndarray) -> list[np.ndarray]:
        """Returns the catalog indices of the items before each of some targets, oldest first."""
        lengths = self.history_lengths[numbers]
        flat = self.catalog.indices_of([item for history in self.history_ids(numbers) for item in history])
        return np.split(flat, np.cumsum(lengths)[:-1])

    def history_times(self, numbers: np.ndarray) -> list[np.ndarray] | None:
        """
        Returns the times of the items before each of some targets, in seconds, oldest first; `None` if the rows have
        no timestamps.
        """
        if self.times is None:
            return None
        lengths = self.history_lengths[numbers]
        timestamps = self.dataset.select(self.rows[numbers])["timestamps"]
        return [np.array(times[:length]) for times, length in zip(timestamps, lengths, strict=True)]

    def frame(self) -> pl.DataFrame:
        """Returns what is ranked, as the columns [`TARGET_COLUMNS`] of a report."""
        values = (self.user_ids.tolist(), self.ids.tolist(), self.history_lengths)
        return pl.DataFrame(dict(zip(TARGET_COLUMNS, values, strict=True)))

    def checksum(self) -> dict[str, int]:
        """Returns a few JSON-ready values that distinguish these targets from others."""
        columns = np.column_stack([id_numbers(self.user_ids), id_numbers(self.ids), self.history_lengths])
        return {"num_targets": len(self), "targets_crc32": zlib.crc32(np.ascontiguousarray(columns).tobytes())}

    def report(
        self, results: np.ndarray, settings: Mapping[str, Any], depth: float, only_at_depth: bool = False
    ) -> EvaluationReport:
        """
        Makes a report of the results.

        Args:
            results (`numpy.ndarray` of shape `(n,)`):
                A structured array whose dtype [`result_dtype`] made. Report columns that it lacks are null.
            settings (`Mapping[str, Any]`):
                JSON-ready values that the results depend on.
            depth (`float`):
                Length of the rankings; infinity if the whole catalog was ranked.
            only_at_depth (`bool`, *optional*, defaults to `False`):
                See [`EvaluationReport`].
        """
        nulls = [None] * len(self)
        columns = [
            *self.frame().get_columns(),
            pl.Series("is_cold", nulls if self.is_cold is None else self.is_cold, dtype=pl.Boolean),
        ]
        filled = results.dtype.names or ()
        for name, dtype in RESULT_SCHEMA.items():
            values = np.ascontiguousarray(results[name]) if name in filled else nulls
            columns.append(pl.Series(name, values, dtype=dtype))
        if "ranked_items" in filled:
            ranked = results["ranked_items"]
            ranked_ids = self.catalog.item_ids[ranked]
            ranked_ids[ranked < 0] = None if self.catalog.has_text_ids else -1
            kind = pl.List(pl.String if self.catalog.has_text_ids else pl.Int64)
            columns.append(pl.Series("ranked_ids", ranked_ids.tolist(), dtype=kind))
        if "top_items" in filled:
            columns += top_columns(results, self.catalog, self.item_users)
        sizes = {"num_items": len(self.catalog)}
        if self.item_users is not None:
            sizes["num_train_users"] = self.item_users.num_users
        cut_offs = () if only_at_depth else tuple(cutoff for cutoff in (10, 20) if cutoff <= depth)
        versions = {name: version(name) for name in ("patchrec-hf", "torch", "transformers")}
        return EvaluationReport(
            pl.DataFrame(columns),
            {
                **settings,
                "ties": "share the mean of their ranks",
                "num_targets": len(self),
                **sizes,
                "versions": {"python": platform.python_version(), **versions},
            },
            ks=cut_offs or (int(depth),),
            depth=depth,
            only_at_depth=only_at_depth,
        )


def find_targets(
    dataset: Dataset, catalog: Catalog, max_rows: int | None = None, train_dataset: Dataset | None = None
) -> Targets:
    """
    Finds the targets of a data set.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows. Rows without a target are skipped.
        catalog ([`Catalog`]):
            Catalog that holds every target.
        max_rows (`int`, *optional*):
            Number of rows to read, evenly spaced over the data set. All if not given.
        train_dataset ([`~datasets.Dataset`], *optional*):
            The training rows. A target that they lack is cold, and the users of each item are counted in them.

    Returns:
        [`Targets`]

    Raises:
        TypeError: If ids are neither whole numbers nor texts.
        ValueError: If the rows were made with another catalog, there is no target, a target position lies outside its
            row, a row has other than one timestamp for each item, or `max_rows` is less than 1.
        KeyError: If the catalog lacks a target.
    """
    dataset = plain_rows(dataset)
    check_columns(dataset)
    check_same_catalog(dataset, catalog)
    rows = spaced_rows(len(dataset), max_rows)
    has_times = TIMES_COLUMN in dataset.column_names
    columns = [*ROW_COLUMNS, TIMES_COLUMN] if has_times else list(ROW_COLUMNS)
    frame = read_frame(dataset.select(rows), *columns)
    frame = frame.with_columns(pl.col("target_positions").list.drop_nulls(), pl.Series("row", rows))
    frame = frame.filter(pl.col("target_positions").list.len() > 0)
    if len(frame) == 0:
        raise ValueError("The data set to rank has rows, but no target positions.")
    bad = find_bad_row(frame["target_positions"], frame["item_ids"].list.len())
    if bad is not None:
        check_targets(frame.row(bad, named=True))
    times = {}
    if has_times:
        num_times = frame[TIMES_COLUMN].list.drop_nulls().list.len()
        is_timed = (num_times == frame["item_ids"].list.len()).fill_null(False)
        if not is_timed.all():
            check_times(frame.row(is_timed.index_of(False), named=True))
        times = {"time": pl.col(TIMES_COLUMN).list.gather(pl.col("target_positions"))}
    targets = frame.select(
        "row",
        "user_id",
        history_length=pl.col("target_positions").cast(pl.List(pl.Int64)),
        target_id=pl.col("item_ids").list.gather(pl.col("target_positions")),
        **times,
    ).explode("history_length", "target_id", *times)
    ids = as_ids(targets["target_id"].to_numpy())
    return Targets(
        dataset,
        catalog,
        rows=targets["row"].to_numpy(),
        user_ids=as_ids(targets["user_id"].to_numpy(), "A user id"),
        ids=ids,
        items=catalog.indices_of(ids),
        history_lengths=targets["history_length"].to_numpy(),
        is_cold=None if train_dataset is None else ~np.isin(ids, _known_items(train_dataset)),
        times=targets["time"].cast(pl.Int64).to_numpy() if has_times else None,
        item_users=None if train_dataset is None else ItemUsers.from_rows(train_dataset, catalog),
    )


def _known_items(dataset: Dataset) -> np.ndarray:
    parts = read_columns(dataset, "item_ids")
    return pl.concat([part["item_ids"].explode().unique() for part in parts]).unique().to_numpy()


def seen_items(histories: Iterable[np.ndarray], targets: np.ndarray) -> list[np.ndarray]:
    """Returns the items of each history without its target, which can always be recommended."""
    return [np.setdiff1d(history, target) for history, target in zip(histories, targets, strict=True)]
