"""Targets that are ranked among candidates."""

import tracemalloc

import numpy as np
import polars as pl
import pytest
from conftest import ITEM_IDS
from datasets import Dataset
from item_parts import item_model, item_processor

from patchrec_hf import RELEASE_MATCHING, Catalog, CatalogRanker, RankingConfig, evaluate_model, evaluate_scorer
from patchrec_hf.baselines import Popularity
from patchrec_hf.evaluation.candidate_sets import CandidateSets, allowed_items


def test_a_target_is_always_a_candidate(catalog):
    sets = CandidateSets.from_ids([10, 12], np.array([0, 3]), catalog)
    assert [items.tolist() for items in sets.of(np.array([0, 1]))] == [[0, 2], [0, 2, 3]]
    assert sets.describe()["mean"] == 2.5
    each = CandidateSets.from_ids([[10], [12, 14]], np.array([0, 3]), catalog)
    assert [items.tolist() for items in each.of(np.arange(2))] == [[0], [2, 3, 4]]
    assert sets.describe()["crc32"] != each.describe()["crc32"]


def test_candidates_of_all_targets_are_those_of_each(catalog):
    targets = np.array([0, 3, 3, 11])
    shared = CandidateSets.from_ids([12, 10, 12], targets, catalog)
    each = CandidateSets.from_ids([[10, 12], [12, 10], [10, 13, 12], [21, 12, 10]], targets, catalog)
    assert shared.describe() == each.describe()
    assert {**shared.describe(), "crc32": 0} == {"fewest": 2, "mean": 2.75, "most": 3, "crc32": 0}
    others = [
        CandidateSets.from_ids([12, 10], targets[::-1], catalog),
        CandidateSets.from_ids([12, 11], targets, catalog),
        CandidateSets.from_ids([[10, 12], [12, 10], [10, 13, 12], [20, 21, 10]], targets, catalog),
    ]
    assert len({sets.describe()["crc32"] for sets in [shared, *others]}) == 4


def test_candidates_of_all_targets_are_kept_once():
    catalog = Catalog(np.arange(50_000), list(map(str, range(50_000))))
    targets, candidates = np.arange(1000), catalog.item_ids[500:].tolist()
    catalog.indices_of(candidates)  # what the catalog computes once is not counted
    tracemalloc.start()
    try:
        sets = CandidateSets.from_ids(candidates, targets, catalog)
        description = sets.describe()
        part = sets.of(np.arange(20))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (description["fewest"], description["mean"], description["most"]) == (49_500, 49_500.5, 49_501)
    assert [len(items) for items in part] == [49_501] * 20
    assert sets.of(np.array([600]))[0] is sets.of(np.array([700]))[0]
    assert peak < 60 * 8 * len(candidates)


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
