"""The index of FAISS is the one that the settings describe."""

import sys

import numpy as np
import pytest
from item_indexes import random_vectors

from patchrec_hf.runtime.faiss_indexes import import_faiss, matrix_products, new_faiss_index, set_search
from patchrec_hf.runtime.index_settings import IndexSettings
from patchrec_hf.runtime.item_index import ItemIndex


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    uses = (import_faiss, lambda: ItemIndex.build(random_vectors(9)), lambda: ItemIndex.from_pretrained("anywhere"))
    for use in uses:
        with pytest.raises(ImportError, match=r'needs FAISS: pip install "patchrec-hf\[index\]"'):
            use()


def test_every_kind_becomes_an_index_of_faiss():
    faiss = pytest.importorskip("faiss", reason="an item index needs the extra `index`")
    flat = new_faiss_index(IndexSettings(), 6)
    assert (type(flat), flat.d, flat.metric_type) == (faiss.IndexFlatIP, 6, faiss.METRIC_INNER_PRODUCT)
    graph = new_faiss_index(IndexSettings("hnsw", m=8, ef_construction=50, ef_search=60), 6)
    set_search(graph, IndexSettings("hnsw", ef_search=60))
    assert (graph.hnsw.efConstruction, graph.hnsw.efSearch, graph.hnsw.nb_neighbors(1)) == (50, 60, 8)
    settings = IndexSettings("ivf", nlist=5, nprobe=2)
    lists = new_faiss_index(settings, 6)
    set_search(lists, settings)
    assert (type(lists), lists.nlist, lists.nprobe) == (faiss.IndexIVFFlat, 5, 2)


def test_a_code_for_each_number():
    faiss = pytest.importorskip("faiss", reason="an item index needs the extra `index`")
    settings = IndexSettings("ivfpq", nlist=5, nprobe=2, k_factor=3)
    index = new_faiss_index(settings, 6)
    set_search(index, settings)
    lists = faiss.downcast_index(index.base_index)
    assert (lists.pq.M, lists.pq.nbits, lists.nlist, lists.nprobe, index.k_factor) == (6, 4, 5, 2, 3)
    vectors = np.random.default_rng(0).normal(size=(700, 6)).astype(np.float32)
    index.train(vectors)
    index.add(vectors)
    assert (index.reconstruct_n(10, 5) == vectors[10:15]).all()  # the vectors themselves, not their codes
    assert (index.search(vectors, 1)[1][:, 0] == np.arange(700)).mean() > 0.9


def test_faiss_keeps_its_own_limit():
    faiss = pytest.importorskip("faiss", reason="an item index needs the extra `index`")
    usual = faiss.cvar.distance_compute_blas_threshold
    with matrix_products():
        assert faiss.cvar.distance_compute_blas_threshold < usual
    assert faiss.cvar.distance_compute_blas_threshold == usual
    ItemIndex.build(random_vectors(50)).search(random_vectors(30), 3)
    assert faiss.cvar.distance_compute_blas_threshold == usual
