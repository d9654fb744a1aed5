"""Settings of item indexes: their defaults, and which of them go together."""

import re

import pytest

from patchrec_hf.runtime.index_settings import INDEX_KINDS, IndexSettings, index_settings


def test_every_kind_gets_its_numbers():
    assert IndexSettings().resolved(10).to_dict() == {"kind": "flat"}
    hnsw = IndexSettings("hnsw", ef_search=7).resolved(10)
    assert (hnsw.ef_search, hnsw.m) == (7, 32)
    assert hnsw.to_dict().keys() == {"kind", "m", "ef_construction", "ef_search"}
    assert IndexSettings("ivf").resolved(10).to_dict() == {"kind": "ivf", "nlist": 1, "nprobe": 1}
    large = IndexSettings("ivf").resolved(1_000_000)
    assert (large.nlist, large.nprobe, large.k_factor) == (2000, 125, None)
    assert IndexSettings("ivf").resolved(100_000).nprobe == 80
    assert IndexSettings("ivf", nlist=20).resolved(1_000).nprobe == 20
    compressed = IndexSettings("ivfpq", nprobe=3).resolved(10_000)
    assert compressed.to_dict() == {"kind": "ivfpq", "nlist": 200, "nprobe": 3, "k_factor": 2}
    assert [IndexSettings(kind).is_exact for kind in INDEX_KINDS] == [True, False, False, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "hnws"}, "one of 'flat', 'ivf', 'ivfpq', 'hnsw', got 'hnws'. Did you mean 'hnsw'?"),
        ({"kind": "flat", "m": 8}, "`m` belongs to an index of the kind 'hnsw', got the kind 'flat'"),
        (
            {"kind": "hnsw", "nprobe": 8},
            "`nprobe` belongs to an index of the kind 'ivf' or 'ivfpq', got the kind 'hnsw'",
        ),
        ({"kind": "hnsw", "m": 1}, "`m` must be at least 2, got 1"),
        ({"kind": "ivf", "nlist": 0}, "`nlist` must be at least 1, got 0"),
        ({"kind": "ivf", "nlist": 2, "nprobe": 3}, "`nprobe` must be at most `nlist` = 2, got 3"),
    ],
)
def test_bad_values(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        IndexSettings(**settings)


def test_bad_types_and_names():
    for value in (True, 8.0, "8"):
        with pytest.raises(TypeError, match="`m` must be a whole number, got"):
            IndexSettings("hnsw", m=value)
    with pytest.raises(TypeError, match=r"no setting `efsearch`.*Did you mean `ef_search`\?"):
        index_settings("hnsw", {"efsearch": 3})
    with pytest.raises(ValueError, match="`nlist` must be at most 5, the number of items, got 6"):
        IndexSettings("ivf", nlist=6).resolved(5)
    with pytest.raises(ValueError, match="the kind 'ivfpq' needs at least 16 items, got 15"):
        IndexSettings("ivfpq").resolved(15)
    assert index_settings("ivf", {"nlist": 4}) == IndexSettings("ivf", nlist=4)
