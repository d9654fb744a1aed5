"""Co-visitation, by hand and against a loop over all pairs."""

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tiers import scaled

from patchrec_hf import Catalog, evaluate_scorer
from patchrec_hf.baselines import CoVisitation, CoVisitationWeighting, co_visitation
from patchrec_hf.runtime.neighbors import NeighborTable


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
    assert model.table.values.tolist() == [0.5, 1, 0.5, 1]  # pairs without a score are not stored
    assert model.weighting == PLAIN
    assert (model.table.decay, model.table.num_history_items) == (1.0, 10)


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
        rtol=1e-6,
    )


@settings(max_examples=scaled(40))
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
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


def test_validation_chooses_the_weighting():
    rows = rows_of(([10, 11], [1]), ([10, 11], [1]), ([13, 12], [1]))
    forward, backward = PLAIN, CoVisitationWeighting(2, 5.0, 0.0, 0.0, 1.0, 10)
    validation = rows_of(([11, 10], [1]))  # against the order of training
    model = CoVisitation(CATALOG).fit(rows, validation, [forward, backward], "hr@1", show_progress=False)
    assert model.weighting == backward
    assert evaluate_scorer(model, CATALOG, validation, show_progress=False).metrics([1])["hr@1"] == 1
    model = CoVisitation(CATALOG).fit(rows, rows_of(([10, 11], [1])), [forward, backward], "hr@1", show_progress=False)
    assert model.weighting == forward  # the first of equals


def test_the_first_of_equals_wins_whatever_its_window():
    """The windows are tried in another order than the grid's."""
    rows = rows_of(([10, 11, 12], [2]), ([10, 11, 12], [2]))
    wide, narrow = PLAIN, CoVisitationWeighting(1, 0.0, 0.0, 0.0, 1.0, 10)
    for grid in ([wide, narrow], [narrow, wide]):
        model = CoVisitation(CATALOG).fit(rows, rows_of(([11, 12], [1])), grid, "hr@1", show_progress=False)
        assert model.weighting == grid[0]
        assert (model.score([[10]]) > 0).any() == (grid[0] is wide)  # the chosen weighting made the scores


def test_pairs_of_each_window_are_counted_once(monkeypatch):
    windows = []
    stored_pairs = co_visitation.StoredPairs

    def counted(*arguments):
        windows.append(arguments[-1])
        return stored_pairs(*arguments)

    monkeypatch.setattr(co_visitation, "StoredPairs", counted)
    grid = [CoVisitationWeighting(window, decay=decay) for decay in (0.5, 0.9) for window in (3, 1, 2)]
    rows = rows_of(([10, 11, 12, 13], [1, 2, 3]))
    CoVisitation(CATALOG).fit(rows, rows, grid, show_progress=False)
    assert windows == [1, 2, 3]


def test_max_neighbors_bounds_the_table():
    rows = rows_of(([10, 11, 12, 13], [2, 3]), ([10, 13, 12], [1, 2]))
    every = CoVisitation(CATALOG, PLAIN).fit(rows)
    np.testing.assert_allclose(every.score([[10], [13]]), [[0, 0, 1, 1], [0, 0, 1, 0]])
    bounded = CoVisitation(CATALOG, PLAIN).fit(rows, max_neighbors=1)
    np.testing.assert_allclose(bounded.score([[10], [13]]), [[0, 0, 1, 0], [0, 0, 1, 0]])  # the first of equals
    with pytest.raises(ValueError, match="`max_neighbors` must be at least 1, got 0"):
        CoVisitation(CATALOG).fit("no rows", max_neighbors=0)  # named before anything is read


def test_the_choice_is_made_with_the_bounded_table():
    """By the first weighting 11 comes first and 13 second; by the second one 13 comes first."""
    rows = rows_of(*[([10, 11], [1])] * 3, *[([10, 13], [1])] * 2)
    first = CoVisitationWeighting(2, 0.0, 0.0, 0.0, 1.0, 10)
    second = CoVisitationWeighting(2, 0.0, 0.0, 3.0, 1.0, 10)
    chosen = []
    for max_neighbors in (None, 1):
        model = CoVisitation(CATALOG)
        validation = rows_of(([10, 13], [1]))
        model.fit(rows, validation, [first, second], "hr@2", show_progress=False, max_neighbors=max_neighbors)
        chosen.append(model.weighting)
    assert chosen == [first, second]  # both find 13 among two items, but only the second one as the only neighbor
    assert model.table.values.tolist() == [2 / 2**3]


