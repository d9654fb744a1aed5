"""FAISS indexes: makes the index of FAISS that the settings of an item index describe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .index_settings import IndexSettings


_BITS = 4
"""Bits of a code of `"ivfpq"`: the tables of 16 products that FAISS keeps in registers."""
_USERS_OF_MATRIX = 20
"""Number of users from which on an index multiplies matrices."""
_ITEMS_PER_CENTROID = 64
"""Items by which k-means places a centroid. More place it hardly better, and take longer."""


def import_faiss() -> Any:
    """
    Returns FAISS, which is an extra.

    Raises:
        ImportError: If it is not installed. The message names the extra.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError('An item index needs FAISS: pip install "patchrec-hf[index]".') from error
    return faiss


def new_faiss_index(settings: IndexSettings, size: int) -> Any:
    """
    Makes an index that holds no vectors yet.

    Args:
        settings ([`IndexSettings`]):
            Its settings, resolved for the number of items.
        size (`int`):
            Number of entries of a vector.

    Returns:
        `faiss.Index`: for `"flat"`, it finds the largest products; for all other kinds, the smallest distances.

    Raises:
        ImportError: If FAISS is not installed.
    """
    faiss = import_faiss()
    if settings.kind == "flat":
        return faiss.IndexFlatIP(size)
    if settings.kind == "hnsw":
        index = faiss.IndexHNSWFlat(size, settings.m, faiss.METRIC_L2)
        index.hnsw.efConstruction = settings.ef_construction
        return index
    centroids = faiss.IndexFlatL2(size)
    if settings.kind == "ivf":
        index = lists = faiss.IndexIVFFlat(centroids, size, settings.nlist, faiss.METRIC_L2)
    else:
        lists = faiss.IndexIVFPQFastScan(centroids, size, settings.nlist, size, _BITS, faiss.METRIC_L2)
        lists.by_residual = False  # one table of products for all lists, instead of one for each
        lists.pq.cp.min_points_per_centroid = 1
        index = faiss.IndexRefineFlat(lists)
        _give(lists, index)
    _give(centroids, lists)
    lists.cp.min_points_per_centroid = 1  # a small catalog is no reason for a warning
    lists.cp.max_points_per_centroid = _ITEMS_PER_CENTROID
    return index


def set_search(index: Any, settings: IndexSettings) -> None:
    """Sets what only concerns a search: `ef_search`, `nprobe` and `k_factor`."""
    if settings.kind == "hnsw":
        index.hnsw.efSearch = settings.ef_search
    elif settings.kind == "ivf":
        index.nprobe = settings.nprobe
    elif settings.kind == "ivfpq":
        import_faiss().downcast_index(index.base_index).nprobe = settings.nprobe
        index.k_factor = settings.k_factor


@contextmanager
def matrix_products() -> Iterator[None]:
    """
    Lets FAISS multiply matrices for a few users at once, within the context. Otherwise it does so for thousands of
    users only, and takes up to ten times as long to compare users with items or centroids.
    """
    limits = import_faiss().cvar
    usual = limits.distance_compute_blas_threshold
    limits.distance_compute_blas_threshold = _USERS_OF_MATRIX
    try:
        yield
    finally:
        limits.distance_compute_blas_threshold = usual


def _give(part: Any, whole: Any) -> None:
    """Lets an index own one of its parts, which Python would free otherwise."""
    whole.own_fields = True
    part.this.disown()
