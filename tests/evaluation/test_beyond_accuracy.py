"""Coverage, novelty, popularity bias and calibration, by hand."""

import math

import numpy as np
import polars as pl
import pytest

from patchrec_hf.evaluation.beyond_accuracy import (
    PROBABILITY_EDGES,
    calibration_table,
    list_metrics,
    probability_metrics,
)


TARGETS = pl.DataFrame(
    {
        "top_ids": [[1, 2, 3], [1, 4]],
        "top_users": [[8, 4, 2], [8, 0]],
        "history_users": [2.0, None],
        "top_place": [2, None],
        "top_log_probs": [[math.log(0.5), math.log(0.2), math.log(0.15)], [math.log(0.4), math.log(1e-5)]],
        "log_prob": [math.log(0.2), math.log(0.01)],
    },
    schema_overrides={"top_log_probs": pl.List(pl.Float32)},
)
SETTINGS = {"num_items": 10, "num_train_users": 16}


def test_lists_by_hand():
    metrics = list_metrics(TARGETS, SETTINGS, (1, 2, 3, 50))
    assert metrics == pytest.approx(
        {
            "coverage@1": 1 / 10,
            "novelty@1": 1.0,  # 8 of 16 users
            "popularity_bias@1": 8 / 2,
            "coverage@2": 3 / 10,
            "novelty@2": (1 + 2 + 1 + 4) / 4,  # an item without users counts as if one of 16 had it
            "popularity_bias@2": (8 + 4 + 8 + 0) / 4 / 2,
            "coverage@3": 4 / 10,
            "novelty@3": (1 + 2 + 3 + 1 + 4) / 5,
            "popularity_bias@3": (8 + 4 + 2 + 8 + 0) / 5 / 2,
        }
    )


def test_what_is_unknown_is_left_out():
    assert list(list_metrics(TARGETS.drop("top_users", "history_users"), SETTINGS, (1,))) == ["coverage@1"]
    assert list_metrics(TARGETS.select("top_place"), {}, (1,)) == {}
    assert probability_metrics(TARGETS.drop("top_log_probs", "log_prob")) == {}
    unknown = TARGETS.with_columns(log_prob=pl.Series([None, -1.0]))
    assert list(probability_metrics(unknown)) == ["calibration_error"]
    no_histories = TARGETS.with_columns(history_users=pl.lit(None, dtype=pl.Float64))
    assert list(list_metrics(no_histories, SETTINGS, (1,))) == ["coverage@1", "novelty@1"]


def test_calibration_by_hand():
    """0.5 and 0.4 lie in the bin from 10⁻⁰·⁵; 0.2 (the only hit) and 0.15 in the bin below; 10⁻⁵ in the first."""
    table = calibration_table(TARGETS)
    assert table["num_items"].to_list() == [1, 2, 2]
    assert table["num_hits"].to_list() == [0, 1, 0]
    np.testing.assert_allclose(table["low"], [0, 0.1, 10**-0.5])
    np.testing.assert_allclose(table["high"], [1e-4, 10**-0.5, 1])
    np.testing.assert_allclose(table["mean_probability"], [1e-5, 0.175, 0.45], rtol=1e-6)
    assert table["hit_share"].to_list() == [0, 0.5, 0]
    metrics = probability_metrics(TARGETS)
    assert metrics["calibration_error"] == pytest.approx((1e-5 + 2 * 0.325 + 2 * 0.45) / 5)
    assert metrics["log_loss"] == pytest.approx(-(math.log(0.2) + math.log(0.01)) / 2)


def test_a_certain_item_and_an_empty_list():
    certain = TARGETS.with_columns(
        top_log_probs=pl.Series([[0.0], []], dtype=pl.List(pl.Float32)), top_place=pl.Series([1, None])
    )
    assert calibration_table(certain).select("num_items", "num_hits").rows() == [(1, 1)]
    assert probability_metrics(certain)["calibration_error"] == 0
    assert PROBABILITY_EDGES[0] == 0
    assert PROBABILITY_EDGES[-1] == 1


def test_probabilities_that_are_true_are_calibrated():
    """A list of one item of probability 0.2 for each of 20,000 targets, of which a fifth are hits."""
    is_hit = np.random.default_rng(0).random(20_000) < 0.2
    targets = pl.DataFrame(
        {
            "top_place": pl.Series(is_hit.astype(int)).replace(0, None),
            "top_log_probs": [[math.log(0.2)]] * len(is_hit),
            "log_prob": np.zeros(len(is_hit)),
        }
    )
    assert probability_metrics(targets)["calibration_error"] == pytest.approx(abs(is_hit.mean() - 0.2))
    assert probability_metrics(targets)["calibration_error"] < 0.01
