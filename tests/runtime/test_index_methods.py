"""Methods with an index, on a model: by the item head, and by titles among what the item head proposes."""

import numpy as np
import pytest
from item_indexes import count_searches
from users_of_jobs import histories, make_recommender

from patchrec_hf import PatchRecommender
from patchrec_hf.runtime.index_methods import check_num_candidates, index_method
from patchrec_hf.runtime.ranking import CatalogRanking


pytest.importorskip("faiss", reason="an item index needs the extra `index`")


@pytest.fixture(scope="module")
def recommender(processor):
    return make_recommender(processor)


@pytest.fixture(scope="module")
def index(recommender):
    return recommender.build_index()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"exclude_seen": False},
        {"unique_titles": False, "k": 12},
        {"candidates": [10, 12, 14, 15, 17, 18, 19, 20, 21]},
        {"k": 12, "num_candidates": 12},
    ],
)
def test_the_item_head_ranks_as_without_an_index(recommender, index, settings):
    settings = {"k": 4, "batch_size": 3, **settings}
    expected = {name: value for name, value in settings.items() if name != "num_candidates"}
    for kind in (index, recommender.build_index("hnsw")):
        found = recommender.recommend(histories(), index=kind, **settings)
        for mine, theirs in zip(found, recommender.recommend(histories(), method="item", **expected), strict=True):
            assert [item.item_id for item in mine] == [item.item_id for item in theirs]
            np.testing.assert_allclose([item.score for item in mine], [item.score for item in theirs], atol=1e-5)
            assert all(item.is_exact for item in mine)  # the small catalog is scored as a whole
    one = recommender.recommend(histories()[3], index=index, **settings)
    assert [item.item_id for item in one] == [item.item_id for item in found[3]]


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_what_an_index_proposes_is_ranked(recommender, kind, exclude_seen, monkeypatch):
    searches = count_searches(monkeypatch)
    settings = {"k": 2, "exclude_seen": exclude_seen}
    found = recommender.recommend(histories(), index=recommender.build_index(kind), **settings)
    assert set(searches) == {kind}
    for mine, theirs in zip(found, recommender.recommend(histories(), method="item", **settings), strict=True):
        assert [item.item_id for item in mine] == [item.item_id for item in theirs]


@pytest.mark.parametrize("candidates", [[10, 12], [10, 12, 14, 15, 17, 18, 19, 20, 21]])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_candidates_are_scored_without_the_index(recommender, candidates, exclude_seen, monkeypatch):
    """Also lists of most of the catalog."""
    monkeypatch.setattr("patchrec_hf.runtime.index_ranking._LARGEST_SHARE", 1.0)
    monkeypatch.setattr("patchrec_hf.runtime.index_ranking._LEAST_EXTRA", 0)
    index = recommender.build_index("ivf", nlist=3, nprobe=1)
    monkeypatch.setattr(index, "search", lambda *arguments: pytest.fail("The index was searched."))
    histories = [[11], [13, 16], [17]]
    settings = {"k": 4, "candidates": candidates, "exclude_seen": exclude_seen}
    found = recommender.recommend(histories, index=index, **settings)
    assert found == recommender.recommend(histories, method="item", **settings)
    assert all(item.is_exact for items in found for item in items)


def test_titles_rank_what_the_item_head_proposes(recommender, index):
    for history in histories()[:4]:
        proposed = [item.item_id for item in recommender.recommend(history, 5, method="item")]
        found = recommender.recommend(history, 3, method="exact", index=index, num_candidates=5)
        expected = recommender.recommend(history, 3, method="exact", candidates=proposed)
        assert [item.title for item in found] == [item.title for item in expected]
        np.testing.assert_allclose([item.score for item in found], [item.score for item in expected], atol=1e-4)
        assert not any(item.is_exact for item in found)
        everything = recommender.recommend(history, 3, method="exact", index=index)
        assert [item.title for item in everything] == [
            item.title for item in recommender.recommend(history, 3, method="exact")
        ]


