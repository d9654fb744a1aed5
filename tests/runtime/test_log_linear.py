"""Log-linear mixing, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from patchrec_hf.runtime.log_linear import checked_weights, mix_log_probs
from patchrec_hf.runtime.log_probs import log_softmax


SCORES = arrays(np.float64, (2, 5), elements=st.floats(-50, 50))


def test_mix_by_hand():
    """p = (1/2, 1/4, 1/4), q = (1/8, 1/8, 3/4): p² / √q, divided by the sum."""
    p, q = np.array([[0.5, 0.25, 0.25]]), np.array([[0.125, 0.125, 0.75]])
    mixed = mix_log_probs({"p": np.log(p), "q": np.log(q)}, {"p": 2.0, "q": -0.5})
    expected = p**2 / np.sqrt(q)
    np.testing.assert_allclose(np.exp(mixed), expected / expected.sum())
    assert mixed.dtype == np.float64


@given(SCORES, SCORES, st.floats(-3, 3), st.floats(-3, 3))
def test_a_mix_sums_to_one_and_ignores_constants(one, two, weight, other_weight):
    weights = {"one": weight, "two": other_weight}
    mixed = mix_log_probs({"one": one, "two": two}, weights)
    np.testing.assert_allclose(np.exp(mixed).sum(axis=1), 1)
    shifted = mix_log_probs({"one": one + 7, "two": two - np.array([[3.0], [-2.0]])}, weights)
    np.testing.assert_allclose(shifted, mixed, atol=1e-9)
    turned = mix_log_probs({"two": two[:, ::-1], "one": one[:, ::-1]}, dict(reversed(weights.items())))
    np.testing.assert_allclose(turned[:, ::-1], mixed, atol=1e-9)


def test_log_softmax_of_float32_is_float64():
    found = log_softmax(np.array([[0.0, 0.0]], dtype=np.float32))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, np.log([[0.5, 0.5]]))


def test_weights_belong_to_parts():
    assert list(checked_weights(["b", "a"], {"a": 1, "b": 2})) == ["b", "a"]
    with pytest.raises(ValueError, match=r"one weight for each of its parts \(a, b\), got weights for a"):
        checked_weights(["a", "b"], {"a": 1.0})
    with pytest.raises(ValueError, match="part 'a' must be a finite number, got nan"):
        checked_weights(["a"], {"a": float("nan")})
