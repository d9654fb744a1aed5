"""The index of FAISS is the one that the settings describe."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from item_indexes import random_vectors

from patchrec_hf.runtime.faiss_indexes import MATRIX_PRODUCTS, import_faiss, new_faiss_index, set_search
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
    lists = faiss.downcast_index(faiss.extract_index_ivf(index.base_index))
    assert (lists.pq.M, lists.pq.nbits, lists.nlist, lists.nprobe, index.k_factor) == (6, 4, 5, 2, 3)
    vectors = np.random.default_rng(0).normal(size=(700, 6)).astype(np.float32)
    index.train(vectors)
    index.add(vectors)
    assert (index.reconstruct_n(10, 5) == vectors[10:15]).all()  # the vectors themselves, not their codes
    assert (index.search(vectors, 1)[1][:, 0] == np.arange(700)).mean() > 0.9


def test_faiss_keeps_its_own_limit():
    faiss = pytest.importorskip("faiss", reason="an item index needs the extra `index`")
    usual = faiss.cvar.distance_compute_blas_threshold
    with MATRIX_PRODUCTS:
        with MATRIX_PRODUCTS:  # as a second thread
            assert faiss.cvar.distance_compute_blas_threshold < usual
        assert faiss.cvar.distance_compute_blas_threshold < usual
    assert faiss.cvar.distance_compute_blas_threshold == usual
    index, users = ItemIndex.build(random_vectors(50)), random_vectors(30)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: index.search(users, 3).tolist(), range(80)))
    assert found == [found[0]] * 80
    assert faiss.cvar.distance_compute_blas_threshold == usual


def test_a_number_that_varies_much_leaves_the_codes_of_others_fine():
    pytest.importorskip("faiss", reason="an item index needs the extra `index`")
    vectors, users = random_vectors(3_000, size=200), random_vectors(50, size=200, seed=1)
    vectors[:, -1] *= 3  # as long as the 199 other entries together
    index = ItemIndex.build(vectors, IndexSettings("ivfpq", nlist=4, nprobe=4))
    best = np.argsort(-(users @ vectors.T), axis=1)[:, :10]
    found = index.search(users, 10)
    assert np.mean([np.isin(expected, some).mean() for expected, some in zip(best, found, strict=True)]) > 0.9
