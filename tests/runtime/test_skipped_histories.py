"""Histories that cannot be recommended for keep no other one from its recommendations."""

import numpy as np
import polars as pl
import pytest
from item_parts import item_model, item_processor

from patchrec_hf import BudgetLayout, PatchRecommender, TimeWindowLayout
from patchrec_hf.baselines import Popularity
from patchrec_hf.runtime.fusion import Fusion
from patchrec_hf.runtime.fusion_parts import ItemHeadPart, TitlePart
from patchrec_hf.runtime.skipped_histories import SkippedHistory, check_on_error, each_or_reason, reason_of


GOOD = [[10, 11, 12], [14], [18, 19, "Emma"]]


@pytest.fixture(params=["model", "baseline"])
def recommender(request, model, processor, rows):
    if request.param == "model":
        return PatchRecommender(model, processor)
    return Popularity(processor.catalog).fit(rows)


def ids(results):
    return [[item.item_id for item in result] for result in results]


def test_bad_histories_say_why_and_good_ones_are_recommended_for(recommender):
    histories = [GOOD[0], [], [123456], GOOD[1], ["Persuasiom and more", 3.5], GOOD[2], [10, None]]
    results = recommender.recommend(histories, k=3, on_error="skip")
    assert ids(results[number] for number in (0, 3, 5)) == ids(recommender.recommend(GOOD, k=3))
    reasons = [results[number].reason for number in (1, 2, 4, 6)]
    assert all(isinstance(results[number], SkippedHistory) for number in (1, 2, 4, 6))
    assert reasons[0] == "The history is empty; a recommendation needs at least one earlier item."
    assert "123456" in reasons[1]
    assert not any("row 0" in reason.lower() for reason in reasons)
    assert [len(result) for result in results] == [3, 0, 0, 3, 0, 3, 0]


def test_a_history_that_leaves_nothing_is_skipped_alone(recommender):
    results = recommender.recommend(GOOD, k=3, candidates=[[10, 11], [15, 16], [17]], on_error="skip")
    assert "no item left to recommend" in results[0].reason
    assert results[0].reason.startswith("This row")
    assert ids(results[1:])[1] == [17]
    unknown = recommender.recommend(GOOD, k=3, candidates=[[10, 99999], [16], []], on_error="skip")
    assert "99999" in unknown[0].reason
    assert ids(unknown)[1] == [16]
    assert "no candidates" in unknown[2].reason


def test_one_history(recommender):
    assert recommender.recommend(GOOD[0], k=3, on_error="skip") == recommender.recommend(GOOD[0], k=3)
    skipped = recommender.recommend([123456], on_error="skip")
    assert isinstance(skipped, SkippedHistory)
    assert not skipped
    assert list(skipped) == []


def test_without_bad_ones_nothing_changes(recommender):
    frame = pl.DataFrame({"item_ids": [[10, 11], [14, 15]]})
    assert recommender.recommend(frame, on_error="skip", times=0) == recommender.recommend(frame, times=0)
    assert recommender.recommend(np.array([[10, 11], [14, 15]]), on_error="skip") == recommender.recommend(frame)


def test_wrong_settings_are_no_fault_of_a_history(recommender):
    for arguments, message in (({"k": 0}, "`k`"), ({"candidates": [[10]]}, "holds 1 lists for 3 histories")):
        with pytest.raises(ValueError, match=message):
            recommender.recommend(GOOD, on_error="skip", **arguments)
    with pytest.raises(ValueError, match="must be 'raise' or 'skip', got 'drop'"):
        recommender.recommend(GOOD, on_error="drop")
    with pytest.raises(ValueError, match="`times` holds 2 entries for 3 histories"):
        recommender.recommend(GOOD, on_error="skip", times=[1, 2])
    with pytest.raises(KeyError, match="123456"):
        recommender.recommend([*GOOD, [123456]])
    assert check_on_error("skip")
    assert not check_on_error("raise")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"candidates": [10, 99999]}, KeyError, "99999"),
        ({"candidates": ["ten"]}, (KeyError, TypeError), "ten"),
        ({"candidates": []}, ValueError, "no candidates"),
        ({"times": 1.5}, TypeError, "1.5"),
        ({"times": 10**12}, ValueError, "beyond the year 3000"),
    ],
)
def test_what_all_histories_share_is_no_fault_of_one(recommender, arguments, error, message):
    with pytest.raises(error, match=message) as plain:
        Popularity(recommender.catalog).recommend(GOOD, **arguments)
    with pytest.raises(error, match=message) as skipping:
        recommender.recommend([*GOOD, []], on_error="skip", **arguments)
    assert skipping.value.args == plain.value.args


