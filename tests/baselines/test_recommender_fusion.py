"""Fusion of any recommenders: by hand, its weights on rows that chose them, its files, and its mistakes."""

import json

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from item_parts import item_model, item_processor, plain_model
from tiers import scaled

from patchrec_hf import (
    Catalog,
    PatchRecommender,
    PatchRecProcessor,
    TimeWindowLayout,
    evaluate_scorer,
    fit_fusion,
)
from patchrec_hf.baselines import CoVisitation, Fusion, Popularity
from patchrec_hf.baselines.recommender_fusion import FusionPart
from patchrec_hf.runtime.fusion import Fusion as RuntimeFusion
from patchrec_hf.runtime.fusion_parts import PopularityPart
from patchrec_hf.runtime.log_probs import log_softmax


SCORES = [3, 1, 4, 1.5, 9, 2.6, 5, 3.5, 8, 9.7, 9.3, 2.3]


class Table:
    """A part that scores by a fixed table, whatever the history. It remembers the moments of asking."""

    def __init__(self, scores, catalog):
        self.catalog = catalog
        self.scores = np.asarray(scores, dtype=np.float64)
        self.times = None

    def log_probs(self, histories, times=None):
        self.times = times
        return log_softmax(np.tile(self.scores, (len(histories), 1)))


@pytest.fixture
def recommender(model, processor):
    return PatchRecommender(model, processor)


@pytest.fixture
def table(catalog):
    return Table(SCORES, catalog)


@pytest.fixture
def co_visitation(catalog, rows):
    return CoVisitation(catalog).fit(rows)


@pytest.mark.slow
def test_mix_by_hand(recommender, table, co_visitation):
    histories = [[10, 11, 12], [16, 17]]
    weights = {"LLM": 0.7, "table": 0.25, "co-visits": -0.1}
    fusion = Fusion({"LLM": recommender, "table": table, "co-visits": co_visitation}, weights)
    parts = [recommender.log_probs(histories), table.log_probs(histories), co_visitation.log_probs(histories)]
    expected = np.exp(0.7 * parts[0] + 0.25 * parts[1] - 0.1 * parts[2])
    found = fusion.log_probs(histories)
    np.testing.assert_allclose(np.exp(found), expected / expected.sum(axis=1, keepdims=True))
    assert (fusion.score(histories) == found).all()


def test_baselines_give_log_probabilities_by_hand(catalog, rows, co_visitation):
    popularity = Popularity(catalog).fit(rows)
    found = np.exp(popularity.log_probs([[10], [11]]))
    np.testing.assert_allclose(found, np.tile((popularity.counts + 1) / (popularity.counts.sum() + 12), (2, 1)))
    shares = co_visitation.score([[10, 11]])
    shares /= shares.sum()
    np.testing.assert_allclose(np.exp(co_visitation.log_probs([[10, 11]])), (shares + 1e-4) / (1 + 12e-4))


def test_one_part_alone_is_the_part(table, rows):
    fusion = Fusion({"table": table})
    assert fusion.weights == {"table": 1.0}
    np.testing.assert_allclose(fusion.log_probs([[10]]), table.log_probs([[10]]))


@pytest.mark.slow
def test_fit_is_never_below_the_best_part(recommender, table, co_visitation, rows):
    fusion = Fusion({"LLM": recommender, "table": table, "co-visits": co_visitation}).fit(rows, show_progress=False)
    assert fusion.fit_result.num_targets == 14
    assert fusion.fit_result.log_likelihood >= max(fusion.fit_result.of_parts.values())
    histories = [row["item_ids"][:-1] for row in rows]
    targets = [row["item_ids"][-1] - 10 for row in rows]
    reached = fusion.log_probs(histories)[np.arange(14), targets].mean()
    assert reached == pytest.approx(fusion.fit_result.log_likelihood, abs=1e-5)
    alone = co_visitation.log_probs(histories)[np.arange(14), targets].mean()
    assert alone == pytest.approx(fusion.fit_result.of_parts["co-visits"], abs=1e-5)


