"""The fusion scorer, by hand: each part's log-probabilities, and how candidates, new items and moments change them."""

import numpy as np
import pytest
from item_parts import item_model, item_processor, scores_by_hand, table_of
from rankers import score as title_scores

from patchrec_hf import PatchRecommender, Title
from patchrec_hf.runtime.fusion import Fusion
from patchrec_hf.runtime.fusion_parts import (
    PART_CLASSES,
    ItemHeadPart,
    NeighborPart,
    SeenPart,
    SimilarTitlesPart,
    TitlePart,
)
from patchrec_hf.runtime.log_probs import log_softmax
from patchrec_hf.runtime.ranking import CatalogRanker
from patchrec_hf.runtime.ranking_config import RankingConfig
from patchrec_hf.runtime.title_similarity import log_shares


HISTORIES = [[10, 12, 16], [16, 17], [10, 12], [21]]  # the third begins the first


@pytest.fixture
def head():
    return item_model(residual_size=32, title_similarity=True)


def fused(processor, **weights):
    """A processor with a fusion of some parts. Item 0 leads to items 1 and 2."""
    dense = np.zeros((12, 12))
    dense[0, 1], dense[0, 2], dense[3, 0] = 2, 1, 1
    table = NeighborPart(table_of(dense, processor.catalog.item_ids))
    parts = {
        "item": ItemHeadPart(),
        "titles": TitlePart("vocabulary"),
        "co_visits": table,
        "similar_titles": SimilarTitlesPart(),
        "seen": SeenPart(),
    }
    return processor.with_fusion(Fusion({name: parts[name] for name in weights}, weights))


def prompts_of(processor, histories=HISTORIES):
    return [processor.encode(processor.catalog.indices_of(history)) for history in histories]


def ranker(model, processor, **settings):
    return CatalogRanker(model, processor, RankingConfig(method="fusion", **{"k": 4, **settings}))


@pytest.mark.slow
def test_all_parts_by_hand(head, processor):
    processor = fused(item_processor(processor), item=0.8, titles=0.3, co_visits=0.5, similar_titles=0.2, seen=-2.0)
    prompts = prompts_of(processor)
    found = ranker(head, processor).score(prompts)
    histories = [prompt.items for prompt in prompts]
    item = np.stack([scores_by_hand(head, processor, prompt) for prompt in prompts])
    titles = title_scores(head, processor.trie, prompts, processor.prompt.pad_id)
    similar = log_shares(processor.title_neighbors.scores(histories, 12))
    co_visits = processor.fusion.parts["co_visits"].log_probs(histories, 12)
    seen = np.array([[float(item in history) for item in range(12)] for history in histories])
    expected = log_softmax(0.8 * item + 0.3 * titles + 0.5 * co_visits + 0.2 * similar - 2.0 * seen)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, atol=1e-9)


def test_parts_are_log_probabilities(head, processor):
    processor = fused(item_processor(processor), item=1.0, titles=1.0, co_visits=1.0, similar_titles=1.0, seen=1.0)
    parts = ranker(head, processor).score_parts(prompts_of(processor))
    assert list(parts) == [name for name in PART_CLASSES if name not in ("transitions", "popularity")]
    for array in parts.values():
        assert array.dtype == np.float32
        np.testing.assert_allclose(np.exp(array).sum(axis=1), 1, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_change_nothing(head, processor, batch_size):
    processor = fused(item_processor(processor), item=1.0, titles=0.5, seen=-1.0)
    prompts = prompts_of(processor)
    expected = ranker(head, processor).score(prompts)
    found = ranker(head, processor, batch_size=batch_size).score(prompts)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_titles_over_the_catalog_need_no_softmax(model, processor):
    """Their probabilities sum to 1 by themselves. The fusion keeps their temperature."""
    fusion = Fusion({"titles": TitlePart("catalog", 2.0)}, {"titles": 1.0})
    prompts = prompts_of(processor)
    found = ranker(model, processor.with_fusion(fusion)).score(prompts)
    by_title = PatchRecommender(model, processor).log_probs(HISTORIES)
    catalog_config = RankingConfig(k=1, method="all", normalizer="catalog")
    np.testing.assert_allclose(by_title, CatalogRanker(model, processor, catalog_config).score(prompts), atol=1e-5)
    config = RankingConfig(k=1, method="all", normalizer="catalog", temperature=2.0)
    np.testing.assert_allclose(found, CatalogRanker(model, processor, config).score(prompts), atol=1e-5)
    assert not np.allclose(found, CatalogRanker(model, processor, RankingConfig(k=1)).score(prompts), atol=1e-2)


def test_one_part_ranks_as_it_does_alone(head, processor):
    processor = fused(item_processor(processor), item=1.0)
    prompts = prompts_of(processor)
    by_item = CatalogRanker(head, processor, RankingConfig(k=12, method="item")).rank(prompts)
    assert (ranker(head, processor, k=12).rank(prompts).items == by_item.items).all()


def test_candidates_and_exclusions_change_no_score(head, processor):
    processor = fused(item_processor(processor), item=1.0, co_visits=0.5)
    prompts = prompts_of(processor)
    scores = ranker(head, processor).score(prompts)
    candidates, excluded = [np.arange(2, 9)] * 4, [np.array([4, 5])] * 4
    ranking = ranker(head, processor).rank(prompts, candidates, excluded)
    assert ranking.is_exact.all()
    allowed = np.array([2, 3, 6, 7, 8])
    for row in range(4):
        best = allowed[np.argsort(-scores[row, allowed], kind="stable")][:4]
        assert ranking.items[row].tolist() == best.tolist()
        np.testing.assert_allclose(ranking.scores[row], scores[row, best])


def test_a_model_without_an_item_head_has_a_fusion_of_titles(model, processor):
    processor = fused(processor, titles=1.0, seen=-3.0)
    prompts = prompts_of(processor)
    found = ranker(model, processor).score(prompts)
    titles = title_scores(model, processor.trie, prompts, processor.prompt.pad_id)
    expected = log_softmax(titles - 3 * np.array([[float(item in p.items) for item in range(12)] for p in prompts]))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_recommender_uses_the_fusion_by_default(head, processor):
    recommender = PatchRecommender(head, fused(item_processor(processor), item=0.5, co_visits=2.0))
    scores = recommender.log_probs(HISTORIES)
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1)
    found = recommender.recommend(HISTORIES, k=3, exclude_seen=False, unique_titles=False)
    for items, row in zip(found, scores, strict=True):
        assert [item.item_id - 10 for item in items] == np.argsort(-row, kind="stable")[:3].tolist()
        np.testing.assert_allclose([item.score for item in items], np.sort(row)[::-1][:3])
        assert all(item.is_exact for item in items)
    assert recommender.recommend(HISTORIES, k=3, method="fusion", exclude_seen=False, unique_titles=False) == found
    by_item = recommender.recommend(HISTORIES[0], k=3, method="item")
    assert by_item == PatchRecommender(head, item_processor(processor)).recommend(HISTORIES[0], k=3)
    by_title = recommender.recommend(HISTORIES[0], k=3, method="exact")
    assert all(item.score <= 0 for item in by_title)


