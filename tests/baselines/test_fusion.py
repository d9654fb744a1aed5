"""Fusion equals one of its parts at each end. On the rows that chose its weight, it is at least as good as both."""

import numpy as np
import pytest
from rankers import score

from patchrec_hf import Catalog, PatchRecommender, evaluate_model, evaluate_scorer
from patchrec_hf.baselines import Fusion
from patchrec_hf.runtime.trie import build_trie


class Table:
    """A baseline that scores by a fixed table, whatever the history."""

    def __init__(self, scores, catalog):
        self.catalog = catalog
        self.scores = np.asarray(scores, dtype=np.float64)

    def score(self, histories):
        return np.tile(self.scores, (len(histories), 1))


@pytest.fixture
def recommender(model, processor):
    return PatchRecommender(model, processor)


@pytest.fixture
def baseline(catalog):
    return Table([3, 1, 4, 1.5, 9, 2.6, 5, 3.5, 8, 9.7, 9.3, 2.3], catalog)


def test_sum_by_hand(recommender, processor, baseline):
    histories = [[10, 11, 12], [16, 17]]
    fusion = Fusion(recommender, baseline, weight=0.25, num_candidates=2)
    prompts = [processor.encode(processor.catalog.indices_of(h)) for h in histories]
    trie = build_trie(processor.title_tokens, processor.prompt.end_of_turn_id)
    llm = score(recommender.model, trie, prompts, processor.prompt.pad_id).astype(np.float64)
    for found, scores in zip(fusion.score(histories), llm, strict=True):
        union = sorted({*np.argsort(-scores, kind="stable")[:2], *np.argsort(-baseline.scores)[:2]})
        one, two = scores[union], baseline.scores[union]
        expected = 0.75 * (one - one.mean()) / one.std() + 0.25 * (two - two.mean()) / two.std()
        np.testing.assert_allclose(found[union], expected, atol=1e-4)
        assert np.isneginf(np.delete(found, union)).all()


def test_ends_are_the_parts(recommender, processor, baseline, rows):
    catalog = processor.catalog
    llm = evaluate_model(recommender.model, processor, rows, k=5, show_progress=False)
    alone = evaluate_scorer(baseline, catalog, rows, show_progress=False)
    for weight, part in ((0.0, llm), (1.0, alone)):
        fused = evaluate_scorer(Fusion(recommender, baseline, weight, 6), catalog, rows, show_progress=False)
        for name in ("hr@5", "ndcg@5", "mrr@5"):
            assert fused.metrics([5])[name] == pytest.approx(part.metrics([5])[name])


def test_fit_is_at_least_as_good_as_the_better_part(recommender, processor, baseline, rows):
    fusion = Fusion(recommender, baseline).fit(rows, "ndcg@3")
    parts = [evaluate_scorer(Fusion(recommender, baseline, weight), processor.catalog, rows, show_progress=False)
             for weight in (0.0, 1.0)]  # fmt: skip
    fused = evaluate_scorer(fusion, processor.catalog, rows, show_progress=False)
    assert fused.metrics([3])["ndcg@3"] >= max(part.metrics([3])["ndcg@3"] for part in parts)


def test_fit_gives_an_oracle_all_the_weight(recommender, processor, rows):
    """All targets are one item, which the baseline knows."""
    same = rows.map(lambda row: {"item_ids": [*row["item_ids"][:-1], 20]})
    scores = np.zeros(12)
    scores[10] = 1
    fusion = Fusion(recommender, Table(scores, processor.catalog)).fit(same, "hr@1", weights=[0.0, 1.0])
    assert fusion.weight == 1.0
    report = evaluate_scorer(fusion, processor.catalog, same, show_progress=False)
    assert report.metrics([1])["hr@1"] == 1


def test_mistakes_are_named(recommender, baseline, rows):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Fusion(recommender, baseline, weight=1.5)
    with pytest.raises(ValueError, match="num_candidates"):
        Fusion(recommender, baseline, num_candidates=0)
    with pytest.raises(ValueError, match="ndcg@k"):
        Fusion(recommender, baseline).fit(rows, "accuracy")
    with pytest.raises(ValueError, match="only 5 candidates"):
        Fusion(recommender, baseline, num_candidates=5).fit(rows)
    with pytest.raises(ValueError, match="History 1 is empty"):
        Fusion(recommender, baseline).score([[10], []])
    with pytest.raises(TypeError, match=r"Score a single one by `score\(\[ids\]\)`"):
        Fusion(recommender, baseline).score([1, 2])


def test_parts_of_different_data_sets_are_refused(recommender, baseline, catalog):
    others = (
        (Catalog(catalog.item_ids[:5], catalog.titles[:5]), "catalog of 12 items and the baseline's of 5"),
        (Catalog(catalog.item_ids[::-1], catalog.titles[::-1]), "same ids in the same order"),
        (Catalog(catalog.item_ids, catalog.titles[::-1]), "different data sets"),
    )
    for other, problem in others:
        with pytest.raises(ValueError, match=problem):
            Fusion(recommender, Table(baseline.scores, other))
