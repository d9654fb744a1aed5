"""Conditions: keep the rows of a log that have given values in their columns, which are read by the columns' types."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
from transformers.utils import logging

from ..runtime.ids import nearest_texts


logger = logging.get_logger(__name__)

_TEXTS = (pl.String, pl.Categorical, pl.Enum)
_COMPARED_ROWS = 100_000
"""Rows whose values are compared with a value that no row has."""


def parse_where(pairs: Sequence[str]) -> dict[str, list[str | None]]:
    """
    Reads a condition from the command line.

    Args:
        pairs (`Sequence[str]`):
            Columns and their values, such as `["event=buy,rent", "is_bot=false"]`. An empty value stands for a missing
            one. A value that holds a comma is written in double quotes.

    Returns:
        `dict[str, list[str | None]]`: the values of each column.

    Raises:
        ValueError: If a text has no `=`, or no column before it.
    """
    where: dict[str, list[str | None]] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not (name and sign):
            raise ValueError(f"`where` takes columns and their values, such as event=buy,rent, got {pair!r}.")
        where.setdefault(name, []).extend(value or None for value in next(csv.reader([text]), []) or [""])
    return where


def as_values(value: Any) -> tuple[Any, ...]:
    """
    Returns one value, or the values of a list, set, array or series, as a tuple. A set's values are sorted.

    Raises:
        TypeError: If a value is itself a list, a set or a mapping.
    """
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    values = value if isinstance(value, Iterable) and not isinstance(value, str | bytes) else [value]
    values = list(values)
    for one in values:
        if isinstance(one, list | set | dict | np.ndarray):
            raise TypeError(f"`where` takes a value or a list of values for each column, got {one!r} within a list.")
    return tuple(one.item() if isinstance(one, np.generic) else one for one in values)


def read_values(
    where: Mapping[str, Sequence[Any]], schema: Mapping[str, pl.DataType], label: str
) -> dict[str, list[Any]]:
    """
    Reads the values of a condition by the types of their columns. Texts may stand for numbers, truth values and dates,
    because they stand so on a command line.

    Args:
        where (`Mapping[str, Sequence[Any]]`):
            The values of each column.
        schema (`Mapping[str, polars.DataType]`):
            The types of the columns.
        label (`str`):
            Name of the file or frame, for error messages.

    Returns:
        `dict[str, list[Any]]`: the values of each column.

    Raises:
        ValueError: If a column cannot hold a value. The message names the column, its type and the value.
    """
    return {name: _read(name, values, schema[name], label) for name, values in where.items()}


def has_values(where: Mapping[str, Sequence[Any]]) -> pl.Expr:
    """
    Returns an expression that is true for the rows to keep.

    Args:
        where (`Mapping[str, Sequence[Any]]`):
            The values of each column (see [`read_values`]). `None` is a missing value.
    """
    return pl.all_horizontal(_has_value(name, values) for name, values in where.items())


def warn_of_absent_values(where: Mapping[str, Sequence[Any]], rows: pl.LazyFrame, label: str) -> None:
    """
    Logs a warning for each value that no row has, because it may be misspelt.

    Args:
        where (`Mapping[str, Sequence[Any]]`):
            The values of each column (see [`read_values`]).
        rows (`polars.LazyFrame`):
            All rows of the log, with the columns of `where`.
        label (`str`):
            Name of the file or frame, for the warnings.
    """
    known = {name: [value for value in values if value is not None] for name, values in where.items()}
    queries = [rows.select(name).filter(pl.col(name).is_in(values)).unique() for name, values in known.items()]
    found = pl.collect_all(queries, engine="streaming")
    for (name, values), present in zip(known.items(), found, strict=True):
        absent = set(values) - set(present[name])
        if not absent:
            continue
        others = rows.select(pl.col(name).cast(pl.String)).head(_COMPARED_ROWS).unique().drop_nulls()
        choices = sorted(others.collect(engine="streaming")[name])
        for value in sorted(absent, key=str):
            alike = nearest_texts(str(value), choices, n=1)
            question = f" Did you mean {alike[0]!r}?" if alike else ""
            logger.warning_once(
                f"{label}: `where` asks for {value!r}, but no row has it in the column {name!r}.{question}"
            )


def _read(name: str, values: Sequence[Any], kind: pl.DataType, label: str) -> list[Any]:
    read = dict(zip(values, values, strict=True))
    texts = [value for value in values if isinstance(value, str)]
    if not isinstance(kind, _TEXTS):  # texts are read all at once, because a list of ids may be long
        read.update(zip(texts, _read_texts(pl.Series(texts, dtype=pl.String), kind), strict=True))
    for value, result in read.items():
        is_number = isinstance(result, int | float | Decimal) and not isinstance(result, bool)
        if isinstance(kind, _TEXTS):
            fits, advice = isinstance(result, str), f"Give a text, such as {str(value)!r}."
        elif kind == pl.Boolean:
            fits, advice = isinstance(result, bool), "Give True or False."
        elif kind.is_integer():
            fits, advice = is_number and result == result // 1, "Give a whole number."
        elif kind.is_numeric():
            fits, advice = is_number, "Give a number."
        else:
            fits, advice = result is not None, "Give a value of this type."
        if not fits and value is not None:
            raise ValueError(f"{label}: `where` gives {value!r} for the column {name!r}, which holds {kind}. {advice}")
        if fits and kind.is_integer():
            read[value] = int(result)
    return list(read.values())


def _read_texts(texts: pl.Series, kind: pl.DataType) -> pl.Series:
    """Reads texts as values of a type; those that cannot be read become nulls."""
    texts = texts.str.strip_chars()
    if kind == pl.Boolean:
        truths = {"true": True, "false": False}
        return texts.str.to_lowercase().replace_strict(truths, default=None, return_dtype=pl.Boolean)
    if kind == pl.Date:
        return texts.str.to_date("%Y-%m-%d", strict=False)
    return texts.cast(kind, strict=False) if kind.is_numeric() else pl.Series([None] * len(texts))


def _has_value(name: str, values: Sequence[Any]) -> pl.Expr:
    known = [value for value in values if value is not None]
    has_value = pl.col(name).is_in(known)
    return has_value | pl.col(name).is_null() if len(known) < len(values) else has_value
