"""FAISS indexes: makes the index of FAISS that the settings of an item index describe."""

from __future__ import annotations

from threading import Lock
from typing import Any

from .index_settings import IndexSettings


_BITS = 4
"""Bits of a code of `"ivfpq"`: the tables of 16 products that FAISS keeps in registers."""
_SEED = 0
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
        # FAISS compares all numbers of a vector in steps of one width. So they are mixed: otherwise a number that
        # varies much, such as the bias, would make the steps too coarse for all others.
        rotation = faiss.RandomRotationMatrix(size, size)
        rotation.init(_SEED)
        rotated = faiss.IndexPreTransform(rotation, lists)
        index = faiss.IndexRefineFlat(rotated)
        _give(lists, rotated)
        rotation.this.disown()
        _give(rotated, index)
    _give(centroids, lists)
    lists.cp.min_points_per_centroid = 1  # a small catalog is no reason for a warning
    lists.cp.max_points_per_centroid = _ITEMS_PER_CENTROID
    return index


def set_search(index: Any, settings: IndexSettings) -> None:
    """Sets what only concerns a search: `ef_search`, `nprobe` and `k_factor`."""
    if settings.kind == "hnsw":
        index.hnsw.efSearch = settings.ef_search
    if settings.kind in ("ivf", "ivfpq"):
        import_faiss().extract_index_ivf(index).nprobe = settings.nprobe
    if settings.kind == "ivfpq":
        index.k_factor = settings.k_factor


class _MatrixProducts:
    """
    Context in which FAISS multiplies matrices for a few users at once. Otherwise it does so for thousands of users
    only, and takes up to ten times as long to compare users with items or centroids. The setting is the whole
    process's, so it lasts until the last thread has left the context.
    """

    def __init__(self) -> None:
        self._lock, self._num_inside, self._usual = Lock(), 0, 0

    def __enter__(self) -> None:
        limits = import_faiss().cvar
        with self._lock:
            if self._num_inside == 0:
                self._usual = limits.distance_compute_blas_threshold
                limits.distance_compute_blas_threshold = _USERS_OF_MATRIX
            self._num_inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._num_inside -= 1
            if self._num_inside == 0:
                import_faiss().cvar.distance_compute_blas_threshold = self._usual


MATRIX_PRODUCTS = _MatrixProducts()


def _give(part: Any, whole: Any) -> None:
    """Lets an index own one of its parts, which Python would free otherwise."""
    whole.own_fields = True
    part.this.disown()
