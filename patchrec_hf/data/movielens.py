"""MovieLens, from the files as GroupLens publishes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from ..catalog import Catalog
from .interactions import order_interactions


_ARTICLE = re.compile(r"(?s)(.*), (The|A|An)")


def clean_movie_title(title: str) -> str:
    """
    A title as the paper's authors write it: without year and alternative titles, and with its article in front.

    Example:
    ```python
    >>> clean_movie_title("Postino, Il (1994)"), clean_movie_title("Usual Suspects, The (1995)")
    ('Postino, Il', 'The Usual Suspects')
    ```
    """
    title = title.split(" (")[0].strip().lstrip("'")
    match = _ARTICLE.fullmatch(title)
    return f"{match[2]} {match[1]}" if match else title


def read_movielens_100k(
    directory: str | Path, min_rating: int = 4, min_interactions: int = 21
) -> tuple[pl.DataFrame, Catalog]:
    """
    Reads MovieLens-100K.

    Args:
        directory (`str` or `pathlib.Path`):
            Holds `u.data` and `u.item`.
        min_rating (`int`, *optional*, defaults to `4`):
            Lower ratings are no interactions; the paper keeps those above 3.
        min_interactions (`int`, *optional*, defaults to `21`):
            Users with fewer interactions are left out; the paper keeps those with more than 20.

    Returns:
        `tuple[polars.DataFrame, Catalog]`: the interactions (see [`order_interactions`]) and all movies, also those
        without any.

    Raises:
        FileNotFoundError: If one of the two files is missing.
        ValueError: If a file is not in the published form, or no user is left.
    """
    directory = Path(directory)
    for name in ("u.data", "u.item"):
        if not (directory / name).is_file():
            raise FileNotFoundError(f"{directory} holds no {name}. Give the directory that ml-100k.zip unpacks to.")
    columns = {"user_id": pl.Int64, "item_id": pl.Int64, "rating": pl.Int64, "timestamp": pl.Int64}
    ratings = _read(directory / "u.data", "\t", columns)
    items = _read(directory / "u.item", "|", {"item_id": pl.Int64, "title": pl.String})
    titles = [clean_movie_title(title) for title in items["title"]]
    interactions = ratings.filter(pl.col("rating") >= min_rating).filter(pl.len().over("user_id") >= min_interactions)
    if interactions.is_empty():
        raise ValueError(
            f"No user of {directory} has {min_interactions} ratings of at least {min_rating}; lower "
            "`min_interactions` or `min_rating`."
        )
    interactions = order_interactions(interactions.select("user_id", "item_id", "timestamp"))
    return interactions, Catalog.from_frame(items.with_columns(title=pl.Series(titles)))


def _read(path: Path, separator: str, columns: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    """The first columns of a file without a header."""
    try:
        table = pl.read_csv(
            path,
            has_header=False,
            separator=separator,
            encoding="latin1",
            quote_char=None,
            columns=list(range(len(columns))),
            infer_schema=False,
        )
        return table.rename(dict(zip(table.columns, columns, strict=True))).cast(columns)  # type: ignore[arg-type]
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path} is not as published, with {list(columns)} at first: {error}") from error