@pytest.mark.slow
def test_fit_trusts_an_oracle(recommender, catalog, rows):
    """All targets are one item, which a part knows."""
    same = rows.map(lambda row: {"item_ids": [*row["item_ids"][:-1], 20]})
    scores = np.zeros(12)
    scores[10] = 2
    fusion = Fusion({"LLM": recommender, "oracle": Table(scores, catalog)}).fit(same, show_progress=False)
    assert fusion.weights["oracle"] > 1
    assert evaluate_scorer(fusion, catalog, same, show_progress=False).metrics([1])["hr@1"] == 1


def test_a_checkpoint_with_a_fusion_is_a_part(processor, co_visitation, rows):
    model, processor = item_model(residual_size=32), item_processor(processor)
    fitted = fit_fusion(model, processor, rows, rows, ["item", "seen"], show_progress=False)
    llm = PatchRecommender(model, fitted)
    fusion = Fusion({"LLM": llm, "co-visits": co_visitation}, {"LLM": 1.0, "co-visits": 0.0})
    np.testing.assert_allclose(fusion.log_probs([[10, 11]]), llm.log_probs([[10, 11]], method="fusion"))


def test_an_evaluation_asks_each_part_once(table, rows, monkeypatch):
    """A part may be an LLM, and a fusion's scores are its log-probabilities."""
    asked, log_probs = [], Table.log_probs
    monkeypatch.setattr(Table, "log_probs", lambda part, *args: asked.append(args) or log_probs(part, *args))
    report = evaluate_scorer(Fusion({"table": table}), table.catalog, rows, show_progress=False)
    assert len(asked) == 1
    assert "log_loss" in report.beyond_accuracy([1])


def test_moments_reach_every_part(table, recommender):
    times = np.array([5, 6])
    Fusion({"LLM": recommender, "table": table}).log_probs([[10], [11]], times)
    assert (table.times == times).all()


LATER = st.lists(st.lists(st.integers(10, 21), max_size=4), min_size=14, max_size=14)


@settings(max_examples=scaled(20), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LATER)
def test_nothing_after_its_time_changes_the_score_of_a_target(table, co_visitation, rows, later):
    """No history holds what its user does after the target, and no score depends on other users of the rows."""
    fusion = Fusion({"table": table, "co-visits": co_visitation}, {"table": 0.5, "co-visits": 1.5})
    longer = Dataset.from_list(
        [{**row, "item_ids": row["item_ids"] + more} for row, more in zip(rows, later, strict=True)]
    )
    reports = [evaluate_scorer(fusion, fusion.catalog, part, show_progress=False) for part in (rows, longer)]
    assert reports[0].targets.equals(reports[1].targets)
    history = rows[0]["item_ids"][:-1]
    companions = [row["item_ids"] for row in longer]
    np.testing.assert_allclose(fusion.log_probs([history, *companions])[:1], fusion.log_probs([history]))


def test_a_part_that_reads_times_gets_them(table, catalog, rows, tmp_path):
    """Item 11 is popular on day 1, and item 12 on day 2; only the popularity counts."""
    day = 86_400
    counted = [
        {"user_id": user, "item_ids": [10, item], "target_positions": [1], "timestamps": [time, time]}
        for user, (item, time) in enumerate([(11, day), (11, day), (12, 2 * day), (12, 2 * day)])
    ]
    timed = Dataset.from_list(counted)
    baseline = Popularity(catalog, 1).fit(timed)
    fusion = Fusion({"popular": baseline, "table": table}, {"popular": 1.0, "table": 0.0})
    assert fusion.reads_times
    assert not Fusion({"popular": Popularity(catalog).fit(timed), "table": table}).reads_times
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
    fusion = Fusion({"popular": baseline}).fit(Dataset.from_list(asked), show_progress=False)
    assert fusion.weights["popular"] > 1
    fusion.save_pretrained(tmp_path / "fusion")
    assert Fusion.from_pretrained(tmp_path / "fusion").recommend([10, 20], k=1, times=2 * day)[0].item_id == 11
    with pytest.raises(ValueError, match="`Popularity` with `window=1` reads the moment of asking"):
        fusion.score([[10]])
    with pytest.raises(ValueError, match="The fusion's part 'popular' reads the moment of asking"):
        fusion.fit(rows, show_progress=False)