def test_new_titles_and_new_items(recommender):
    processor = recommender.processor.with_catalog(recommender.catalog.with_items({99: "Ozma of Emma"}))
    grown = type(recommender)(recommender.model, processor)
    index = grown.build_index()
    for history in ([10, 99], [10, "Emma and Ozma"]):
        found, expected = grown.recommend(history, 12, index=index), grown.recommend(history, 12, method="item")
        assert [item.item_id for item in found] == [item.item_id for item in expected]
    with pytest.raises(ValueError, match="holds 13 vectors of 32 entries and a bias, and the checkpoint has 12 items"):
        recommender.recommend([10], index=index)


def test_a_state_ranks_by_an_index_too(recommender, index):
    state = recommender.start([10, 11])
    state.append(12)
    expected = recommender.recommend([10, 11, 12], 4, index=index)
    assert [item.item_id for item in state.recommend(4, index=index)] == [item.item_id for item in expected]


def test_saved_beside_the_checkpoint(recommender, tmp_path):
    recommender.model.save_pretrained(tmp_path)
    recommender.processor.save_pretrained(tmp_path)
    recommender.build_index("ivf", nlist=3, nprobe=3).save_pretrained(tmp_path)
    loaded = type(recommender).from_pretrained(tmp_path)
    index = loaded.load_index(tmp_path)
    assert index.kind == "ivf"
    assert loaded.recommend([10], index=index) == recommender.recommend([10], method="item")
    assert loaded.index_recall(index, histories(), 5) == 1.0


def test_recall_counts_what_was_found(recommender, index, monkeypatch):
    """An index that finds two of each four best items."""
    best = recommender.recommend(histories(), 4, method="item", exclude_seen=False, unique_titles=False)
    indices = [recommender.catalog.indices_of([item.item_id for item in items]) for items in best]
    items = np.stack([[*some[:2], *np.setdiff1d(np.arange(12), some)[:2]] for some in indices])
    numbers, flags = np.zeros(len(items), dtype=np.int64), np.zeros(len(items), dtype=bool)
    found = CatalogRanking(items, np.zeros(items.shape), flags, flags, numbers, numbers)
    monkeypatch.setattr("patchrec_hf.runtime.recommendations.rank_by_index", lambda *args, **settings: found)
    assert recommender.index_recall(index, histories(), 4, exclude_seen=False) == 0.5


def test_bad_arguments(recommender, index):
    for settings, message in (
        ({"method": "fusion", "index": index}, "for `method='item'` or `method='exact'`, got 'fusion'"),
        ({"num_candidates": 20}, "`num_candidates` belongs to an `index`, and there is none; got 20"),
        ({"num_candidates": 2, "index": index}, "`num_candidates` must be at least k = 3, got 2"),
        ({"num_beams": 5, "index": index}, "`num_beams` belongs to `method='beam'`"),
        ({"candidates": [[]], "index": index}, "Row 0 has no candidates"),
    ):
        with pytest.raises(ValueError, match=message):
            recommender.recommend([[10, 11]], 3, **settings)
    with pytest.raises(ValueError, match="Row 1 has no item left to recommend: all 12 candidates are excluded"):
        recommender.recommend([[10], [*range(10, 22)]], 3, index=index)
    with pytest.raises(ValueError, match="Row 0 has no item left to recommend: all 1 candidates are excluded"):
        recommender.recommend([[10]], 3, candidates=[10], index=index)
    with pytest.raises(TypeError, match=r"must be an `ItemIndex`, got 'hnsw'.*build_index"):
        recommender.recommend([10], 3, index="hnsw")
    with pytest.raises(TypeError, match="takes a batch of histories"):
        recommender.index_recall(index, [10, 11])
    with pytest.raises(TypeError, match="`num_candidates` must be a whole number, got"):
        check_num_candidates(2.5, 2)
    assert (index_method(None), index_method("exact"), check_num_candidates(None, 9)) == ("item", "exact", None)


def test_models_without_an_item_head(processor, model):
    with pytest.raises(ValueError, match="needs a model with an item head"):
        PatchRecommender(model, processor).build_index()
