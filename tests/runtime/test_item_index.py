"""Item indexes: the nearest item is the one with the largest product, and stale or broken files are refused."""

import json

import numpy as np
import pytest
from item_indexes import random_users, random_vectors

from patchrec_hf.runtime.index_settings import INDEX_KINDS, IndexSettings
from patchrec_hf.runtime.item_index import (
    INDEX_NAME,
    INDEX_SETTINGS_NAME,
    ItemIndex,
    fingerprint_of,
    read_index_settings,
)


faiss = pytest.importorskip("faiss", reason="an item index needs the extra `index`")
# So thorough that a search in hundreds of items finds all of the best ones.
THOROUGH = {
    "flat": IndexSettings("flat"),
    "ivf": IndexSettings("ivf", nlist=4, nprobe=4),
    "ivfpq": IndexSettings("ivfpq", nlist=4, nprobe=4, k_factor=30),
    "hnsw": IndexSettings("hnsw", m=16, ef_construction=200, ef_search=300),
}


@pytest.mark.parametrize("kind", INDEX_KINDS)
@pytest.mark.parametrize("user_scale", [1.0, 8.0])
def test_the_largest_products_are_found(kind, user_scale):
    vectors, users = random_vectors(300), random_users(7).numpy()
    vectors[5, -1] = 20  # a bias that decides for every user
    vectors[6, :-1] *= 3  # vectors of other lengths, as products have them
    found = ItemIndex.build(vectors, THOROUGH[kind], user_scale).search(users, 12)
    expected = np.argsort(-(users @ vectors.T), axis=1)[:, :12]
    assert (found == expected).all()
    assert (found[:, 0] == 5).all()


def test_by_hand():
    vectors = np.array([[1, 0, 0], [0, 1, 0.5], [0.6, 0.8, 0], [-1, 0, 9]], dtype=np.float32)
    users = np.array([[2, 0, 1], [0, 3, 1]], dtype=np.float32)
    # Products: 2, 0.5, 1.2, 7 and 0, 3.5, 2.4, 9.
    for settings in (IndexSettings(), IndexSettings("hnsw"), IndexSettings("ivf", nlist=1)):
        index = ItemIndex.build(vectors, settings, 2.0)
        assert index.search(users, 3).tolist() == [[3, 0, 2], [3, 1, 2]]
        assert index.num_items == 4
    assert repr(ItemIndex.build(vectors, IndexSettings("ivf"))) == "ItemIndex(4 items, kind='ivf', nlist=1, nprobe=1)"


@pytest.mark.parametrize("kind", ["ivf", "ivfpq"])
def test_lists_are_chosen_by_products(kind):
    # Half of the items lie in dense groups, the others anywhere. The centroids of the others are short, so that they
    # are the nearest ones to a short user vector, whatever its products are.
    rng = np.random.default_rng(0)
    vectors = random_vectors(4000, size=17)
    vectors[:2000, :-1] = np.repeat(vectors[:20, :-1], 100, axis=0) + rng.normal(0, 0.05, (2000, 16))
    vectors[:, -1] = 0
    users = np.ones((20, 17), dtype=np.float32)
    users[:, :-1] = 8 * vectors[:2000:100, :-1]
    found = ItemIndex.build(vectors, IndexSettings(kind, nlist=40, nprobe=4), 8.0).search(users, 10)
    expected = np.argsort(-(users @ vectors.T), axis=1)[:, :10]
    recall = np.mean([np.isin(best, some).mean() for best, some in zip(expected, found, strict=True)])
    assert recall > (0.9 if kind == "ivf" else 0.75)  # codes tell items of one group hardly apart


