"""Targets that are ranked among candidates."""

import numpy as np
import polars as pl
import pytest
from conftest import ITEM_IDS
from datasets import Dataset
from item_parts import item_model, item_processor

from patchrec_hf import RELEASE_MATCHING, CatalogRanker, RankingConfig, evaluate_model, evaluate_scorer
from patchrec_hf.baselines import Popularity
from patchrec_hf.evaluation.candidate_sets import CandidateSets, allowed_items


def test_a_target_is_always_a_candidate(catalog):
    sets = CandidateSets.from_ids([10, 12], np.array([0, 3]), catalog)
    assert [items.tolist() for items in sets.of(np.array([0, 1]))] == [[0, 2], [0, 2, 3]]
    assert sets.describe()["mean"] == 2.5
    each = CandidateSets.from_ids([[10], [12, 14]], np.array([0, 3]), catalog)
    assert [items.tolist() for items in each.sets] == [[0], [2, 3, 4]]
    assert sets.describe()["crc32"] != each.describe()["crc32"]


def test_candidates_that_do_not_fit(catalog):
    with pytest.raises(
        ValueError, match=r"holds 3 lists for 2 targets\. Give one list of ids for all targets, or one"
    ):
        CandidateSets.from_ids([[10], [11], [12]], np.array([0, 3]), catalog)
    with pytest.raises(KeyError, match="12345"):
        CandidateSets.from_ids([10, 12345], np.array([0]), catalog)


def test_allowed_items_by_hand():
    assert allowed_items((1, 4), [np.array([1])], [np.array([1, 3])]).tolist() == [[False, False, False, True]]
    assert allowed_items((1, 2), None, None).tolist() == [[True, True]]


@pytest.mark.parametrize("method", ["exact", "all", "item"])
def test_ranks_are_those_among_the_candidates(processor, rows, method):
    model, processor = item_model(), item_processor(processor)
    candidates = [ITEM_IDS[(7 * number) % 12 :: 3] for number in range(len(rows))]
    report = evaluate_model(model, processor, rows, method=method, k=12, candidates=candidates, show_progress=False)
    prompts = [processor.encode(processor.catalog.indices_of(row["item_ids"][:-1])) for row in rows]
    config = RankingConfig(k=1, method="all" if method == "exact" else method)
    scores = CatalogRanker(model, processor, config).score(prompts)
    for number, (row, own) in enumerate(zip(rows, candidates, strict=True)):
        target = processor.catalog.indices_of([row["item_ids"][-1]])[0]
        among = np.union1d(processor.catalog.indices_of(own), [target])
        others = scores[number, among] - scores[number, target]
        expected = 1 + (others > 1e-4).sum() + (np.abs(others) <= 1e-4).sum() / 2 - 0.5
        assert report.targets["item_rank"][number] == expected


def test_seen_items_are_no_candidates(model, processor):
    row = Dataset.from_list([{"user_id": 0, "item_ids": [10, 11, 12], "target_positions": [2]}])
    for candidates, rank in (([10, 11], 1.0), ([12], 1.0)):
        report = evaluate_model(
            model, processor, row, k=12, candidates=candidates, exclude_seen=True, show_progress=False
        )
        assert report.targets["item_rank"].to_list() == [rank]


def test_the_rules_of_the_release(model, processor, rows):
    report = evaluate_model(
        model, processor, rows, k=3, candidates=[11, 16, 17], protocol=RELEASE_MATCHING, show_progress=False
    )
    assert report.targets["item_rank"].is_in([1.0, 2.0, 3.0, np.inf]).all()


def test_reports_say_so_and_are_not_compared_with_others(model, processor, rows, tmp_path):
    evaluate = lambda **kwargs: evaluate_model(model, processor, rows, k=12, show_progress=False, **kwargs)  # noqa: E731
    whole, among = evaluate(), evaluate(candidates=[10, 11, 12])
    assert "Targets were ranked among 3." in among.to_markdown()
    assert "candidates" not in whole.settings
    assert among.settings["candidates"]["most"] == 4
    assert among.metrics([12])["mrr@12"] > whole.metrics([12])["mrr@12"]
    for one, other in ((whole, among), (among, whole)):
        with pytest.raises(ValueError, match=r"rank among the same items.*the whole catalog"):
            one.compare(other)
    with pytest.raises(ValueError, match=r"rank among 3\.\d+ candidates"):
        among.compare(evaluate(candidates=[13, 14, 15]))
    baseline = evaluate_scorer(
        Popularity(processor.catalog).fit(rows), processor.catalog, rows, candidates=[10, 11, 12], show_progress=False
    )
    assert isinstance(among.compare(baseline), pl.DataFrame)
