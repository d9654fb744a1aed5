"""Few-hop transitions that titles re-rank, by hand."""

from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from patchrec_hf import Catalog, evaluate_scorer
from patchrec_hf.baselines import CoVisitation, CoVisitationWeighting, Transitions, TransitionWeighting, load_baseline
from patchrec_hf.baselines.transitions import title_words
from patchrec_hf.runtime.neighbors import NeighborTable


CATALOG = Catalog.from_titles({10: "dune one", 11: "emma", 12: "dune two", 13: "ulysses"})
PLAIN = TransitionWeighting(
    window=1,
    backward_weight=0.0,
    target_exponent=0.0,
    hops=1,
    hop_weight=0.5,
    title_weight=0.0,
    source_exponent=1.0,
    decay=1.0,
)


def rows_of(*pairs):
    return Dataset.from_list(
        [
            {"user_id": user, "item_ids": items, "target_positions": positions}
            for user, (items, positions) in enumerate(pairs)
        ]
    )


CHAIN = rows_of(([10, 11], [1]), ([10, 12], [1]), ([11, 13], [1]), ([11, 10], [1]))
"""Transitions 10 → 11, 10 → 12, 11 → 13 and 11 → 10, each once."""


def scores_of(weighting, rows=CHAIN, histories=((10,), (11,), (12,))):
    return Transitions(CATALOG, weighting).fit(rows).score(histories)


def test_one_hop_is_the_share_of_transitions():
    np.testing.assert_allclose(scores_of(PLAIN), [[0, 0.5, 0.5, 0], [0.5, 0, 0, 0.5], [0, 0, 0, 0]])


def test_two_hops():
    # 10 → 11 → 13 has the probability 1/4; 11 → 10 → 12 too; 10 → 11 → 10 leads back.
    found = scores_of(replace(PLAIN, hops=2))
    np.testing.assert_allclose(found, [[0, 0.5, 0.5, 0.125], [0.5, 0, 0.125, 0.5], [0, 0, 0, 0]])


def test_similar_titles_are_multiplied():
    # "dune" is in two of four titles, and each other word in one: the cosine is log(2)² / (log(2)² + log(4)²) = 1/5.
    found = scores_of(replace(PLAIN, title_weight=50.0))
    np.testing.assert_allclose(found[0], [0, 0.5, 0.5 * (1 + 50 / 5**3), 0], rtol=1e-6)


def test_frequent_items_count_more_with_a_lower_exponent():
    rows = rows_of(([10, 11], [1]), ([10, 11], [1]), ([10, 12], [1]), ([10, 12], [1]), ([11, 13], [1]))
    found = scores_of(replace(PLAIN, source_exponent=0.5), rows)
    np.testing.assert_allclose(found, [[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]])  # 4 ** 0.5 times 1/2, and 1


def test_without_hops_and_titles_it_is_co_visitation():
    rows = rows_of(([10, 11, 12, 13], [1, 2, 3]), ([13, 12, 12], [1, 2]), ([11, 10, 13], [1, 2]))
    weighting = TransitionWeighting(3, 0.25, 0.3, 1, 1.0, 0.0, source_exponent=0.0, decay=0.7, num_history_items=2)
    expected = CoVisitation(CATALOG, CoVisitationWeighting(3, 0.25, 0.0, 0.3, 0.7, 2)).fit(rows)
    histories = [[10, 11, 13], [12], [13, 10]]
    found = Transitions(CATALOG, weighting).fit(rows).score(histories)
    np.testing.assert_allclose(found, expected.score(histories), rtol=1e-5)


def test_validation_chooses_the_weighting():
    one, two = PLAIN, replace(PLAIN, hops=2)
    rows = rows_of(([10, 11], [1]), ([11, 13], [1]))
    validation = rows_of(([10, 13], [1]))  # two hops away
    for grid in ([one, two], [two, one]):
        model = Transitions(CATALOG).fit(rows, validation, grid, "hr@2", show_progress=False)
        assert model.weighting == two
    assert evaluate_scorer(model, CATALOG, validation, show_progress=False).metrics([2])["hr@2"] == 1
    for grid in ([one, two], [two, one]):  # both find 11
        model = Transitions(CATALOG).fit(rows, rows_of(([10, 11], [1])), grid, "hr@2", show_progress=False)
        assert model.weighting == grid[0]
        assert (model.score([[10]])[0, 3] > 0) == (grid[0] is two)  # the table is the chosen weighting's


def test_max_neighbors_bounds_the_table():
    model = Transitions(CATALOG, replace(PLAIN, hops=2)).fit(CHAIN, max_neighbors=1)
    assert np.diff(model.table.offsets).max() == 1
    with pytest.raises(ValueError, match="`max_neighbors` must be at least 1, got 0"):
        Transitions(CATALOG).fit("no rows", max_neighbors=0)  # named before anything is read


def test_a_saved_model_scores_the_same(tmp_path):
    model = Transitions(CATALOG, replace(PLAIN, hops=3, title_weight=7.0, num_history_items=2)).fit(CHAIN)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"transitions.safetensors", "catalog.parquet"}
    assert NeighborTable.load(tmp_path / "transitions.safetensors").num_history_items == 2
    for loaded in (Transitions.from_pretrained(tmp_path), load_baseline(tmp_path)):
        assert isinstance(loaded, Transitions)
        assert loaded.weighting == model.weighting
        np.testing.assert_array_equal(loaded.score([[10, 11], [12]]), model.score([[10, 11], [12]]))


def test_words_of_titles():
    tokens = title_words(["Dune, Part One", "dune: part TWO", "?!", "Émile"])
    assert [tokens[row].tolist() for row in range(4)] == [[0, 1, 2], [0, 1, 3], [4], [5]]


def test_mistakes_are_named(tmp_path):
    with pytest.raises(RuntimeError, match="`Transitions` has not counted any pairs yet; call `fit` first"):
        Transitions(CATALOG).score([[10]])
    with pytest.raises(RuntimeError, match="call `fit` first"):
        Transitions(CATALOG).save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    with pytest.raises(ValueError, match="hr@k"):
        Transitions(CATALOG).fit(CHAIN, CHAIN, metric="recall@20", show_progress=False)
    with pytest.raises(ValueError, match="`grid` holds no weighting"):
        Transitions(CATALOG).fit(CHAIN, CHAIN, [], show_progress=False)


@pytest.mark.parametrize(("name", "value"), [("window", 0), ("hops", 0), ("num_history_items", 0)])
def test_a_weighting_counts_from_1(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        TransitionWeighting(**{name: value})


@pytest.mark.parametrize("name", ["backward_weight", "hop_weight", "title_weight"])
@pytest.mark.parametrize("value", [-0.5, float("nan")])
def test_weights_are_not_negative(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 0, got"):
        TransitionWeighting(**{name: value})
