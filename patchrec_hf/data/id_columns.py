"""Id columns: the ids of users and items as whole numbers or texts, and their checks."""

from __future__ import annotations

from collections.abc import Sequence
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


def read_ids(ids: pl.Series) -> pl.Series:
    """
    Gives a column of ids the type in which the library keeps them.

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
    """Turns enumerated ids into texts, because a file would hold the whole enumeration in its footer."""
    columns = [name for name in ("user_id", "item_id") if name in table.columns and table[name].dtype == pl.Enum]
    return table.with_columns(pl.col(columns).cast(pl.String))


def numbers_if_whole(ids: Sequence[pl.Series]) -> bool:
    """
    Whether all texts of some columns are written as whole numbers are, so that the ids can become numbers. `007` is
    not: it is another id than `7`. A number that does not fit into int64 is not, either.
    """
    texts = pl.concat([column.unique().cast(pl.String) for column in ids])
    numbers = texts.cast(pl.Int64, strict=False).cast(pl.String)
    return bool((numbers == texts).fill_null(False).all())


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
        """Splits a column that [`read_ids`] made."""
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
