"""Data arguments: the settings of a data set as command-line arguments, for scripts that load one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import polars as pl

from ..runtime.catalog import Catalog
from .conditions import parse_where
from .filters import Filters, choose_filters
from .loading import load_recommendation_data, prepare_data
from .preparation import PreparedData
from .splits import check_cuts, leave_one_out_split, temporal_split, user_ratio_split
from .titles import tidy_title


_SPLITS: Mapping[str, Callable[..., pl.DataFrame]] = {
    "temporal": temporal_split,
    "leave_one_out": leave_one_out_split,
    "user_ratio": user_ratio_split,
}
_SWITCH = {"nargs": "?", "const": True}  # `--k_core` means `--k_core true`


def parse_columns(pairs: Sequence[str]) -> dict[str, str | None]:
    """
    Reads the names of columns from the command line.

    Args:
        pairs (`Sequence[str]`):
            This library's names and the file's names, such as `["user_id=customer", "timestamp="]`. An empty name
            stands for a column that the file does not have.

    Returns:
        `dict[str, str | None]`: the file's names.

    Raises:
        ValueError: If a text has no `=`, or no name before it.
    """
    for pair in pairs:
        name, sign, theirs = pair.partition("=")
        if not (name and sign and (theirs or name == "timestamp")):
            raise ValueError(f"`columns` takes pairs such as user_id=customer, got {pair!r}.")
    return {pair.partition("=")[0]: pair.partition("=")[2] or None for pair in pairs}


@dataclass
class DataArguments:
    """
    A data set and how to read it. Command-line parsers of transformers and TRL read this class. Each field that is an
    argument of [`load_recommendation_data`] or a setting of [`Filters`] is passed there under its name, if it is set.

    Args:
        data (`str`, *optional*, defaults to `"sample"`):
            See `name_or_path` of [`load_recommendation_data`].
        items, time_unit, date_format, separator, encoding, quote_char, has_header, ties, cache_dir (*optional*):
            See [`prepare_data`].
        columns (`list[str]`, *optional*):
            The files' names for this library's columns, such as `["user_id=customer", "item_id=sku"]`. `"timestamp="`
            says that the log has no times, and that its rows are in order.
        item_columns (`list[str]`, *optional*):
            Names in the file of the items, if they differ: `["item_id=product", "title=name"]`.
        split_rule (`str`, *optional*):
            `"temporal"`, `"leave_one_out"` or `"user_ratio"`; see `split` of [`prepare_data`].
        cuts (`list[float]`, *optional*):
            Two shares, at which validation and test begin.
        min_rating, drop_untitled, min_user_interactions, max_user_interactions, min_item_users, k_core,
        keep_passing_items (*optional*):
            See [`Filters`]. The data set's own rule if not given.
        where (`list[str]`, *optional*):
            Columns of your own log, and the values that a row must have there: `["event=buy,rent", "is_bot=false"]`.
            An empty value stands for a missing one (see [`parse_where`]).
        tidy_titles (`bool`, *optional*, defaults to `False`):
            Whether [`tidy_title`] cleans the titles.

    Raises:
        ValueError: If `columns` or `where` holds a text without `=`, `split_rule` is unknown, `cuts` do not ascend
            between 0 and 1 or are given without a rule that takes them, or [`Filters`] raises it.

    Example:
    ```python
    >>> arguments = DataArguments("clicks.csv", items="products.csv", columns=["item_id=sku"], k_core=True)
    >>> splits, catalog = arguments.load(max_history=50)
    ```
    """

    data: str = field(
        default="sample", metadata={"help": "A name, directory, archive or file.", "aliases": ["--data_dir"]}
    )
    items: str | None = field(default=None, metadata={"help": "A file with the titles, for your own log."})
    columns: list[str] | None = field(
        default=None, metadata={"help": "The files' names for our columns: user_id=customer item_id=sku."}
    )
    time_unit: str | None = field(default=None, metadata={"help": "Unit of numeric times: s, ms, us or ns."})
    date_format: str | None = field(default=None, metadata={"help": "Format of dates, such as %%d/%%m/%%Y."})
    separator: str | None = field(default=None, metadata={"help": "Separator of CSV files. Default: found."})
    encoding: str | None = field(default=None, metadata={"help": "Encoding of text files. Default: UTF-8."})
    quote_char: str | None = field(
        default=None, metadata={"help": "Character around values of CSV files; empty if there is none."}
    )
    has_header: bool | None = field(
        default=None, metadata={"help": "Whether the first line of CSV files names the columns.", **_SWITCH}
    )
    item_columns: list[str] | None = field(
        default=None, metadata={"help": "Names in the file of the items, if they differ: item_id=product title=name."}
    )
    ties: str | None = field(default=None, metadata={"help": "Order of equal times: stable or release."})
    split_rule: str | None = field(
        default=None, metadata={"help": "Rule that splits the interactions.", "choices": list(_SPLITS)}
    )
    cuts: list[float] | None = field(default=None, metadata={"help": "Shares at which validation and test begin."})
    min_rating: float | None = field(default=None, metadata={"help": "Leave out lower ratings."})
    drop_untitled: bool | None = field(
        default=None, metadata={"help": "Leave out interactions with items that have no title.", **_SWITCH}
    )
    min_user_interactions: int | None = field(default=None, metadata={"help": "Leave out users with fewer."})
    max_user_interactions: int | None = field(default=None, metadata={"help": "Leave out users with more, as bots."})
    min_item_users: int | None = field(default=None, metadata={"help": "Leave out items with fewer users."})
    k_core: bool | None = field(default=None, metadata={"help": "Repeat both filters until all pass them.", **_SWITCH})
    keep_passing_items: bool | None = field(
        default=None, metadata={"help": "Keep items with enough users that lose all of them.", **_SWITCH}
    )
    where: list[str] | None = field(
        default=None, metadata={"help": "Keep the rows that have these values: event=buy,rent is_bot=false."}
    )
    tidy_titles: bool = field(
        default=False, metadata={"help": "Remove HTML and superfluous white space in titles.", **_SWITCH}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Directory for downloads and prepared data."})

    def __post_init__(self) -> None:
        if self.split_rule is not None and self.split_rule not in _SPLITS:
            raise ValueError(f"`split_rule` must be one of {', '.join(_SPLITS)}, got {self.split_rule!r}.")
        if self.cuts is not None and (self.split_rule == "leave_one_out" or len(self.cuts) != 2):
            raise ValueError(
                f"`cuts` are two shares, for the split rules temporal and user_ratio, got {self.cuts} for "
                f"{self.split_rule or 'temporal'}."
            )
        if self.cuts is not None:
            check_cuts(self.cuts)
        parse_columns(self.columns or ())
        parse_columns(self.item_columns or ())
        parse_where(self.where or ())
        choose_filters(self.settings().get("filters"), Filters())

    def settings(self) -> dict[str, Any]:
        """Returns the arguments for [`load_recommendation_data`] by name, those that were set."""
        given = {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) is not None}
        known = inspect.signature(load_recommendation_data).parameters
        settings = {name: value for name, value in given.items() if name in known}
        for name in ("columns", "item_columns"):
            if given.get(name):
                settings[name] = parse_columns(given[name])
        if self.split_rule is not None or self.cuts is not None:
            split = _SPLITS[self.split_rule or "temporal"]
            settings["split"] = split if self.cuts is None else partial(split, cuts=tuple(self.cuts))
        if self.tidy_titles:
            settings["title_rule"] = tidy_title
        filters = {one.name: given[one.name] for one in fields(Filters) if one.name in given}
        if self.where:
            filters["where"] = parse_where(self.where)
        return {**settings, "filters": filters} if filters else settings

    def load(self, **rows: Any) -> tuple[Any, Catalog]:
        """
        Loads the data set.

        Args:
            **rows:
                Settings of rows: `max_history`, `min_history` and `targets_per_row`.

        Returns:
            See [`load_recommendation_data`].

        Raises:
            OSError, ValueError, KeyError: As [`load_recommendation_data`] does.
        """
        return load_recommendation_data(self.data, **self.settings(), **rows)

    def prepare(self) -> PreparedData:
        """
        Prepares the data set, without making rows.

        Returns:
            See [`prepare_data`].

        Raises:
            OSError, ValueError, KeyError: As [`prepare_data`] does.
        """
        return prepare_data(self.data, **self.settings())