def test_a_new_item_is_found_by_its_title(head, processor):
    processor = fused(item_processor(processor), item=0.1, co_visits=1.0, similar_titles=2.0, seen=-5.0)
    grown = processor.with_catalog(processor.catalog.with_items({99: "The Time Machine"}))
    recommended = PatchRecommender(head, grown).recommend([16], k=1, exclude_seen=False)
    assert recommended[0].item_id == 99  # it has the title of the history's item, and is not in the history


def test_a_new_title_in_a_history_is_read_by_the_model_alone(head, processor):
    recommender = PatchRecommender(head, fused(item_processor(processor), item=1.0, co_visits=1.0, seen=-1.0))
    (scores,) = recommender.log_probs([[10, Title("A Book That Is New")]])
    np.testing.assert_allclose(np.exp(scores).sum(), 1)


def test_a_moment_is_one_for_each_history(head, processor):
    recommender = PatchRecommender(head, fused(item_processor(processor), item=1.0))
    expected = recommender.recommend(HISTORIES, k=2)
    assert recommender.recommend(HISTORIES, k=2, times=1_700_000_000) == expected
    assert recommender.recommend(HISTORIES, k=2, times=np.arange(4)) == expected
    with pytest.raises(ValueError, match=r"one moment for all 4 histories or one for each, got .* \(3,\)"):
        recommender.recommend(HISTORIES, times=np.arange(3))
    with pytest.raises(TypeError, match="whole numbers, in seconds since 1970 UTC"):
        recommender.recommend(HISTORIES, times=[0.5] * 4)


def test_mistakes_are_named(head, model, processor):
    with pytest.raises(ValueError, match="needs a processor with a fusion, and this one has none"):
        PatchRecommender(model, processor).recommend([10], method="fusion")
    with_item = fused(processor, item=1.0)
    with pytest.raises(ValueError, match="has the part 'item', but the model has no item head"):
        PatchRecommender(model, with_item).recommend([10])
    with pytest.raises(ValueError, match="`length_penalty` belongs to methods that rank by titles"):
        RankingConfig(method="fusion", length_penalty=1.0)
    with pytest.raises(ValueError, match=r"this one is by the fusion, which has its own\. Leave them out"):
        RankingConfig(method="fusion", normalizer="catalog")
    with pytest.raises(ValueError, match="`temperature` must be a positive number, got 0"):
        TitlePart(temperature=0)
    with pytest.raises(ValueError, match="method 'fusion' needs the items of a processor"):
        CatalogRanker.from_trie(model, processor.trie, 0, RankingConfig(method="fusion"))
    with pytest.raises(ValueError, match="`score_parts` needs a ranker with `method='fusion'`"):
        CatalogRanker(model, processor, RankingConfig(k=1)).score_parts(prompts_of(processor))
    with pytest.raises(ValueError, match="must be 'fusion', 'item' or 'all'"):
        PatchRecommender(model, processor).log_probs([[10]], method="beam")
    with pytest.raises(TypeError, match="takes a batch of histories"):
        PatchRecommender(model, processor).log_probs([10, 11])
    broken = fused(item_processor(processor), item=1.0, titles=1.0)
    head.item_head.item_vectors.bias.data[0] = float("nan")
    with pytest.raises(FloatingPointError):
        ranker(head, broken).score(prompts_of(broken))
