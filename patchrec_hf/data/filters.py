"""Filters: keep some interactions, users and items of a raw data set, and count the rest after each step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import polars as pl

from .conditions import as_values, has_values, read_values
from .keywords import check_keys


@dataclass(frozen=True)
class Filters:
    """
    Settings of the filters. They are applied in this order: `where`, `min_rating`, `drop_untitled`, `drop_duplicates`,
    `max_user_interactions`, and last the two minima.

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
        keep_passing_items (`bool`, *optional*, defaults to `False`):
            Whether an item stays in the catalog if it has enough users, but the pass drops all of these users. Such an
            item has no interactions. The paper's Goodreads has 32 of them. After `k_core`, there are no such items.
            The catalogs of MovieLens and of your own log hold all items anyway.
        max_user_interactions (`int`, *optional*):
            Drops users with more interactions, such as bots. They are counted after all filters but the minima.
        where (`polars.Expr` or `Mapping[str, Any]`, *optional*):
            Keeps the rows of your own log for which an expression over the log's columns is true, such as
            `polars.col("quantity") > 0`, or whose columns have the given values: `{"event": ["buy", "rent"], "is_bot":
            False}`. The columns have the names that they have in the log. Rows that are left out are not checked.

    Example:
    ```python
    >>> Filters(where={"event": "buy"}, max_user_interactions=1_000)
    >>> Filters(where=(polars.col("event") == "buy") & (polars.col("quantity") > 0))
    ```

    Raises:
        TypeError: If `where` is neither an expression nor a mapping with texts as keys, or another setting is of
            another type.
        ValueError: If `min_rating` is NaN or infinite, another minimum is below 1, `max_user_interactions` is below
            `min_user_interactions`, or `where` is an empty mapping or an expression that calls a Python function.
    """

    min_rating: float | None = None
    drop_untitled: bool = False
    drop_duplicates: bool = True
    min_user_interactions: int = 1
    min_item_users: int = 1
    k_core: bool = False
    keep_passing_items: bool = False
    max_user_interactions: int | None = None
    where: pl.Expr | Mapping[str, Any] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        for name in ("min_user_interactions", "min_item_users", "max_user_interactions"):
            value = getattr(self, name)
            is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if not is_whole and not (value is None and name == "max_user_interactions"):
                raise TypeError(f"`{name}` must be a whole number, got {value!r}.")
        for name in ("drop_untitled", "drop_duplicates", "k_core", "keep_passing_items"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise TypeError(f"`{name}` must be True or False, got {getattr(self, name)!r}.")
        is_number = isinstance(self.min_rating, int | float | np.number) and not isinstance(self.min_rating, bool)
        if self.min_rating is not None and not is_number:
            raise TypeError(f"`min_rating` must be a number, got {self.min_rating!r}.")
        if self.min_rating is not None and not math.isfinite(self.min_rating):
            raise ValueError(f"`min_rating` must be a finite number, got {self.min_rating}.")
        for name in ("min_user_interactions", "min_item_users"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.max_user_interactions is not None and self.max_user_interactions < self.min_user_interactions:
            raise ValueError(
                f"`max_user_interactions` must be at least `min_user_interactions` ({self.min_user_interactions}), "
                f"got {self.max_user_interactions}."
            )
        if isinstance(self.where, Mapping):
            if not self.where:
                raise ValueError("`where` is an empty mapping. Name a column and its values, or leave it out.")
            if names := [name for name in self.where if not isinstance(name, str)]:
                raise TypeError(f"The keys of `where` must be names of columns, got {names[0]!r}.")
            # Tuples can be compared, and stay as they are when the user's list changes.
            object.__setattr__(self, "where", {name: as_values(value) for name, value in self.where.items()})
        elif not (self.where is None or isinstance(self.where, pl.Expr)):
            raise TypeError(
                "`where` must be an expression of polars, such as `polars.col('event') == 'buy'`, or a mapping, such "
                f"as `{{'event': 'buy'}}`, got `{type(self.where).__name__}`."
            )
        elif self.where is not None:
            try:
                self.where.meta.serialize()
            except (RuntimeError, pl.exceptions.PolarsError) as error:
                raise ValueError(
                    "The expression of `where` cannot be stored in the cache's key, as it calls a Python function. "
                    f"Compute a column by that function, and let `where` read the column. ({error})"
                ) from error

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Filters):
            return NotImplemented
        return all(_is_equal(getattr(self, entry.name), getattr(other, entry.name)) for entry in fields(self))

    def condition(self, schema: Mapping[str, pl.DataType], label: str) -> pl.Expr | None:
        """
        Returns `where` as an expression.

        Args:
            schema (`Mapping[str, polars.DataType]`):
                The types of the log's columns.
            label (`str`):
                Name of the file or frame, for error messages.

        Raises:
            ValueError: If a column cannot hold a value that `where` gives for it.
        """
        if self.where is None or isinstance(self.where, pl.Expr):
            return self.where
        return has_values(read_values(self.where, schema, label))

    def describe_reading(self) -> str:
        """Describes the filters that a reader applies while it reads: `where` and `min_rating`."""
        parts = []
        if isinstance(self.where, Mapping):
            values = {
                name: ", ".join("missing" if value is None else str(value) for value in values)
                for name, values in self.where.items()
            }
            parts.append("where " + " and ".join(f"{name} is {texts}" for name, texts in values.items()))
        elif self.where is not None:
            parts.append(f"where {self.where}")
        if self.min_rating is not None:
            parts.append(f"rating of at least {self.min_rating:g}")
        return "; ".join(parts) or "all"


def choose_filters(given: Filters | Mapping[str, Any] | None, default: Filters) -> Filters:
    """
    Returns the filters that a user gives, whole or as changes of the default ones.

    Raises:
        TypeError: If `given` is of another type.
        ValueError: If a key is unknown, or a value is out of its range.
    """
    if given is None:
        return default
    if isinstance(given, Filters):
        return given
    if not isinstance(given, Mapping):
        raise TypeError(f"`filters` must be `Filters(...)` or a mapping, got `{type(given).__name__}`.")
    check_keys("filters", given, [entry.name for entry in fields(Filters)])
    return replace(default, **given)


def _is_equal(one: Any, other: Any) -> bool:
    if isinstance(one, pl.Expr) and isinstance(other, pl.Expr):
        return one.meta == other.meta  # `==` of two expressions is a third one
    return not isinstance(one, pl.Expr) and not isinstance(other, pl.Expr) and bool(one == other)


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
) -> tuple[pl.DataFrame, list[FilterStep], pl.Series]:
    """
    Applies the filters. `where` and `min_rating` are only counted here: readers apply them while they read.

    Args:
        interactions (`polars.DataFrame`):
            `user_id`, `item_id`, `timestamp`, in the file's order.
        titled_items (`polars.Series`):
            Ids of the items that have a title.
        filters ([`Filters`]):
            The filters to apply.

    Returns:
        `tuple[polars.DataFrame, list[FilterStep], polars.Series]`: the remaining rows, in the same order; the steps;
        and the ids of the items that the filters leave, in any order. With `keep_passing_items`, some of them may have
        no row.

    Raises:
        ValueError: If an item is unknown or untitled and `drop_untitled` is `False`, or no interaction is left.
    """
    name = filters.describe_reading()
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
    if filters.max_user_interactions is not None:
        is_light = pl.len().over("user_id") <= filters.max_user_interactions
        interactions = keep(f"users ≤ {filters.max_user_interactions} interactions", interactions.filter(is_light))
    if filters.min_user_interactions > 1 or filters.min_item_users > 1:
        name = f"users ≥ {filters.min_user_interactions} interactions, items ≥ {filters.min_item_users} users"
        while True:
            num_before = len(interactions)
            users, passing = _find_frequent(interactions, filters)
            is_kept = pl.col("user_id").is_in(users.implode()) & pl.col("item_id").is_in(passing.implode())
            interactions = keep(name, interactions.filter(is_kept))
            if not filters.k_core or len(interactions) == num_before:
                break
        if filters.keep_passing_items:
            num_without = len(passing) - steps[-1].items
            if num_without:
                steps[-1] = replace(steps[-1], name=f"{name}; items that stay without users: {num_without:,}")
            return interactions, steps, passing
    return interactions, steps, interactions["item_id"].unique()


def count(name: str, interactions: pl.DataFrame) -> FilterStep:
    """Counts the users, items and interactions that are left after a step."""
    return FilterStep(name, interactions["user_id"].n_unique(), interactions["item_id"].n_unique(), len(interactions))


def report_steps(steps: list[FilterStep]) -> str:
    """Returns the steps as a Markdown table."""
    # An expression of polars may hold the character that ends a cell.
    names = [step.name.replace("|", "\\|") for step in steps]
    rows = [
        f"| {name} | {step.users:,} | {step.items:,} | {step.interactions:,} |"
        for name, step in zip(names, steps, strict=True)
    ]
    return "\n".join(["| step | users | items | interactions |", "|---|---|---|---|", *rows])


def _drop_duplicates(interactions: pl.DataFrame) -> pl.DataFrame:
    if "timestamp" not in interactions.columns:  # rows in order, of which none repeats another one's time
        return interactions
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


def _find_frequent(interactions: pl.DataFrame, filters: Filters) -> tuple[pl.Series, pl.Series]:
    """Returns the ids of the users and of the items that fulfill the two minima, counted in the same table."""
    lazy = interactions.lazy()
    by_user = lazy.group_by("user_id").len().filter(pl.col("len") >= filters.min_user_interactions)
    pairs = lazy.select("user_id", "item_id")
    by_item = pairs.unique() if filters.min_item_users > 1 else pairs
    by_item = by_item.group_by("item_id").len().filter(pl.col("len") >= filters.min_item_users)
    users, items = pl.collect_all([by_user.select("user_id"), by_item.select("item_id")], engine="streaming")
    return users["user_id"], items["item_id"]
