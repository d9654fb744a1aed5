"""Log-probabilities, by hand."""

import numpy as np

from patchrec_hf.runtime.log_probs import log_smoothed_shares, log_softmax
from patchrec_hf.runtime.title_similarity import log_shares


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
