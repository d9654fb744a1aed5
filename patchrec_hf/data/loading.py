"""Loading: from the name of a data set to example rows and a catalog."""

from __future__ import annotations

from pathlib import Path

from datasets import DatasetDict

from ..catalog import Catalog
from .interactions import order_interactions, read_directory
from .movielens import read_movielens_100k
from .sample import generate_sample_interactions, load_sample_items
from .splits import make_examples, temporal_split


def load_recommendation_data(
    name_or_path: str | Path, max_history: int = 100, min_history: int = 3, targets_per_row: int = 1
) -> tuple[DatasetDict, Catalog]:
    """
    Loads a data set.

    Args:
        name_or_path (`str` or `pathlib.Path`):
            `"sample"`, the embedded one (synthetic readers of real books), or a directory: of MovieLens-100K as it is
            published (see [`read_movielens_100k`]), or with `interactions.parquet` and `items.parquet` (see
            [`read_directory`]). Interactions without a `split` are split in time.
        max_history (`int`, *optional*, defaults to `100`):
            How many of the latest earlier items a row holds.
        min_history (`int`, *optional*, defaults to `3`):
            Interactions with fewer earlier ones are predicted by no row.
        targets_per_row (`int`, *optional*, defaults to `1`):
            How many consecutive interactions of a user a training row may predict (see [`make_examples`]).

    Returns:
        `tuple[DatasetDict, Catalog]`: the rows of `train`, `validation` and `test` (see [`make_examples`]), and the
        items.

    Raises:
        FileNotFoundError: If the directory lacks one of its two files.
        ValueError: If a table is not as described, a split is empty, or a setting is out of its range.
    """
    if name_or_path == "sample":
        interactions = order_interactions(generate_sample_interactions())
        catalog = Catalog.from_frame(load_sample_items())
    elif (Path(name_or_path) / "u.data").is_file():
        interactions, catalog = read_movielens_100k(name_or_path)
    else:
        interactions, catalog = read_directory(name_or_path)
    if "split" not in interactions.columns:
        interactions = temporal_split(interactions)
    examples = make_examples(
        interactions, catalog, max_history=max_history, min_history=min_history, targets_per_row=targets_per_row
    )
    return examples, catalog
