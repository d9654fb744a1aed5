"""The option `--index`: the index of item vectors that a command builds or reads."""

from __future__ import annotations

import argparse

from ..data.keywords import nearest
from ..runtime.faiss_indexes import import_faiss
from ..runtime.index_methods import index_method
from ..runtime.index_settings import INDEX_KINDS
from ..runtime.ranking_config import Method


SAVED_INDEX = "saved"
"""The value of `--index` that reads the index that is saved with the checkpoint."""
_INDEXES = (*INDEX_KINDS, SAVED_INDEX)


def add_index_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--index` to a parser."""
    parser.add_argument(
        "--index",
        metavar="INDEX",
        help="index for a large catalog: flat, ivf, ivfpq or hnsw; saved: reads one",
    )


def check_index_option(index: str | None, method: Method | None) -> None:
    """
    Checks `--index` before a checkpoint is loaded.

    Args:
        index (`str`, *optional*):
            The value of `--index`.
        method (`str`, *optional*):
            The method of ranking.

    Raises:
        ImportError: If FAISS is not installed.
        ValueError: If it is no kind of index, or the method does not go with an index. The message names the nearest
            kind.
    """
    if index is None:
        return
    if index not in _INDEXES:
        raise ValueError(
            f"--index takes {', '.join(_INDEXES[:-1])} or {_INDEXES[-1]}, got {index!r}; {nearest(index, _INDEXES)}"
        )
    index_method(method)
    import_faiss()
