"""Co-visitation, by hand and against a loop over all pairs."""

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from patchrec_hf import Catalog, evaluate_scorer
from patchrec_hf.baselines import CoVisitation, CoVisitationWeighting


CATALOG = Catalog.from_titles({10: "a", 11: "b", 12: "c", 13: "d"})
PLAIN = CoVisitationWeighting(
    window=2, backward_weight=0.0, source_exponent=0.0, target_exponent=0.0, decay=1.0, num_history_items=10
)


def rows_of(*pairs):
    return Dataset.from_list(
        [
            {"user_id": user, "item_ids": items, "target_positions": positions}
            for user, (items, positions) in enumerate(pairs)
        ]
    )


def test_pairs_count_by_distance_and_order():
    rows = rows_of(([10, 11, 12, 13], [2, 3]))  # pairs of 12: 11 (1), 10 (1/2); of 13: 12 (1), 11 (1/2); 10 is too far
    model = CoVisitation(CATALOG, PLAIN).fit(rows)
    np.testing.assert_allclose(
        model.score([[10], [11], [12], [13]]),
        [[0, 0, 0.5, 0], [0, 0, 1, 0.5], [0, 0, 0, 1], [0, 0, 0, 0]],
    )


def test_weighting_by_hand():
    rows = rows_of(([10, 11, 12], [2]), ([10, 12, 12], [1, 2]))
    # Pairs to 12: from 11 (1) and 10 (1/2) of the first row; from 10 (1), 12 (1) and 10 (1/2) of the second.
    weighting = CoVisitationWeighting(2, 0.25, 1.0, 0.5, 0.5, 2)
    model = CoVisitation(CATALOG, weighting).fit(rows)
    popularity = np.array([1, 1, 3, 1])  # targets; at least 1
    to_12_from_10, to_12_from_12 = 2.0 / 1 / 3**0.5, (1 + 0.25) / 3 / 3**0.5
    np.testing.assert_allclose(
        model.score([[13, 10, 12]])[0],  # only two items count, the latest one twice as much
        [0.25 * 2.0 / 3 / popularity[0], 0.25 * 1.0 / 3, to_12_from_12 + 0.5 * to_12_from_10, 0],
    )


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.integers(10, 13), min_size=2, max_size=7), min_size=1, max_size=5),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.lists(st.integers(10, 13), min_size=1, max_size=6),
)
def test_equals_a_loop_over_all_pairs(histories, window, backward, history):
    rows = rows_of(*((items, list(range(1, len(items)))) for items in histories))
    weighting = CoVisitationWeighting(window, backward, 0.5, 0.3, 0.8, 3)
    weights, popularity = np.zeros((4, 4)), np.zeros(4)
    for items in histories:
        for place in range(1, len(items)):
            popularity[items[place] - 10] += 1
            for distance in range(1, min(window, place) + 1):
                pair = items[place - distance] - 10, items[place] - 10
                weights[pair] += 1 / distance
                weights[pair[::-1]] += backward / distance
    popularity = np.maximum(popularity, 1)
    weights = weights / popularity[:, None] ** 0.5 / popularity**0.3
    expected = sum(0.8**age * weights[item - 10] for age, item in enumerate(history[-3:][::-1]))
    found = CoVisitation(CATALOG, weighting).fit(rows.shuffle(seed=0)).score([history])
    np.testing.assert_allclose(found[0], expected, atol=1e-12)


def test_validation_chooses_the_weighting():
    rows = rows_of(([10, 11], [1]), ([10, 11], [1]), ([13, 12], [1]))
    forward, backward = PLAIN, CoVisitationWeighting(2, 5.0, 0.0, 0.0, 1.0, 10)
    validation = rows_of(([11, 10], [1]))  # against the order of training
    model = CoVisitation(CATALOG).fit(rows, validation, [forward, backward], "hr@1", show_progress=False)
    assert model.weighting == backward
    assert evaluate_scorer(model, CATALOG, validation, show_progress=False).metrics([1])["hr@1"] == 1
    model = CoVisitation(CATALOG).fit(rows, rows_of(([10, 11], [1])), [forward, backward], "hr@1", show_progress=False)
    assert model.weighting == forward  # the first of equals


def test_mistakes_are_named():
    with pytest.raises(RuntimeError, match="call `fit` first"):
        CoVisitation(CATALOG).score([[10]])
    rows = rows_of(([10, 11], [1]))
    with pytest.raises(KeyError, match="99"):
        CoVisitation(CATALOG).fit(rows).score([[99]])
    with pytest.raises(ValueError, match="hr@k"):
        CoVisitation(CATALOG).fit(rows, rows, metric="recall@20", show_progress=False)
