"""A checkpoint from the time when a prior joined the item head. It loads as a fusion, and ranks as it did then."""

import json
from pathlib import Path

import numpy as np
import pytest

from patchrec_hf import PatchRecommender


WRITTEN = Path(__file__).parent / "written_with_prior"


@pytest.fixture(scope="module")
def expected():
    return json.loads((WRITTEN / "expected.json").read_text())


def check(recommender, expected):
    scores = recommender.log_probs(expected["histories"])
    differences = scores - np.array(expected["scores"])
    np.testing.assert_allclose(differences - differences[:, :1], 0, atol=5e-5)  # a prior's scores had any constant
    found = recommender.recommend(expected["histories"], k=12, exclude_seen=False, unique_titles=False)
    assert [[item.item_id for item in items] for items in found] == expected["items"]


def test_it_ranks_as_before(expected):
    recommender = PatchRecommender.from_pretrained(WRITTEN / "model")
    weights = {"item": 0.7, "co_visits": 1.3, "similar_titles": 0.4, "seen": -2.0}
    assert dict(recommender.processor.fusion.weights) == weights
    check(recommender, expected)


def test_it_ranks_as_before_when_it_is_saved_again(expected, tmp_path):
    recommender = PatchRecommender.from_pretrained(WRITTEN / "model")
    for part in (recommender.model, recommender.processor):
        part.save_pretrained(tmp_path)
    assert not (tmp_path / "co_visitation.safetensors").exists()
    check(PatchRecommender.from_pretrained(tmp_path), expected)