def test_a_saved_model_scores_the_same(tmp_path):
    rows = rows_of(([10, 11, 12, 13], [1, 2, 3]), ([13, 12, 12], [1, 2]))
    weighting = CoVisitationWeighting(3, 0.25, 1 / 3, 0.5, 0.7, 2)
    model = CoVisitation(CATALOG, weighting).fit(rows)
    model.save_pretrained(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"co_visitation.safetensors", "catalog.parquet"}
    loaded = CoVisitation.from_pretrained(tmp_path / "model")
    histories = [[10, 11, 13], [12], [13, 10]]
    np.testing.assert_array_equal(loaded.score(histories), model.score(histories))
    assert loaded.weighting == weighting
    assert loaded.catalog.titles == CATALOG.titles
    with pytest.raises(KeyError, match="99"):
        loaded.score([[99]])


def test_new_items_of_a_saved_catalog_get_no_score(tmp_path):
    model = CoVisitation(CATALOG, PLAIN).fit(rows_of(([10, 11, 12], [1, 2])))
    model.save_pretrained(tmp_path)
    CATALOG.with_items({50: "e", 5: "f"}).to_parquet(tmp_path / "catalog.parquet")
    loaded = CoVisitation.from_pretrained(tmp_path)
    expected = np.pad(model.score([[10], [10, 11]]), ((0, 0), (0, 2)))
    np.testing.assert_array_equal(loaded.score([[10, 50], [10, 5, 11]]), expected)
    loaded.save_pretrained(tmp_path / "again")
    np.testing.assert_array_equal(CoVisitation.from_pretrained(tmp_path / "again").score([[10], [10, 11]]), expected)


def test_a_new_item_does_not_displace_an_older_one(tmp_path):
    """The latest `num_history_items` items are those that the table knows."""
    weighting = CoVisitationWeighting(num_history_items=2)
    model = CoVisitation(CATALOG, weighting).fit(rows_of(([10, 11, 12, 13], [1, 2, 3])))
    model.save_pretrained(tmp_path)
    CATALOG.with_items({50: "e"}).to_parquet(tmp_path / "catalog.parquet")
    loaded = CoVisitation.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.score([[10, 11, 50, 50]])[:, :4], model.score([[10, 11]]))


def test_files_of_another_catalog_are_refused(tmp_path):
    CoVisitation(CATALOG).fit(rows_of(([10, 11], [1]))).save_pretrained(tmp_path)
    Catalog.from_titles({10: "a", 11: "b", 13: "d"}).to_parquet(tmp_path / "catalog.parquet")
    with pytest.raises(ValueError, match="such as item 12"):
        CoVisitation.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["co_visitation.safetensors", "catalog.parquet"])
def test_a_missing_file_is_named(tmp_path, name):
    CoVisitation(CATALOG).fit(rows_of(([10, 11], [1]))).save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(OSError, match=name):
        CoVisitation.from_pretrained(tmp_path)


def test_a_catalog_with_narrow_ids(tmp_path):
    """A table's ids are int64, whatever the catalog's are."""
    catalog = Catalog(CATALOG.item_ids.astype(np.int32), CATALOG.titles)
    CoVisitation(catalog).fit(rows_of(([10, 11], [1]))).save_pretrained(tmp_path)
    assert NeighborTable.load(tmp_path / "co_visitation.safetensors").item_ids.dtype == np.int64


def test_mistakes_are_named():
    with pytest.raises(RuntimeError, match="call `fit` first"):
        CoVisitation(CATALOG).score([[10]])
    with pytest.raises(RuntimeError, match="call `fit` first"):
        _ = CoVisitation(CATALOG).table
    rows = rows_of(([10, 11], [1]))
    with pytest.raises(KeyError, match="99"):
        CoVisitation(CATALOG).fit(rows).score([[99]])
    with pytest.raises(ValueError, match="hr@k"):
        CoVisitation(CATALOG).fit(rows, rows, metric="recall@20", show_progress=False)
    with pytest.raises(ValueError, match="`grid` holds no weighting"):
        CoVisitation(CATALOG).fit(rows, rows, [], show_progress=False)


def test_nothing_is_saved_before_fit(tmp_path):
    with pytest.raises(RuntimeError, match="call `fit` first"):
        CoVisitation(CATALOG).save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ["window", "num_history_items"])
def test_a_weighting_looks_at_one_item_at_least(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        CoVisitationWeighting(**{name: 0})