def test_a_checkpoint_that_reads_times_is_a_part(processor, catalog, rows, table):
    """Item 11 is popular on day 1, and item 12 on day 2; only the checkpoint's popularity counts."""
    day = 86_400
    counted = [
        {"user_id": user, "item_ids": [10, item], "target_positions": [1], "timestamps": [time, time]}
        for user, (item, time) in enumerate([(11, day), (11, day), (12, 2 * day), (12, 2 * day)])
    ]
    recent = Popularity(catalog, 1).fit(Dataset.from_list(counted)).recent
    popular = RuntimeFusion({"popularity": PopularityPart(recent, 1)}, {"popularity": 1.0})
    llm = PatchRecommender(plain_model(), processor.with_fusion(popular))
    fusion = Fusion({"LLM": llm, "table": table}, {"LLM": 1.0, "table": 0.0})
    assert fusion.reads_times
    assert fusion.next_moment == llm.next_moment == 3 * day
    assert fusion.recommend([10, 20], k=1)[0].item_id == 12
    assert fusion.recommend([10, 20], k=1, times=2 * day)[0].item_id == 11
    # Without times of the targets, popularity would be counted up to the end, which may lie after them.
    with pytest.raises(ValueError, match="The fusion's part 'LLM' reads the moment of asking"):
        fusion.fit(rows, show_progress=False)


def test_recommends_without_the_history(recommender, table):
    fusion = Fusion({"LLM": recommender, "table": table}, {"LLM": 0.75, "table": 0.25})
    history = [10, 11]
    (scores,) = fusion.log_probs([history])
    best = np.argsort(-scores, kind="stable")
    found = fusion.recommend(history, k=12, unique_titles=False)
    assert [item.item_id for item in found] == (best[best > 1] + 10).tolist()
    among = fusion.recommend(history, k=2, candidates=[12, 13, 16], unique_titles=False)
    assert [item.item_id for item in among] == [item + 10 for item in best if item + 10 in (12, 13, 16)][:2]
    np.testing.assert_allclose(among[0].score, scores[among[0].item_id - 10])


def test_items_of_one_title_take_no_places_of_other_titles(model, processor, catalog):
    alike = Catalog(catalog.item_ids, [*catalog.titles[:6], *[catalog.titles[6]] * 6])
    recommender = PatchRecommender(model, PatchRecProcessor(processor.tokenizer, alike, processor.prompt))
    # The table likes the items that share a title.
    parts = {"LLM": recommender, "table": Table(np.arange(12), alike)}
    found = Fusion(parts, {"LLM": 0.0, "table": 1.0}).recommend([10], k=4)
    assert [item.item_id for item in found] == [21, 15, 13, 12]  # 14 and 15 share a title, too


@pytest.mark.slow
def test_mistakes_are_named(recommender, table, catalog, rows):
    parts = {"LLM": recommender, "table": table}
    assert isinstance(recommender, FusionPart)
    with pytest.raises(TypeError, match=r"takes its parts by their names.*Fusion\(\{'LLM': recommender"):
        Fusion(recommender, table)
    with pytest.raises(ValueError, match="at least one part"):
        Fusion({})
    with pytest.raises(TypeError, match="part 'table' is a `dict`, which gives no log-probabilities"):
        Fusion({"LLM": recommender, "table": {}})
    with pytest.raises(ValueError, match="one weight for each of its parts"):
        Fusion(parts, {"LLM": 1.0})
    with pytest.raises(ValueError, match="must be a finite number, got inf"):
        Fusion(parts, {"LLM": 1.0, "table": np.inf})
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        Fusion(parts, batch_size=0)
    with pytest.raises(ValueError, match="History 1 is empty"):
        Fusion(parts).score([[10], []])
    with pytest.raises(TypeError, match=r"Score a single one by `score\(\[ids\]\)`"):
        Fusion(parts).score([1, 2])
    with pytest.raises(ValueError, match="did not converge: after 1 steps"):
        Fusion(parts).fit(rows, max_steps=1, show_progress=False)


