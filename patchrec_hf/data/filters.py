"""Filters: keep some interactions, users and items of a raw data set, and count the rest after each step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl


@dataclass(frozen=True)
class Filters:
    """
    Settings of the filters, which are applied in the order of the arguments.

    Args:
        min_rating (`float`, *optional*):
            Drops interactions with a lower rating.
        drop_untitled (`bool`, *optional*, defaults to `False`):
            `True` drops interactions whose item has no title or is missing from the table of items. `False` raises an
            error for them.
        drop_duplicates (`bool`, *optional*, defaults to `True`):
            Whether to keep only the first of several rows with the same user, item and time. The same item at another
            time is another interaction.
        min_user_interactions (`int`, *optional*, defaults to `1`):
            Drops users with fewer interactions.
        min_item_users (`int`, *optional*, defaults to `1`):
            Drops items with fewer users.
        k_core (`bool`, *optional*, defaults to `False`):
            One pass counts users and items in the same table and drops both together. Afterwards, some remaining users
            and items may lie below the minima. `True` repeats the pass until it drops nothing (k-core).

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
    Counts after a step.

    Args:
        name (`str`):
            Name of the step.
        users, items, interactions (`int`):
            Number of users with interactions, of items with interactions, and of interactions.
    """

    name: str
    users: int
    items: int
    interactions: int


def apply_filters(
    interactions: pl.DataFrame, titled_items: pl.Series, filters: Filters
) -> tuple[pl.DataFrame, list[FilterStep]]:
    """
    Applies the filters. `min_rating` is only counted here: readers apply it while they read.

    Args:
        interactions (`polars.DataFrame`):
            `user_id`, `item_id`, `timestamp`, in the file's order.
        titled_items (`polars.Series`):
            Ids of the items that have a title.
        filters ([`Filters`]):
            The filters to apply.

    Returns:
        `tuple[polars.DataFrame, list[FilterStep]]`: the remaining rows, in the same order, and the steps.

    Raises:
        ValueError: If an item is unknown or untitled and `drop_untitled` is `False`, or no interaction is left.
    """
    name = "all" if filters.min_rating is None else f"rating of at least {filters.min_rating:g}"
    steps = [count(name, interactions)]

    def keep(name: str, rows: pl.DataFrame) -> pl.DataFrame:
        if len(rows) < steps[-1].interactions:
            steps.append(count(name, rows))
        if rows.is_empty():
            before = f"{steps[-2].interactions} before it" if len(steps) > 1 else "it was the first"
            raise ValueError(f"The step {name!r} leaves no interaction ({before}). Loosen `filters`: {filters}.")
        return rows

    interactions = keep(name, interactions)
    is_titled = interactions["item_id"].is_in(titled_items.implode())
    if not (filters.drop_untitled or is_titled.all()):
        first = interactions.row(is_titled.index_of(False), named=True)
        raise ValueError(
            f"Item {first['item_id']!r}, with which user {first['user_id']!r} interacts, is not in the table of items "
            f"or has no title there. {len(is_titled) - is_titled.sum()} of {len(is_titled)} interactions have such an "
            "item. Give these items a title, or drop their interactions with `Filters(drop_untitled=True)`."
        )
    interactions = keep("items with a title", interactions.filter(is_titled))
    if filters.drop_duplicates:
        interactions = keep("without repeated rows", _drop_duplicates(interactions))
    if filters.min_user_interactions > 1 or filters.min_item_users > 1:
        name = f"users ≥ {filters.min_user_interactions} interactions, items ≥ {filters.min_item_users} users"
        while True:
            num_before = len(interactions)
            interactions = keep(name, _drop_rare(interactions, filters))
            if not filters.k_core or len(interactions) == num_before:
                break
    return interactions, steps


def count(name: str, interactions: pl.DataFrame) -> FilterStep:
    """Counts the users, items and interactions that are left after a step."""
    return FilterStep(name, interactions["user_id"].n_unique(), interactions["item_id"].n_unique(), len(interactions))


def report_steps(steps: list[FilterStep]) -> str:
    """Returns the steps as a Markdown table."""
    rows = [f"| {step.name} | {step.users:,} | {step.items:,} | {step.interactions:,} |" for step in steps]
    return "\n".join(["| step | users | items | interactions |", "|---|---|---|---|", *rows])


def _drop_duplicates(interactions: pl.DataFrame) -> pl.DataFrame:
    row = pl.struct("user_id", "item_id", "timestamp")
    hashes = interactions.select(row.hash()).to_series()
    # Only rows with equal hashes are compared. Most tables have none.
    if hashes.n_unique() == len(hashes):
        return interactions
    ordered = np.sort(hashes.to_numpy())
    repeated = pl.Series(ordered[1:][ordered[1:] == ordered[:-1]]).unique()
    suspects = interactions.with_row_index("row").filter(hashes.is_in(repeated.implode()))
    duplicates = suspects.filter(~row.is_first_distinct())["row"]
    is_kept = np.ones(len(interactions), dtype=bool)
    is_kept[duplicates.to_numpy()] = False
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
