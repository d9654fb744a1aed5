"""The base class of the baselines whose scores are a table of neighbors."""

import numpy as np
import pytest

from patchrec_hf import Catalog
from patchrec_hf.baselines.neighbor_recommender import NeighborRecommender
from patchrec_hf.runtime.neighbors import NeighborTable


CATALOG = Catalog.from_titles({10: "a", 11: "b"})


def test_scores_are_those_of_the_table():
    model = NeighborRecommender(CATALOG)
    model._table = NeighborTable(
        np.array([0, 1, 1]), np.array([1], np.int32), np.array([2.0], np.float32), CATALOG.id_numbers, 0.5, 5
    )
    assert model.score([[10], [10, 11]]).tolist() == [[0, 2], [0, 1]]
    np.testing.assert_allclose(np.exp(model.log_probs([[10]])), [[1e-4 / 1.0002, 1.0001 / 1.0002]])
    for method in (model._settings, lambda: model._restore({})):
        with pytest.raises(NotImplementedError, match="NeighborRecommender does not implement"):
            method()
