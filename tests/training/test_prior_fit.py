"""Fitting the prior: the weights against a general optimizer, and a whole fit."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from patchrec_hf import (
    BOOK_PROMPT_INSTRUCTION_FIRST,
    ItemPatchLayout,
    PatchRecForCausalLM,
    PatchRecProcessor,
    evaluate_model,
    fit_prior,
)
from patchrec_hf.baselines import CoVisitation
from patchrec_hf.tiny import build_tiny_backbone
from patchrec_hf.training.prior_fit import fit_weights


def likelihood(features, targets, weights):
    scores = torch.stack([torch.tensor(feature) for feature in features], -1).double() @ weights
    return torch.nn.functional.cross_entropy(scores, torch.tensor(targets))


def test_weights_maximize_the_likelihood():
    generator = np.random.default_rng(0)
    features = [generator.normal(size=(300, 12)), generator.normal(size=(300, 12)), np.zeros((300, 12))]
    true = np.array([1.5, -0.7, 0.0])
    scores = np.stack(features, -1) @ true + generator.gumbel(size=(300, 12))
    targets = scores.argmax(axis=1)
    weights = fit_weights(features, targets, [1.0, 0.0, 0.0])
    assert np.abs(weights - true).max() < 0.3
    assert weights[2] == 0  # a feature that tells nothing has no weight
    tensor = torch.tensor(weights, requires_grad=True)
    likelihood(features, targets, tensor).backward()
    assert tensor.grad.abs().max() < 1e-3


def test_separable_targets_do_not_run_away():
    """Without the small penalty, the weight would grow without end."""
    feature = np.eye(5).repeat(20, axis=0)
    weights = fit_weights([feature], np.arange(5).repeat(20), [1.0])
    assert 5 < weights[0] < 1000
    assert np.isfinite(weights).all()


@pytest.fixture
def chains(catalog):
    """Each user reads the catalog in its order, from another item on, and so co-visits know the next item."""
    ids = catalog.item_ids.tolist()
    rows = [
        {"user_id": user, "item_ids": ids[user : user + 4], "target_positions": [3]} for user in range(len(ids) - 4)
    ]
    return Dataset.from_list(rows)


def test_a_fitted_prior_finds_what_counting_finds(catalog, chains):
    backbone, tokenizer = build_tiny_backbone(catalog, vocab_size=400, hidden_size=32)
    processor = PatchRecProcessor(
        tokenizer, catalog, BOOK_PROMPT_INSTRUCTION_FIRST, ItemPatchLayout(0), 10, False, item_residuals=True
    )
    model = PatchRecForCausalLM.from_backbone(backbone, tokenizer)
    model.add_item_head(catalog)
    before = evaluate_model(model, processor, chains, show_progress=False).metrics([1])["hr@1"]
    co_visitation = CoVisitation(catalog).fit(chains)
    fitted = fit_prior(model, processor, chains, chains, co_visitation, show_progress=False)
    assert processor.prior is None
    assert fitted.prior.weights.co_visits > 0
    after = evaluate_model(model, fitted, chains, show_progress=False).metrics([1])["hr@1"]
    assert before < 0.5 < after


def test_a_model_without_an_item_head_is_refused(model, processor, rows):
    with pytest.raises(ValueError, match="needs a model with an item head"):
        fit_prior(model, processor, rows, rows, show_progress=False)
