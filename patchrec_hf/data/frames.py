"""Frames: takes data frames of any library as raw data, as lazy frames of polars with a name and a digest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import polars as pl
import pyarrow as pa
from datasets import Dataset, DatasetDict, IterableDataset


@runtime_checkable
class ArrowFrame(Protocol):
    """Anything that exports Arrow's stream: frames of polars and pandas, tables of Arrow, relations of DuckDB."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


FrameLike = pl.LazyFrame | Dataset | ArrowFrame
"""Data frames that are taken as raw data."""


@dataclass(frozen=True, eq=False)
class Frame:
    """
    Raw data that a user gives as a data frame instead of a file.

    Args:
        label (`str`):
            Name of the frame in error messages, at the beginning of a sentence.
        rows (`polars.LazyFrame`):
            The rows.
    """

    label: str
    rows: pl.LazyFrame

    def __str__(self) -> str:
        return self.label

    def digest(self) -> str:
        """Returns a hash of the columns, their types and all values in their order. It does not keep the values."""
        # Python objects have no hash, and no column that is read may hold them.
        schema = {name: kind for name, kind in self.rows.collect_schema().items() if kind != pl.Object}
        # Categories are hashed by their texts: their numbers differ from frame to frame.
        as_text = pl.col([name for name, kind in schema.items() if isinstance(kind, pl.Categorical | pl.Enum)])
        content = hashlib.blake2b(repr([(name, str(kind)) for name, kind in schema.items()]).encode())
        if not schema:
            return content.hexdigest()
        values = self.rows.with_columns(as_text.cast(pl.String)).select(pl.struct(list(schema)).hash())
        content.update(values.collect(engine="streaming").to_series().to_numpy().tobytes())
        return content.hexdigest()


def read_frame(data: Any, label: str) -> Frame:
    """
    Takes a data frame as raw data.

    Args:
        data (`Any`):
            A data frame of polars (a lazy one is evaluated while it is read, several times), of pandas (without its
            index) or of another library that exports Arrow's stream, a table of Arrow, or a [`~datasets.Dataset`].
        label (`str`):
            Name of the frame in error messages, at the beginning of a sentence.

    Returns:
        [`Frame`]

    Raises:
        TypeError: If `data` is of another kind.
        ValueError: If a column holds values of several types, or its name is not a text.
    """
    if isinstance(data, pl.LazyFrame):
        return Frame(label, data)
    if isinstance(data, DatasetDict):
        raise TypeError(f"{label} is a `datasets.DatasetDict`. Pass one of its splits, which are {list(data)}.")
    if isinstance(data, IterableDataset):
        raise TypeError(f"{label} is a `datasets.IterableDataset`, which has no rows to number. Pass a file instead.")
    try:
        if isinstance(data, Dataset):
            return Frame(label, pl.DataFrame(data.to_polars()).lazy())
        if isinstance(data, ArrowFrame):
            return Frame(label, pl.DataFrame(data).lazy())
    except (pa.ArrowException, pl.exceptions.PolarsError, TypeError, ValueError) as error:
        advice = ""
        if isinstance(error, pa.ArrowTypeError | pa.ArrowInvalid):
            advice = (
                " If a column holds values of several types, make all of them texts, in pandas by "
                "`frame['sku'] = frame['sku'].astype(str)`."
            )
        raise ValueError(f"{label} cannot be read: {str(error).rstrip('.')}.{advice}") from error
    raise TypeError(
        f"{label} must be a file, or a data frame of polars, pandas, Arrow or `datasets`, got "
        f"`{type(data).__name__}`. Make a frame of it, such as `polars.DataFrame(...)`."
    )
