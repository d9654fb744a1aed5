"""Id columns: the ids of users and items as whole numbers or texts, and their checks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc


_TEXT_TYPES = (pl.String, pl.Categorical, pl.Enum)
_NUMBER = r"^[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?$"
_LIST = r"""^\[\s*(?:-?\d+|"[^"]*"|'[^']*')(?:\s*,\s*(?:-?\d+|"[^"]*"|'[^']*'))*\s*\]$"""
EXACT = 2**53
"""Whole numbers beyond this may have been rounded where they were written with a point."""


def is_id_type(dtype: pl.DataType) -> bool:
    """Whether a column of this type can hold ids: whole numbers, or texts."""
    return dtype.is_integer() or isinstance(dtype, _TEXT_TYPES)


def is_arrow_id_type(dtype: pa.DataType) -> bool:
    """Whether an Arrow column of this type can hold ids: whole numbers, or texts."""
    return pa.types.is_integer(dtype) or pa.types.is_string(dtype) or pa.types.is_large_string(dtype)


def enumerate_ids(ids: pl.Series) -> pl.Series:
    """
    Enumerates the ids of a column, so that they are quick to sort and to compare.

    Args:
        ids (`polars.Series`):
            Whole numbers or texts (see [`is_id_type`]), without nulls.

    Returns:
        `polars.Series`: int64, or an enumeration (`polars.Enum`). Enumerations stay as they are; other texts are
        enumerated in the order of the alphabet. Unsigned numbers that do not fit into int64 become texts.
    """
    if ids.dtype.is_integer():
        if ids.dtype != pl.UInt64 or len(ids) == 0 or ids.max() <= np.iinfo(np.int64).max:  # type: ignore[operator]
            return ids.cast(pl.Int64)
        ids = ids.cast(pl.String)
    if ids.dtype == pl.Enum:
        return ids
    texts = ids.unique().cast(pl.String).unique().sort()
    return ids.cast(pl.Enum(texts))


def as_texts(table: pl.DataFrame) -> pl.DataFrame:
    """Turns ids that are enumerated, or categories, into texts, which join with the texts of any other table."""
    kinds = (pl.Enum, pl.Categorical)
    columns = [name for name in ("user_id", "item_id") if name in table.columns and table[name].dtype in kinds]
    return table.with_columns(pl.col(columns).cast(pl.String))


@dataclass(frozen=True)
class IdFault:
    """
    An id that cannot be read without a guess.

    Args:
        id (`str`):
            The id.
        problem (`str`):
            The problem, with the way out.
    """

    id: str
    problem: str


def find_id_fault(ids: pl.Series) -> IdFault | None:
    """
    Finds an id that cannot be read without a guess, in all distinct texts of a column.

    Args:
        ids (`polars.Series`):
            The distinct texts of a column of ids.

    Returns:
        [`IdFault`], *optional*: an id that is blank, differs from another one in white space only, is a number with a
        fraction or an exponent where all others are numbers too, or is the same number as another id.
    """
    stripped = ids.str.strip_chars()
    if len(blank := ids.filter(stripped == "")):
        return IdFault(blank[0], f"an id is blank, {blank[0]!r}; write an id, or leave the row out")
    if twin := _twin(ids, stripped):
        return IdFault(
            twin[1],
            f"the ids {twin[0]!r} and {twin[1]!r} differ in white space only; write them alike if they are one, or in "
            "other characters if they are two",
        )
    if len(lists := ids.filter(ids.str.contains(_LIST))):
        return IdFault(
            lists[0],
            f"{lists[0][:50]!r} is a list that is written as a text; write one row for each of its values, or a "
            "column of lists in Parquet or JSON lines",
        )
    with_point = ids.str.contains(r"[.eE]") & ids.str.contains(_NUMBER)
    if not with_point.any():
        return None
    whole = _without_zeros(ids)
    if not ids.str.contains(_NUMBER).all():
        if twin := _twin(ids, whole):
            return IdFault(
                twin[1],
                f"the ids {twin[0]!r} and {twin[1]!r} are the same number among ids that are texts; write them alike "
                "if they are one",
            )
        return None
    number = whole.cast(pl.Int128, strict=False)
    odd = ids.filter(number.is_null() | (with_point & (number.abs() > EXACT)))
    if len(odd) == 0:
        return None
    return IdFault(
        odd[0],
        f"all ids of the column are numbers, but {odd[0]!r} is not written as a whole number, so digits may be "
        "missing; write ids as whole numbers with all of their digits, or as texts such as 'a1.5'",
    )


def without_points(ids: pl.Series) -> pl.Series | None:
    """
    Reads ids such as `1.0` as the whole numbers that they are. Pandas writes a column of whole numbers so if a value
    is missing.

    Args:
        ids (`polars.Series`):
            The distinct texts of a column without a fault (see [`find_id_fault`]).

    Returns:
        `polars.Series`, *optional*: the texts of the whole numbers; `None` if the ids stay as they are, because none
        is written with a point, or not all of them are numbers.
    """
    is_number = ids.str.contains(_NUMBER)
    return _without_zeros(ids) if is_number.all() and ids.str.contains(".", literal=True).any() else None


def _without_zeros(ids: pl.Series) -> pl.Series:
    return ids.str.replace(r"^([+-]?\d+)\.0*$", "${1}")


def _twin(ids: pl.Series, forms: pl.Series) -> tuple[str, str] | None:
    """Returns two ids that have the same form, first the one that is written like it."""
    if forms.n_unique() == len(forms):
        return None
    form = forms.filter(forms.is_duplicated())[0]
    twins = sorted(ids.filter(forms == form), key=lambda text: (text != form, text))
    return twins[0], twins[1]


def unify_ids(interactions: pl.DataFrame, items: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """
    Makes whole numbers of the ids of users, or of items, if all of them are written like whole numbers. `007` is not:
    it is another id than `7`. A number that does not fit into int64 is not, either.

    Args:
        interactions (`polars.DataFrame`):
            `user_id` and `item_id`, as numbers or texts.
        items (`polars.DataFrame`):
            `item_id`, as numbers or texts.

    Returns:
        `tuple[polars.DataFrame, polars.DataFrame]`: both tables, with item ids of one kind.

    Raises:
        ValueError: If one table has numbers for item ids, and the other has texts that are no numbers.
    """
    for column, tables in (("user_id", [interactions]), ("item_id", [interactions, items])):
        texts = [table[column].unique().cast(pl.String) for table in tables if not table[column].dtype.is_integer()]
        if not texts:
            continue
        ids = pl.concat(texts)
        numbers = ids.cast(pl.Int64, strict=False).cast(pl.String)
        if (numbers == ids).fill_null(False).all():
            as_number = pl.col(column).cast(pl.String).cast(pl.Int64)
            interactions = interactions.with_columns(as_number)
            items = items.with_columns(as_number) if column == "item_id" else items
        elif len(texts) < len(tables):
            text = ids.filter((numbers != ids).fill_null(True))[0]
            raise ValueError(
                f"`{column}` is a number in one table and a text, such as {text!r}, in the other. Write the ids in "
                "the same way."
            )
    return interactions, items


@dataclass(frozen=True, eq=False)
class IdColumn:
    """
    A column of ids as whole numbers, and the texts that these numbers stand for, if the ids are texts.

    Args:
        codes (`numpy.ndarray` of shape `(n,)`, integers):
            The ids, or indices into `texts`.
        texts (`pyarrow.LargeStringArray`, *optional*):
            The distinct texts.
    """

    codes: np.ndarray
    texts: pa.Array | None = None

    @classmethod
    def of(cls, ids: pl.Series) -> IdColumn:
        """Splits a column that [`enumerate_ids`] made."""
        if ids.dtype.is_integer():
            return cls(ids.to_numpy())
        texts: pl.Series = ids.dtype.categories  # type: ignore[attr-defined]
        return cls(ids.to_physical().to_numpy(), texts.to_arrow().cast(pa.large_string()))

    @classmethod
    def of_arrow(cls, ids: pa.ChunkedArray) -> IdColumn:
        """Splits a column of a Parquet file, without polars."""
        if pa.types.is_integer(ids.type):
            return cls(ids.to_numpy())
        encoded = ids.combine_chunks()
        if not pa.types.is_dictionary(encoded.type):
            encoded = pc.dictionary_encode(encoded)
        return cls(encoded.indices.to_numpy(), encoded.dictionary.cast(pa.large_string()))

    def take(self, indices: np.ndarray) -> pa.Array:
        """Returns the ids at `indices`: int64 or texts."""
        codes = pa.array(self.codes[indices])
        return codes if self.texts is None else self.texts.take(codes)
