"""Weights by maximum likelihood: by hand, never below the best part, and clear errors where they do not converge."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiers import scaled

from patchrec_hf.baselines.fusion_weights import fit_weights
from patchrec_hf.runtime.log_linear import mix_log_probs
from patchrec_hf.runtime.log_probs import log_softmax


def likelihood(log_probs, targets, weights):
    return float(mix_log_probs(log_probs, weights)[np.arange(len(targets)), targets].mean())


def random_parts(seed, num_parts=3, num_rows=40, num_items=6):
    generator = np.random.default_rng(seed)
    spread = generator.uniform(0.1, 4, size=(num_parts, 1, 1))
    scores = spread * generator.normal(size=(num_parts, num_rows, num_items))
    targets = (scores[0] + generator.gumbel(size=scores[0].shape)).argmax(axis=1)
    return {f"part {number}": log_softmax(array) for number, array in enumerate(scores)}, targets


def test_one_weight_by_hand():
    """
    A part that gives p = (0.8, 0.2) is right in three of four rows. The mix gives p^w / (p^w + q^w) = 3/4, so
    w = log 3 / log 4.
    """
    log_probs = np.log(np.tile([0.8, 0.2], (4, 1)))
    weights, fit = fit_weights({"part": log_probs}, np.array([0, 0, 0, 1]))
    assert weights["part"] == pytest.approx(np.log(3) / np.log(4), abs=1e-4)
    assert fit.log_likelihood == pytest.approx(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert fit.of_parts["part"] == pytest.approx(0.75 * np.log(0.8) + 0.25 * np.log(0.2))
    assert fit.num_targets == 4


def test_weights_maximize_the_likelihood():
    log_probs, targets = random_parts(0, num_rows=300)
    weights, fit = fit_weights(log_probs, targets)
    tensor = torch.tensor(list(weights.values()), dtype=torch.float64, requires_grad=True)
    scores = torch.stack([torch.tensor(array) for array in log_probs.values()], -1) @ tensor
    torch.nn.functional.cross_entropy(scores, torch.tensor(targets)).backward()
    assert tensor.grad.abs().max() < 1e-5
    assert abs(weights["part 0"] - 1) < 0.3
    assert max(abs(weights["part 1"]), abs(weights["part 2"])) < 0.3
    assert fit.log_likelihood == pytest.approx(likelihood(log_probs, targets, weights))


@settings(max_examples=scaled(25))
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 12))
def test_a_fusion_is_never_below_its_best_part(seed, num_parts, num_rows):
    log_probs, targets = random_parts(seed, num_parts, num_rows)
    _, fit = fit_weights(log_probs, targets)
    assert fit.log_likelihood >= max(fit.of_parts.values())
    for name, array in log_probs.items():
        assert fit.of_parts[name] == pytest.approx(array[np.arange(num_rows), targets].mean())


@settings(max_examples=scaled(10))
@given(st.integers(0, 10_000))
def test_the_order_of_parts_and_constants_do_not_matter(seed):
    log_probs, targets = random_parts(seed)
    _, fit = fit_weights(log_probs, targets)
    turned = {name: log_probs[name] for name in reversed(log_probs)}
    _, other = fit_weights(turned, targets)
    assert other.log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-6)
    shifted = {name: array.astype(np.float32) for name, array in log_probs.items()}
    assert fit_weights(shifted, targets)[1].log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-5)


def test_a_part_that_tells_nothing_has_no_weight():
    log_probs, targets = random_parts(1)
    weights, _ = fit_weights({**log_probs, "nothing": np.full((40, 6), -np.log(6))}, targets)
    assert weights["nothing"] == pytest.approx(0, abs=1e-6)


def test_a_part_that_is_never_wrong_does_not_run_away():
    """Without the small penalty, the weight would grow without end."""
    targets = np.arange(5).repeat(20)
    weights, fit = fit_weights({"oracle": log_softmax(np.eye(5)[targets])}, targets)
    assert 5 < weights["oracle"] < 1000
    assert fit.log_likelihood > -1e-3


def test_parts_that_are_alike_share_their_weight():
    log_probs, targets = random_parts(2)
    alone, _ = fit_weights({"one": log_probs["part 0"]}, targets)
    both, _ = fit_weights({"one": log_probs["part 0"], "two": log_probs["part 0"]}, targets)
    assert both["one"] + both["two"] == pytest.approx(alone["one"], abs=1e-3)


def test_mistakes_are_named():
    log_probs, targets = random_parts(3)
    with pytest.raises(ValueError, match=r"did not converge: after 1 steps they are .*Give more validation rows"):
        fit_weights(log_probs, targets, max_steps=1)
    with pytest.raises(ValueError, match="`max_steps` must be at least 1, got 0"):
        fit_weights(log_probs, targets, max_steps=0)
    with pytest.raises(ValueError, match="at least one part and one target, got 0 and 40"):
        fit_weights({}, targets)
    log_probs["part 1"][3, 2] = -np.inf
    with pytest.raises(FloatingPointError, match="part 'part 1' gives the log-probability -inf"):
        fit_weights(log_probs, targets)