@pytest.mark.parametrize("kind", INDEX_KINDS)
def test_saved_and_loaded(kind, tmp_path):
    vectors, users = random_vectors(200), random_users(5).numpy()
    index = ItemIndex.build(vectors, THOROUGH[kind], 8.0)
    index.save_pretrained(tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {INDEX_NAME, INDEX_SETTINGS_NAME}
    loaded = ItemIndex.from_pretrained(tmp_path / "new")
    assert loaded.settings == index.settings
    assert (loaded.fingerprint, loaded.digest) == (index.fingerprint, index.digest)
    assert (loaded.search(users, 9) == index.search(users, 9)).all()
    loaded.check_vectors(vectors)
    saved = read_index_settings(tmp_path / "new", {})
    assert (saved["num_items"], saved["settings"]["kind"]) == (200, kind)


def test_settings_of_a_search_can_be_replaced(tmp_path):
    vectors = random_vectors(200)
    index = ItemIndex.build(vectors, IndexSettings("hnsw", m=4))
    index.save_pretrained(tmp_path)
    loaded = ItemIndex.from_pretrained(tmp_path, ef_search=5)
    assert loaded.settings.ef_search == loaded._faiss_index.hnsw.efSearch == 5
    assert loaded.digest != index.digest
    with pytest.raises(ValueError, match="`nprobe` belongs to an index of the kind 'ivf' or 'ivfpq'"):
        ItemIndex.from_pretrained(tmp_path, nprobe=2)
    for kind in ("ivf", "ivfpq"):
        ItemIndex.build(vectors, THOROUGH[kind]).save_pretrained(tmp_path)
        assert faiss.extract_index_ivf(ItemIndex.from_pretrained(tmp_path, nprobe=1)._faiss_index).nprobe == 1
    assert ItemIndex.from_pretrained(tmp_path, k_factor=2)._faiss_index.k_factor == 2


@pytest.mark.parametrize("kind", INDEX_KINDS)
def test_a_stale_index_is_refused(kind):
    vectors = random_vectors(100)
    index = ItemIndex.build(vectors, THOROUGH[kind], 8.0)
    index.check_vectors(vectors)
    index.check_vectors(vectors * np.float32(1 + 1e-6))  # another machine's last digits
    for item, entry in ((70, 2), (31, -1)):
        other = vectors.copy()
        other[item, entry] += 0.1
        with pytest.raises(ValueError, match=f"stale.*catalog index {item} differs by 0.1.*Build it again"):
            index.check_vectors(other)
    with pytest.raises(ValueError, match=r"holds 100 vectors of 5 entries and a bias, and the checkpoint has 101"):
        index.check_vectors(random_vectors(101))
    with pytest.raises(ValueError, match=r"of 5 entries and a bias, and the checkpoint .* with vectors of 3"):
        index.check_vectors(random_vectors(100, size=4))


@pytest.mark.parametrize("kind", INDEX_KINDS)
def test_vectors_that_are_not_finite_are_refused(kind):
    vectors = random_vectors(100)
    vectors[42, 3] = np.nan
    with pytest.raises(ValueError, match=r"catalog index 42 holds .*nan"):
        ItemIndex.build(vectors, THOROUGH[kind])


def test_broken_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no directory"):
        ItemIndex.from_pretrained(tmp_path / "none")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"There is no item index in .*build_index\('hnsw'\).save_pretrained"):
        ItemIndex.from_pretrained(tmp_path)
    ItemIndex.build(random_vectors(100)).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / INDEX_SETTINGS_NAME).read_text())
    whole = (tmp_path / INDEX_NAME).read_bytes()
    (tmp_path / INDEX_NAME).write_bytes(whole[:-8])
    with pytest.raises(ValueError, match=f"not the index that {INDEX_SETTINGS_NAME} describes"):
        ItemIndex.from_pretrained(tmp_path)
    (tmp_path / INDEX_NAME).write_bytes(whole)
    for text, message in (
        ("[", "does not describe an item index"),
        (json.dumps({**settings, "format_version": 99}), "format version 99"),
        (json.dumps({"format_version": 1}), "it lacks 'digest'"),
    ):
        (tmp_path / INDEX_SETTINGS_NAME).write_text(text)
        with pytest.raises(ValueError, match=message):
            ItemIndex.from_pretrained(tmp_path)


def test_fingerprints_differ_where_a_number_does():
    vectors = random_vectors(20)
    other = vectors.copy()
    other[3, 1] = np.nextafter(other[3, 1], 9)
    assert fingerprint_of(vectors) == fingerprint_of(vectors.copy()) != fingerprint_of(other)