def test_a_part_without_log_probabilities_is_refused(catalog, rows):
    class Shares(Table):
        def log_probs(self, histories, times=None):
            return np.tile(self.scores, (len(histories), 1))

    fusion = Fusion({"shares": Shares(np.full(12, 0.5), catalog)})
    with pytest.raises(ValueError, match=r"part 'shares' gives no log-probabilities: .* history 0 sums to 19\.78"):
        fusion.fit(rows, show_progress=False)
    with pytest.raises(ValueError, match="sums to nan"):
        Fusion({"shares": Shares(np.full(12, np.nan), catalog)}).log_probs([[10]])
    with pytest.raises(ValueError, match=r"log_probs` returned an array of shape \(1, 5\), expected \(1, 12\)"):
        Fusion({"shares": Shares(np.zeros(5), catalog)}).log_probs([[10]])


def test_parts_of_different_data_sets_are_refused(recommender, catalog):
    others = (
        (Catalog(catalog.item_ids[:5], catalog.titles[:5]), "'LLM' with 12 items and the catalog of 'table' with 5"),
        (Catalog(catalog.item_ids[::-1], catalog.titles[::-1]), "same ids in the same order"),
        (Catalog(catalog.item_ids, catalog.titles[::-1]), "different data sets"),
    )
    for other, problem in others:
        with pytest.raises(ValueError, match=problem):
            Fusion({"LLM": recommender, "table": Table(SCORES, other)})


@pytest.mark.slow
def test_is_saved_with_its_parts(recommender, catalog, co_visitation, rows, tmp_path):
    parts = {"the LLM": recommender, "co-visits": co_visitation, "popular": Popularity(catalog).fit(rows)}
    fusion = Fusion(parts, batch_size=3).fit(rows, show_progress=False)
    expected = fusion.recommend([[10, 11], [17]], k=4)
    fusion.save_pretrained(tmp_path / "fusion")
    loaded = Fusion.from_pretrained(tmp_path / "fusion")
    assert (loaded.weights, loaded.fit_result, loaded.batch_size) == (fusion.weights, fusion.fit_result, 3)
    assert list(map(type, loaded.parts.values())) == [PatchRecommender, CoVisitation, Popularity]
    found = loaded.recommend([[10, 11], [17]], k=4)
    for one, two in zip(found, expected, strict=True):
        assert [item.item_id for item in one] == [item.item_id for item in two]
        np.testing.assert_allclose([item.score for item in one], [item.score for item in two], rtol=1e-4)


def test_a_fusion_that_cannot_be_saved_or_loaded_is_named(recommender, table, catalog, rows, tmp_path):
    with pytest.raises(TypeError, match="part 'table' is a `Table`, which the library cannot load again"):
        Fusion({"LLM": recommender, "table": table}).save_pretrained(tmp_path / "fusion")
    with pytest.raises(RuntimeError, match="call `fit` first"):
        Fusion({"LLM": recommender, "co-visits": CoVisitation(catalog)}).save_pretrained(tmp_path / "fusion")
    assert not (tmp_path / "fusion").exists()
    with pytest.raises(FileNotFoundError, match=r"holds no fusion: it lacks fusion\.json"):
        Fusion.from_pretrained(tmp_path)
    Fusion({"popular": Popularity(catalog).fit(rows)}).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "fusion.json").read_text())
    (tmp_path / "fusion.json").write_text(json.dumps({**values, "format_version": 99}))
    with pytest.raises(ValueError, match=r"fusion\.json has format version 99"):
        Fusion.from_pretrained(tmp_path)
    former = {"format_version": 1, "weight": 0.5, "num_candidates": 200, "batch_size": 8}
    (tmp_path / "fusion.json").write_text(json.dumps(former))
    with pytest.raises(ValueError, match=r"earlier version .* mixed standardized scores.*fit\(validation\)"):
        Fusion.from_pretrained(tmp_path)


def test_an_llm_that_reads_timestamps_is_refused(model, processor, table):
    """`fit` and `log_probs` have no timestamps of the items, so the error comes before they are called."""
    recommender = PatchRecommender(model, processor.with_layout(TimeWindowLayout(max_gap=3600)))
    with pytest.raises(ValueError, match=r"The part 'LLM' needs the timestamps .*TimeWindowLayout.*fit_fusion`"):
        Fusion({"LLM": recommender, "table": table})
