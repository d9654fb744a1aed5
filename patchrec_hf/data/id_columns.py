"""Id columns: the ids of users and items as whole numbers or texts, and their checks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc


_TEXT_TYPES = (pl.String, pl.Categorical, pl.Enum)


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
