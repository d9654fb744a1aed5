"""Recounting a fusion: the counts of all rows with the settings of the first fit, and the same weights."""

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets

from patchrec_hf import PatchRecProcessor, fit_fusion
from patchrec_hf.baselines import CoVisitation, CoVisitationWeighting, Popularity, Transitions, TransitionWeighting
from patchrec_hf.runtime.fusion import Fusion
from patchrec_hf.runtime.fusion_parts import NeighborPart, SeenPart
from patchrec_hf.training.fusion_recount import recount_fusion, refit_fusion


DAY = 86_400
WEIGHTINGS = {"co_visits": CoVisitationWeighting(3, 0.25, decay=0.7), "transitions": TransitionWeighting(window=4)}
CLASSES = {"co_visits": CoVisitation, "transitions": Transitions}


@pytest.fixture
def parts_of(catalog):
    """Timed rows of users who read the catalog in its order, from a first user on."""

    def make(first, number):
        ids = catalog.item_ids.tolist()
        return Dataset.from_list([
            {"user_id": user, "item_ids": ids[user % 8 : user % 8 + 4], "target_positions": [1, 2, 3],
             "timestamps": [(first + user) * DAY + place for place in range(4)]}
            for user in range(first, first + number)
        ])  # fmt: skip

    return make


@pytest.fixture
def fitted(model, processor, catalog, parts_of):
    old = parts_of(0, 8)
    counted = {name: CLASSES[name](catalog, weighting).fit(old) for name, weighting in WEIGHTINGS.items()}
    names = [*WEIGHTINGS, "seen", "popularity"]
    return fit_fusion(
        model, processor, old, old, names, co_visitation=counted["co_visits"], transitions=counted["transitions"],
        popularity=Popularity(catalog, window=3).fit(old), show_progress=False,
    )  # fmt: skip


def test_counts_follow_all_rows_and_weights_stay(fitted, catalog, parts_of, tmp_path):
    old, new = parts_of(0, 8), parts_of(8, 5)
    fitted.save_pretrained(tmp_path)
    for processor in (fitted, PatchRecProcessor.from_pretrained(tmp_path)):  # a checkpoint keeps the settings
        recounted = recount_fusion(processor, [old, new]).fusion
        assert dict(recounted.weights) == dict(fitted.fusion.weights)
        assert recounted.fit_result == fitted.fusion.fit_result
        for name, weighting in WEIGHTINGS.items():
            expected = CLASSES[name](catalog, weighting).fit(concatenate_datasets([old, new])).table
            histories = [np.array([item]) for item in range(12)]
            np.testing.assert_allclose(recounted.parts[name].table.scores(histories), expected.scores(histories))
        part = recounted.parts["popularity"]
        assert part.window == 3
        assert part.recent.end_time > fitted.fusion.parts["popularity"].recent.end_time


def test_a_grown_catalog_is_counted(fitted, parts_of):
    grown = fitted.with_catalog(fitted.catalog.with_items({30: "Lady Susan"}))
    bought = Dataset.from_list([
        {"user_id": 90, "item_ids": [10, 30], "target_positions": [1], "timestamps": [40 * DAY, 40 * DAY + 1]}
    ])  # fmt: skip
    fusion = recount_fusion(grown, [parts_of(0, 8), bought]).fusion
    scores = [one.parts["co_visits"].table.scores([np.array([0])], 13)[0] for one in (grown.fusion, fusion)]
    assert scores[0][12] == 0 < scores[1][12]


def test_settings_that_are_unknown_are_chosen_on_the_newest_rows(processor, catalog, parts_of):
    old, new = parts_of(0, 8), parts_of(8, 5)
    table = CoVisitation(catalog).fit(old).table
    unknown = processor.with_fusion(Fusion({"co_visits": NeighborPart(table), "seen": SeenPart()},
                                           {"co_visits": 1.0, "seen": -1.0}))  # fmt: skip
    chosen = CoVisitation(catalog).fit(old, new, show_progress=False).weighting
    part = recount_fusion(unknown, [old, new], show_progress=False).fusion.parts["co_visits"]
    assert CoVisitationWeighting(**part.weighting) == chosen
    with pytest.raises(ValueError, match="does not know with which settings its part 'co_visits' was counted"):
        recount_fusion(unknown, [old])


def test_validation_rows_weigh_the_parts_anew_and_are_counted(model, fitted, parts_of):
    old, new, later = parts_of(0, 8), parts_of(8, 5), parts_of(20, 6)
    refitted = refit_fusion(model, fitted, [old, new], later, show_progress=False).fusion
    assert list(refitted.parts) == list(fitted.fusion.parts)
    assert refitted.fit_result.num_targets == 18
    expected = recount_fusion(fitted, [old, new, later]).fusion.parts["co_visits"].table
    np.testing.assert_allclose(refitted.parts["co_visits"].table.values, expected.values)


def test_mistakes_are_named(processor, fitted):
    with pytest.raises(ValueError, match="has no fusion to count anew"):
        recount_fusion(processor, [])
    with pytest.raises(ValueError, match="`rows` holds no data set"):
        recount_fusion(fitted, [])