def test_missing_timestamps_are_no_fault_of_a_history(model, processor):
    recommender = PatchRecommender(model, processor.with_layout(TimeWindowLayout(10)))
    with pytest.raises(ValueError, match="reads timestamps, but the histories have no `timestamps`"):
        recommender.recommend(GOOD, on_error="skip")
    with pytest.raises(ValueError, match="reads timestamps"):
        PatchRecommender(model, processor).recommend(GOOD, layout=TimeWindowLayout(10), on_error="skip")
    with pytest.raises(TypeError, match="layout"):
        PatchRecommender(model, processor).recommend(GOOD, layout="time_window", on_error="skip")


def test_a_backbone_that_reads_no_trees_is_no_fault_of_a_history(processor):
    model = item_model()
    model._reads_trees = False
    recommender = PatchRecommender(model, item_processor(processor))
    with pytest.raises(TypeError, match="cannot attend to a tree"):
        recommender.recommend(GOOD, method="exact", on_error="skip")
    by_items = recommender.recommend([GOOD[0], []], k=3, method="item", on_error="skip")
    assert [len(items) for items in by_items] == [3, 0]
    items, titles = ItemHeadPart(), TitlePart()
    plain = item_processor(processor).with_fusion(Fusion({"item": items}, {"item": 1.0}))
    found = PatchRecommender(model, plain).recommend([GOOD[0], []], k=3, on_error="skip")
    assert [len(items) for items in found] == [3, 0]
    fusion = Fusion({"item": items, "titles": titles}, {"item": 1.0, "titles": 1.0})
    with pytest.raises(TypeError, match="cannot attend to a tree"):
        PatchRecommender(model, item_processor(processor).with_fusion(fusion)).recommend(GOOD, on_error="skip")


def test_settings_of_a_model(model, processor):
    recommender = PatchRecommender(model, processor)
    with pytest.raises(ValueError, match="needs a processor with a fusion"):
        recommender.recommend(GOOD, method="fusion", on_error="skip")
    with pytest.raises(ValueError, match=r"budget"):
        recommender.recommend(GOOD, max_tokens=5, on_error="skip")


def test_timestamps_go_with_their_histories(model, processor):
    processor = processor.with_layout(BudgetLayout(60))
    recommender = PatchRecommender(model, processor)
    results = recommender.recommend([[10, 11], [12345], [14]], timestamps=[[1, 2], [3], [4]], on_error="skip")
    assert [len(result) > 0 for result in results] == [True, False, True]
    with pytest.raises(ValueError, match="`timestamps` holds 1 entries for 2 histories"):
        recommender.recommend([[10], [11]], timestamps=[[1]], on_error="skip")


def test_a_history_that_is_too_long_is_skipped(model, processor, monkeypatch):
    recommender = PatchRecommender(model, processor)
    lengths = [processor.encode(processor.catalog.indices_of(one)).prompt_length for one in ([10], [19, 20])]
    monkeypatch.setattr(model.config.decoder_config, "max_position_embeddings", lengths[0] + processor.trie.max_depth)
    short, long = recommender.recommend([[10], [19, 20]], k=2, on_error="skip")
    assert len(short) == 2
    assert "reads at most" in long.reason


def test_rows_are_tried_in_halves():
    asked = []

    def work(rows):
        asked.append(list(rows))
        if 3 in rows:
            raise ValueError(f"Row {rows.index(3)} is odd (row {rows.index(3)}).")
        return [10 * row for row in rows]

    assert each_or_reason([1, 2, 3, 4], work, ValueError) == [10, 20, "This row is odd.", 40]
    assert asked == [[1, 2, 3, 4], [1, 2], [3, 4], [3], [4]]
    assert each_or_reason([], work, ValueError) == []
    with pytest.raises(ValueError, match="Row 2 is odd"):
        each_or_reason([1, 2, 3, 4], work, (KeyError, TypeError))


def test_reasons_do_not_count_rows():
    assert reason_of(KeyError("7 in row 0 is no item")) == "7 is no item"
    assert reason_of(ValueError("The prompt of row 0 is long, row 01 is not.")) == (
        "The prompt of this row is long, row 01 is not."
    )
