"""The best items of each row."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tiers import scaled

from patchrec_hf.runtime.best_items import best_items


@settings(max_examples=scaled(60))
@given(
    scores=st.lists(st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0]), min_size=7, max_size=7), min_size=1),
    k=st.integers(1, 7),
)
def test_best_items_equal_a_stable_sort(scores, k):
    scores = np.array(scores)
    items, found = best_items(scores, k)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    expected = np.take_along_axis(scores, order, axis=1)
    assert found.tolist() == expected.tolist()
    assert items.tolist() == np.where(expected > -np.inf, order, -1).tolist()
