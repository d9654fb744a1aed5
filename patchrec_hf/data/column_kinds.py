"""Column kinds: finds the type that all texts of a column have, and reads the texts by this type."""

from __future__ import annotations

import polars as pl

from .text_files import INFERRED_ROWS


_TRUTHS = {"true": True, "false": False}
_KINDS = (pl.Int64(), pl.Float64(), pl.Boolean())


def find_kind(rows: pl.LazyFrame, name: str, kind: pl.DataType, is_csv: bool) -> pl.DataType:
    """
    Finds the type of a column of a text file, from all of its values.

    Args:
        rows (`polars.LazyFrame`):
            All rows, with the column as texts.
        name (`str`):
            Name of the column.
        kind (`polars.DataType`):
            The type that it has in the first rows of JSON lines.
        is_csv (`bool`):
            Whether the file is a CSV file, whose values all are texts.

    Returns:
        `polars.DataType`: the narrowest of whole numbers, numbers and truth values that all values have. If some value
        is of none of them, the type of the first thousand rows, so that the reader can name the line; for JSON lines
        with texts, and where nothing fits, texts.
    """
    if not is_csv and not (kind.is_numeric() or kind in (pl.Boolean, pl.Null)):
        return kind
    column = rows.select(name)
    for part in (column, column.head(INFERRED_ROWS)):
        fits = [(pl.col(name).is_null() | cast_texts(name, one).is_not_null()).all().alias(str(one)) for one in _KINDS]
        has_value = pl.col(name).is_not_null().any().alias("has value")
        found = part.select(*fits, has_value).collect(engine="streaming").row(0, named=True)
        if found.pop("has value"):
            for one in _KINDS:
                if found[str(one)]:
                    return one
    return pl.String()


def cast_texts(name: str, kind: pl.DataType) -> pl.Expr:
    """Returns an expression that reads a column of texts by a type, and gives null for texts of other types."""
    text = pl.col(name)
    if kind.is_nested() or kind == pl.String:
        return text
    if kind == pl.Boolean:
        return text.str.strip_chars().str.to_lowercase().replace_strict(_TRUTHS, default=None, return_dtype=pl.Boolean)
    return text.str.strip_chars().cast(kind, strict=False)
