"""Filters: which interactions, users and items of a raw data set are kept, step by step, with counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl


@dataclass(frozen=True)
class Filters:
    """
    What to keep, applied in the order of the arguments.

    Args:
        min_rating (`float`, *optional*):
            The lowest rating that is an interaction.
        drop_untitled (`bool`, *optional*, defaults to `False`):
            Whether interactions with items that have no title, or that the table of items lacks, are left out. If not,
            they are an error.
        drop_duplicates (`bool`, *optional*, defaults to `True`):
            Whether rows of one user with the same item at the same time, but for the first, are left out. The same
            item at another time is another interaction.
        min_user_interactions (`int`, *optional*, defaults to `1`):
            Users with fewer interactions are left out.
        min_item_users (`int`, *optional*, defaults to `1`):
            Items with fewer users are left out.
        k_core (`bool`, *optional*, defaults to `False`):
            Both of these counts are taken of one table and applied together. With `True` that is repeated until
            nothing is left out any more (k-core); after a single pass, some users and items may fall below.

    Raises:
        ValueError: If a minimum is below 1.
    """

    min_rating: float | None = None
    drop_untitled: bool = False
    drop_duplicates: bool = True
    min_user_interactions: int = 1
    min_item_users: int = 1
    k_core: bool = False

    def __post_init__(self) -> None:
        for name in ("min_user_interactions", "min_item_users"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")


@dataclass(frozen=True)
class FilterStep:
    """
    What was left after a step.

    Args:
        name (`str`):
            The step.
        users, items, interactions (`int`):
            Users and items with interactions, and interactions.
    """

    name: str
    users: int
    items: int
    interactions: int


def apply_filters(
    interactions: pl.DataFrame, titled_items: pl.Series, filters: Filters
) -> tuple[pl.DataFrame, list[FilterStep]]:
    """
    Applies all filters but the first, which readers apply while they read.

    Args:
        interactions (`polars.DataFrame`):
            `user_id`, `item_id`, `timestamp`, in the file's order.
        titled_items (`polars.Series`):
            Ids of the items that have a title.
        filters ([`Filters`]):
            What to keep.

    Returns:
        `tuple[polars.DataFrame, list[FilterStep]]`: the rows that are left, in the same order, and the steps.

    Raises:
        ValueError: If an item is unknown or untitled (unless those are dropped), or nothing is left.
    """
    name = "all" if filters.min_rating is None else f"rating of at least {filters.min_rating:g}"
    steps = [count(name, interactions)]

    def keep(name: str, rows: pl.DataFrame) -> pl.DataFrame:
        if len(rows) < steps[-1].interactions:
            steps.append(count(name, rows))
        if rows.is_empty():
            last = f"{steps[-2].interactions} before it" if len(steps) > 1 else "it was the first"
            raise ValueError(f"The step {name!r} leaves no interaction ({last}). Loosen `filters`: {filters}.")
        return rows

    interactions = keep(name, interactions)
    is_titled = interactions["item_id"].is_in(titled_items.implode())
    if not (filters.drop_untitled or is_titled.all()):
        first = interactions.row(is_titled.index_of(False), named=True)
        raise ValueError(
            f"Item {first['item_id']!r}, with which user {first['user_id']!r} interacts, is not in the table of items "
            f"or has no title there, as {len(is_titled) - is_titled.sum()} of {len(is_titled)} interactions. Give it "
            "a title, or leave such interactions out with `Filters(drop_untitled=True)`."
        )
    interactions = keep("items with a title", interactions.filter(is_titled))
    if filters.drop_duplicates:
        interactions = keep("without repeated rows", _drop_repeats(interactions))
    if filters.min_user_interactions > 1 or filters.min_item_users > 1:
        name = f"users ≥ {filters.min_user_interactions} interactions, items ≥ {filters.min_item_users} users"
        while True:
            num_before = len(interactions)
            interactions = keep(name, _drop_rare(interactions, filters))
            if not filters.k_core or len(interactions) == num_before:
                break
    return interactions, steps


def count(name: str, interactions: pl.DataFrame) -> FilterStep:
    """Counts users, items and interactions."""
    return FilterStep(name, interactions["user_id"].n_unique(), interactions["item_id"].n_unique(), len(interactions))


def report_steps(steps: list[FilterStep]) -> str:
    """The steps as a Markdown table."""
    rows = [f"| {step.name} | {step.users:,} | {step.items:,} | {step.interactions:,} |" for step in steps]
    return "\n".join(["| step | users | items | interactions |", "|---|---|---|---|", *rows])


def _drop_repeats(interactions: pl.DataFrame) -> pl.DataFrame:
    row = pl.struct("user_id", "item_id", "timestamp")
    hashes = interactions.select(row.hash()).to_series()
    # Rows are compared only where hashes are equal, which most often are none.
    if hashes.n_unique() == len(hashes):
        return interactions
    ordered = np.sort(hashes.to_numpy())
    repeated = pl.Series(ordered[1:][ordered[1:] == ordered[:-1]]).unique()
    suspects = interactions.with_row_index("place").filter(hashes.is_in(repeated.implode()))
    surplus = suspects.filter(~row.is_first_distinct())["place"]
    is_kept = np.ones(len(interactions), dtype=bool)
    is_kept[surplus.to_numpy()] = False
    return interactions.filter(pl.Series(is_kept))


def _drop_rare(interactions: pl.DataFrame, filters: Filters) -> pl.DataFrame:
    lazy = interactions.lazy()
    by_user = lazy.group_by("user_id").len().filter(pl.col("len") >= filters.min_user_interactions)
    pairs = lazy.select("user_id", "item_id")
    by_item = pairs.unique() if filters.min_item_users > 1 else pairs
    by_item = by_item.group_by("item_id").len().filter(pl.col("len") >= filters.min_item_users)
    users, items = pl.collect_all([by_user.select("user_id"), by_item.select("item_id")], engine="streaming")
    return interactions.filter(
        pl.col("user_id").is_in(users["user_id"].implode()) & pl.col("item_id").is_in(items["item_id"].implode())
    )
