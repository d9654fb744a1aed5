"""The option `--index`: the index of item vectors that a command builds or reads."""

from __future__ import annotations

import argparse

from ..data.keywords import nearest


SAVED_INDEX = "saved"
"""The value of `--index` that reads the index that is saved with the checkpoint."""
_INDEXES = ("flat", "ivf", "ivfpq", "hnsw", SAVED_INDEX)


def add_index_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--index` to a parser."""
    parser.add_argument(
        "--index",
        metavar="INDEX",
        help="flat, ivf, ivfpq or hnsw: builds one, for a large catalog; saved: reads it",
    )


def check_index_option(index: str | None) -> None:
    """
    Checks the value of `--index`.

    Raises:
        ValueError: If it is no kind of index. The message names the nearest one.
    """
    if index is not None and index not in _INDEXES:
        raise ValueError(
            f"--index takes {', '.join(_INDEXES[:-1])} or {_INDEXES[-1]}, got {index!r}; {nearest(index, _INDEXES)}"
        )
