"""Tests of the metrics."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchrec_hf.evaluation.metrics import (
    bootstrap_interval,
    compression_ratios,
    per_target_metrics,
    ranking_metrics,
    ranks_from_scores,
)
from patchrec_hf.runtime.layouts import ItemPatchLayout, SessionPatchLayout


INF = math.inf
rank_lists = st.lists(st.one_of(st.integers(1, 40), st.just(INF)), min_size=1, max_size=30)


def test_per_example_by_hand():
    metrics = per_target_metrics([1, 2, 1.5, 3, 4, INF], ks=[1, 3])
    assert list(metrics) == ["hr@1", "ndcg@1", "mrr@1", "hr@3", "ndcg@3", "mrr@3"]
    assert metrics["hr@1"].tolist() == [1, 0, 0, 0, 0, 0]
    assert metrics["ndcg@1"].tolist() == [1, 0, 0, 0, 0, 0]
    assert metrics["hr@3"].tolist() == [1, 1, 1, 1, 0, 0]
    # 1 / log2(rank + 1)
    assert metrics["ndcg@3"] == pytest.approx([1, 0.6309297536, 1 / math.log2(2.5), 0.5, 0, 0])
    assert metrics["mrr@3"] == pytest.approx([1, 0.5, 1 / 1.5, 1 / 3, 0, 0])


def test_means_by_hand():
    metrics = ranking_metrics([1, 2, 4, INF], ks=[3, 1, 5])
    assert metrics == pytest.approx(
        {
            "hr@3": 0.5,
            "ndcg@3": (1 + 0.6309297536) / 4,
            "hr@1": 0.25,
            "ndcg@1": 0.25,
            "hr@5": 0.75,
            "ndcg@5": (1 + 0.6309297536 + 0.4306765581) / 4,
            "mrr@3": (1 + 1 / 2) / 4,
            "mrr@1": 0.25,
            "mrr@5": (1 + 1 / 2 + 1 / 4) / 4,
        }
    )
    assert all(type(value) is float for value in metrics.values())


def test_nothing_ranked_is_zero():
    assert set(ranking_metrics([INF, INF], ks=[1, 10]).values()) == {0.0}


@given(rank_lists, st.integers(1, 30))
def test_metrics_equal_their_definitions(ranks, k):
    metrics = ranking_metrics(ranks, [k])
    hits = [rank for rank in ranks if rank <= k]
    assert metrics[f"hr@{k}"] == pytest.approx(len(hits) / len(ranks))
    assert metrics[f"ndcg@{k}"] == pytest.approx(sum(math.log(2) / math.log(rank + 1) for rank in hits) / len(ranks))
    assert metrics[f"mrr@{k}"] == pytest.approx(sum(1 / rank for rank in hits) / len(ranks))
    assert 0 <= metrics[f"mrr@{k}"] <= metrics[f"ndcg@{k}"] + 1e-12
    assert metrics[f"ndcg@{k}"] <= metrics[f"hr@{k}"] + 1e-12 <= 1 + 1e-12


@pytest.mark.parametrize(
    ("rank", "shown"), [(0, "0.0"), (0.5, "0.5"), (-3, "-3.0"), (math.nan, "nan"), (-INF, "-inf")]
)
def test_rank_below_one_is_refused(rank, shown):
    with pytest.raises(ValueError, match=f"Ranks start at 1 .* got {shown}"):
        ranking_metrics([1, rank, 2], ks=[5])


@pytest.mark.parametrize("function", [per_target_metrics, ranking_metrics])
def test_no_ranks_are_refused(function):
    with pytest.raises(ValueError, match="No ranks"):
        function([], ks=[5])


@pytest.mark.parametrize("function", [per_target_metrics, ranking_metrics])
@pytest.mark.parametrize("k", [0, -1])
def test_cut_off_below_one_is_refused(function, k):
    with pytest.raises(ValueError, match=f"cut-off must be at least 1, got {k}"):
        function([1], ks=[5, k])


def test_ranks_from_scores_by_hand():
    scores = np.array(
        [
            [0.1, 0.9, 0.5, 0.2],
            [0.1, 0.9, 0.5, 0.2],
            [2.0, 2.0, 3.0, 2.0],  # three share the places 2, 3 and 4
            [1.0, 1.0, 1.0, 1.0],  # all share 1 to 4
            [-INF, 0.0, -INF, -1.0],  # two are not scored
        ]
    )
    ranks = ranks_from_scores(scores, np.array([1, 0, 3, 2, 0]))
    assert ranks.tolist() == [1.0, 4.0, 3.0, 2.5, 3.5]
    assert ranks.dtype == np.float64


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.data())
def test_ranks_equal_the_mean_place_in_a_sort(scores, data):
    target = data.draw(st.integers(0, len(scores) - 1))
    order = sorted(range(len(scores)), key=lambda item: -scores[item])
    places = [place for place, item in enumerate(order, start=1) if scores[item] == scores[target]]
    ranks = ranks_from_scores(np.array([scores], dtype=np.float64), np.array([target]))
    assert ranks.tolist() == [sum(places) / len(places)]


@given(st.permutations(range(10)))
def test_ranks_without_ties_equal_argsort(permutation):
    scores = np.array(permutation, dtype=np.float64)
    ranks = ranks_from_scores(np.tile(scores, (10, 1)), np.arange(10))
    expected = np.empty(10)
    expected[np.argsort(-scores)] = np.arange(1, 11)
    assert ranks.tolist() == expected.tolist()


def test_interval_of_two_users_by_hand():
    """Means 0, ½ and 1 with chances ¼, ½ and ¼."""
    values, users = np.array([0.0, 1.0]), np.array([3, 8])
    assert bootstrap_interval(values, users, confidence=0.95) == (0.0, 1.0)
    assert bootstrap_interval(values, users, confidence=0.3) == (0.5, 0.5)


def test_interval_weighs_users_by_their_examples():
    """Means 0, ¾ and 1 with chances ¼, ½ and ¼: each example counts, not each user."""
    values, users = np.array([1.0, 0.0, 1.0, 1.0]), np.array([7, 2, 7, 7])
    assert bootstrap_interval(values, users, confidence=0.3) == (0.75, 0.75)


def test_interval_of_constant_values_is_a_point():
    users = np.arange(40) // 3
    assert bootstrap_interval(np.ones(40), users) == (1.0, 1.0)
    assert bootstrap_interval(np.zeros(40), users) == (0.0, 0.0)
    assert bootstrap_interval(np.full(40, 0.3), users) == pytest.approx((0.3, 0.3))


def test_interval_of_one_user_is_unknown():
    assert np.isnan(bootstrap_interval(np.array([0.0, 1.0, 1.0]), np.zeros(3))).all()


def test_intervals_of_several_metrics_are_those_of_each():
    rng = np.random.default_rng(7)
    values, users = rng.random((30, 3)), rng.integers(0, 9, 30)
    lower, upper = bootstrap_interval(values, users)
    for column in range(3):
        assert (lower[column], upper[column]) == pytest.approx(bootstrap_interval(values[:, column], users))


def test_paired_interval_is_narrow_where_two_runs_err_alike():
    """The runs differ by a constant, so their difference has no spread, although each run has one."""
    values, users = np.random.default_rng(8).random(60), np.arange(60) // 3
    lower, upper = bootstrap_interval((values + 0.25) - values, users)
    assert (lower, upper) == pytest.approx((0.25, 0.25))


def test_interval_by_users_is_wider_than_by_rows_if_their_examples_agree():
    """Ten equal examples a user are worth one: the interval is √10 times as wide."""
    values = np.repeat(np.random.default_rng(0).random(50) < 0.5, 10).astype(np.float64)
    by_user = np.subtract(*bootstrap_interval(values, np.repeat(np.arange(50), 10)))
    by_row = np.subtract(*bootstrap_interval(values, np.arange(500)))
    assert by_user / by_row == pytest.approx(math.sqrt(10), rel=0.2)


def test_interval_equals_the_normal_one_for_many_users():
    values = np.random.default_rng(1).random(400)
    lower, upper = bootstrap_interval(values, np.arange(400), num_resamples=4000)
    half = 1.96 * values.std() / math.sqrt(400)
    assert (lower, upper) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)


def test_interval_is_deterministic_in_the_seed():
    values, users = np.random.default_rng(2).random(60), np.arange(60) // 2
    first = bootstrap_interval(values, users, seed=5)
    np.random.default_rng(0).random(3)
    assert bootstrap_interval(values, users, seed=5) == first
    assert bootstrap_interval(values, users, seed=6) != first


def test_interval_grows_with_the_confidence():
    values, users = np.random.default_rng(3).random(60), np.arange(60)
    low_90, high_90 = bootstrap_interval(values, users, confidence=0.9)
    low_99, high_99 = bootstrap_interval(values, users, confidence=0.99)
    assert low_99 < low_90 < high_90 < high_99


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5)), min_size=1, max_size=30), st.integers(0, 5))
def test_interval_contains_the_mean(rows, seed):
    values, users = (np.array(column) for column in zip(*rows, strict=True))
    lower, upper = bootstrap_interval(values, users, num_resamples=200, seed=seed)
    if len(set(users)) == 1:
        assert np.isnan(lower)
        assert np.isnan(upper)
        return
    assert lower - 1e-9 <= values.mean() <= upper + 1e-9


def test_interval_does_not_care_for_the_order_of_the_rows():
    rng = np.random.default_rng(4)
    values, users = rng.random(50), rng.integers(0, 12, 50)
    shuffle = rng.permutation(50)
    assert bootstrap_interval(values[shuffle], users[shuffle]) == pytest.approx(bootstrap_interval(values, users))


def test_compression_ratios_by_hand():
    fed = np.array([[10, 20, 50], [30, 40, 70]])
    as_text = np.array([[100, 120, 150], [60, 80, 90]])
    # Sums over sums, so that a long history weighs more than a short one.
    assert compression_ratios(fed, as_text) == pytest.approx(
        {"compression_ratio": 160 / 40, "compression_ratio_history": 200 / 60, "compression_ratio_prompt": 240 / 120}
    )
    assert set(compression_ratios(as_text, as_text).values()) == {1.0}
    no_items = np.array([[0, 2, 20]])
    assert set(compression_ratios(no_items, no_items).values()) == {1.0}


@pytest.mark.parametrize(
    ("title_length", "layout", "ratio"),
    [
        (3.94, ItemPatchLayout(5), 3.44),  # MovieLens-1M
        (3.94, SessionPatchLayout(5), 9.23),
        (9.82, ItemPatchLayout(5), 6.81),  # Goodreads
        (9.82, SessionPatchLayout(5), 13.62),
        (3.86, ItemPatchLayout(5), 3.38),  # MovieLens-100K
        (3.86, SessionPatchLayout(20), 3.85),
    ],
)
def test_the_papers_compression_ratios(title_length, layout, ratio):
    """The ratios of Table 2 belong to histories of 100 items whose titles have the mean length of Table 1."""
    fed = 0.0
    for granularity, start, stop in layout(100):
        num_items = stop - start
        fed += {"text": num_items * title_length, "item_patch": num_items, "session_patch": 1}[granularity]
    ratios = compression_ratios(np.array([[fed] * 3]), np.array([[100 * title_length] * 3]))
    assert round(ratios["compression_ratio"], 2) == ratio


def test_agrees_with_torchmetrics():
    torch = pytest.importorskip("torch")
    retrieval = pytest.importorskip("torchmetrics.functional.retrieval")
    scores = np.random.default_rng(5).random((20, 30))
    targets = np.random.default_rng(6).integers(0, 30, 20)
    metrics = per_target_metrics(ranks_from_scores(scores, targets), ks=[1, 5, 10])
    reciprocal = ranking_metrics(ranks_from_scores(scores, targets), ks=[30])["mrr@30"]
    theirs = []
    for row in range(20):
        predictions, relevant = torch.tensor(scores[row]), torch.zeros(30, dtype=torch.long)
        relevant[targets[row]] = 1
        for k in (1, 5, 10):
            hit = retrieval.retrieval_hit_rate(predictions, relevant, top_k=k)
            gain = retrieval.retrieval_normalized_dcg(predictions, relevant, top_k=k)
            assert metrics[f"hr@{k}"][row] == pytest.approx(float(hit))
            assert metrics[f"ndcg@{k}"][row] == pytest.approx(float(gain))
        theirs.append(float(retrieval.retrieval_reciprocal_rank(predictions, relevant)))
    assert reciprocal == pytest.approx(np.mean(theirs))


@pytest.mark.slow
def test_agrees_with_ranx():
    ranx = pytest.importorskip("ranx")
    scores = np.random.default_rng(7).random((20, 30))
    targets = np.random.default_rng(8).integers(0, 30, 20)
    metrics = ranking_metrics(ranks_from_scores(scores, targets), ks=[1, 5, 10])
    qrels = ranx.Qrels({f"q{row}": {f"d{targets[row]}": 1} for row in range(20)})
    run = ranx.Run({f"q{row}": {f"d{item}": float(scores[row, item]) for item in range(30)} for row in range(20)})
    names = {name: name.replace("hr@", "hit_rate@") for name in metrics}
    theirs = ranx.evaluate(qrels, run, list(names.values()))
    assert metrics == pytest.approx({ours: theirs[name] for ours, name in names.items()})


def test_nan_scores_cannot_be_ranked():
    with pytest.raises(ValueError, match="NaN"):
        ranks_from_scores(np.array([[np.nan, 1.0, 2.0]]), np.array([0]))


def test_nothing_to_average():
    with pytest.raises(ValueError, match="empty"):
        bootstrap_interval(np.array([]), np.array([]))
    with pytest.raises(ValueError, match="at least one cut-off"):
        ranking_metrics([1.0], [])
