"""Every baseline gives log-probabilities over its catalog, in the order of its scores."""

import numpy as np
import pytest
from small_baselines import NAMES

from patchrec_hf.baselines import CoVisitation, Transitions
from patchrec_hf.baselines.log_probs import log_smoothed_shares, log_softmax
from patchrec_hf.runtime.title_similarity import log_shares


@pytest.mark.parametrize("name", ["CoVisitation", "Transitions", *NAMES])
def test_probabilities_sum_to_1_and_keep_the_order(name, catalog, rows, make_baseline):
    counting = {"CoVisitation": CoVisitation, "Transitions": Transitions}
    model = counting[name](catalog).fit(rows) if name in counting else make_baseline(name)
    histories = [[10, 13], [20, 11, 17], [12]]
    scores, log_probs = model.score(histories), model.log_probs(histories, times=np.array([5, 6, 7]))
    assert (log_probs.shape, log_probs.dtype) == (scores.shape, np.float64)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1, rtol=1e-9)
    for row, values in zip(scores, log_probs, strict=True):
        order = np.argsort(row, kind="stable")
        rises = np.diff(row[order].astype(np.float64)) > 0
        assert (np.diff(values[order])[~rises] == 0).all()
        assert (np.diff(values[order])[rises] > 0).all()


def test_shares_by_hand():
    values = log_smoothed_shares(np.array([[3.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(
        np.exp(values), [[0.7501 / 1.0004, 0.2501 / 1.0004, 1e-4 / 1.0004, 1e-4 / 1.0004], [0.25] * 4]
    )


def test_shares_are_those_of_the_prior_up_to_a_constant():
    scores = np.random.default_rng(0).random((3, 5))
    difference = log_smoothed_shares(scores) - log_shares(scores)
    np.testing.assert_allclose(difference, np.broadcast_to(difference[:, :1], (3, 5)))


def test_softmax_of_large_logits():
    np.testing.assert_allclose(np.exp(log_softmax(np.array([[1000.0, 1000.0 + np.log(3)]]))), [[0.25, 0.75]])
