"""Fusion equals one of its parts at each end. On the rows that chose its weight, it is at least as good as both."""

import json

import numpy as np
import pytest
from datasets import Dataset
from rankers import score

from patchrec_hf import Catalog, PatchRecommender, PatchRecProcessor, evaluate_model, evaluate_scorer
from patchrec_hf.baselines import CoVisitation, Fusion, Popularity
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


def test_recommends_among_the_union(recommender, baseline):
    """The union is made of the items that may be recommended."""
    fusion = Fusion(recommender, baseline, weight=0.25, num_candidates=12)
    catalog, history = fusion.catalog, [10, 11]
    allowed = ~np.isin(catalog.item_ids, history)[None]
    (scores,) = fusion.score_candidates([history], allowed, 12)
    assert np.isneginf(scores[:2]).all()
    found = fusion.recommend(history, k=12, unique_titles=False)
    best = np.argsort(-scores, kind="stable")[:10]
    assert [item.item_id for item in found] == catalog.item_ids[best].tolist()
    # None of these is among the two best of the baseline.
    among = Fusion(recommender, baseline, 0.25, 2).recommend(history, k=3, candidates=[12, 13, 16])
    assert {item.item_id for item in among} == {12, 13, 16}
    only_baseline = Fusion(recommender, baseline, weight=1.0, num_candidates=2)
    assert [item.item_id for item in only_baseline.recommend(history, k=2, candidates=[12, 13, 16])] == [16, 12]


@pytest.mark.parametrize("num_candidates", [1, 3, 12])
@pytest.mark.parametrize("unique_titles", [True, False])
def test_seen_items_take_no_places_of_the_union(recommender, baseline, num_candidates, unique_titles):
    fusion = Fusion(recommender, baseline, 0.25, num_candidates)
    titles = dict(zip(fusion.catalog.item_ids.tolist(), fusion.catalog.titles, strict=True))
    for history in ([10], [14, 18, 19, 20], list(range(10, 21))):  # the baseline likes those four most
        seen = {titles[item_id] for item_id in history}
        left = [title for title in titles.values() if title not in seen]
        for k in (1, 4, 12):
            found = fusion.recommend(history, k=k, unique_titles=unique_titles)
            assert len(found) == min(k, len(set(left) if unique_titles else left)), (history, k)
            assert not {item.title for item in found} & seen
    with pytest.raises(ValueError, match="Row 0 has no item left to recommend"):
        fusion.recommend(list(titles))


def test_items_of_one_title_take_no_places_of_other_titles(model, processor, catalog):
    """A list of k titles needs more than k items in the union if several items share a title."""
    alike = Catalog(catalog.item_ids, [*catalog.titles[:6], *[catalog.titles[6]] * 6])
    recommender = PatchRecommender(model, PatchRecProcessor(processor.tokenizer, alike, processor.prompt))
    # The baseline likes the items that share a title.
    fusion = Fusion(recommender, Table(np.arange(12), alike), weight=1.0, num_candidates=1)
    found = fusion.recommend([10], k=4)
    assert [item.item_id for item in found] == [21, 15, 13, 12]  # 14 and 15 share a title, too


def test_is_saved_with_both_parts(recommender, catalog, rows, tmp_path):
    fusion = Fusion(recommender, CoVisitation(catalog).fit(rows), weight=0.35, num_candidates=7, batch_size=3)
    expected = fusion.recommend([[10, 11], [17]], k=4)
    fusion.save_pretrained(tmp_path / "fusion")
    loaded = Fusion.from_pretrained(tmp_path / "fusion")
    assert (loaded.weight, loaded.num_candidates, loaded.batch_size) == (0.35, 7, 3)
    assert isinstance(loaded.baseline, CoVisitation)
    found = loaded.recommend([[10, 11], [17]], k=4)
    for one, two in zip(found, expected, strict=True):
        assert [item.item_id for item in one] == [item.item_id for item in two]
        np.testing.assert_allclose([item.score for item in one], [item.score for item in two], rtol=1e-4)


def test_a_fusion_that_cannot_be_saved_or_loaded_is_named(recommender, baseline, catalog, rows, tmp_path):
    with pytest.raises(TypeError, match="baseline is a `Table`, which the library cannot load again"):
        Fusion(recommender, baseline).save_pretrained(tmp_path / "fusion")
    with pytest.raises(RuntimeError, match="call `fit` first"):
        Fusion(recommender, CoVisitation(catalog)).save_pretrained(tmp_path / "fusion")
    assert not (tmp_path / "fusion").exists()
    with pytest.raises(FileNotFoundError, match=r"holds no fusion: it lacks fusion\.json"):
        Fusion.from_pretrained(tmp_path)
    Fusion(recommender, Popularity(catalog).fit(rows)).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "fusion.json").read_text())
    (tmp_path / "fusion.json").write_text(json.dumps({**settings, "format_version": 99}))
    with pytest.raises(ValueError, match=r"fusion\.json has format version 99"):
        Fusion.from_pretrained(tmp_path)


def test_a_baseline_that_reads_times_gets_them(recommender, catalog, rows, tmp_path):
    """Item 11 is popular on day 1, and item 12 on day 2; at the weight 1, only the baseline counts."""
    day = 86_400
    counted = [
        {"user_id": user, "item_ids": [10, item], "target_positions": [1], "timestamps": [time, time]}
        for user, (item, time) in enumerate([(11, day), (11, day), (12, 2 * day), (12, 2 * day)])
    ]
    timed = Dataset.from_list(counted)
    baseline = Popularity(catalog, 1).fit(timed)
    fusion = Fusion(recommender, baseline, weight=1.0)
    assert fusion.reads_times
    assert not Fusion(recommender, Popularity(catalog).fit(timed)).reads_times
    times = np.array([2 * day, 3 * day])
    best = fusion.score([[10, 20], [10, 20]], times)
    best[:, 0] = -np.inf  # item 10
    assert catalog.item_ids[best.argmax(axis=1)].tolist() == [11, 12]
    lists = fusion.recommend([[10, 20], [10, 20]], k=1, times=times.tolist())
    assert [item.item_id for (item,) in lists] == [11, 12]
    assert fusion.recommend([10, 20], k=1)[0].item_id == 12  # the day after the last counted one
    asked = [
        {"user_id": 7, "item_ids": [10, 20, 11], "target_positions": [2], "timestamps": [0, 0, 2 * day]},
        {"user_id": 8, "item_ids": [10, 20, 12], "target_positions": [2], "timestamps": [0, 0, 3 * day]},
    ]
    fusion.fit(Dataset.from_list(asked), "hr@2", weights=[1.0], show_progress=False)
    fusion.save_pretrained(tmp_path / "fusion")
    assert Fusion.from_pretrained(tmp_path / "fusion").recommend([10, 20], k=1, times=2 * day)[0].item_id == 11
    for call in (lambda: fusion.score([[10]]), lambda: fusion.fit(rows, show_progress=False)):
        with pytest.raises(ValueError, match="Popularity reads the moment of asking"):
            call()
