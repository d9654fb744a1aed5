"""The parts of a fusion that need no model, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from item_parts import table_of

from patchrec_hf.runtime.fusion_parts import NeighborPart, PopularityPart, SeenPart, check_part_names, seen_mask
from patchrec_hf.runtime.recent_popularity import RecentPopularity


TABLE = table_of([[0, 3, 1], [1, 0, 0], [0, 0, 0]], [5, 6, 7])
HISTORY = st.lists(st.integers(0, 5), max_size=6).map(lambda items: np.array(items, dtype=np.int64))


def test_shares_by_hand():
    """Item 0 gives 3/4 to item 1 and 1/4 to item 2; item 3 is new. A share q becomes (q + 10⁻⁴) / (1 + n · 10⁻⁴)."""
    (found,) = NeighborPart(TABLE).log_probs([np.array([0, 9])], 4)
    np.testing.assert_allclose(np.exp(found), (np.array([0, 0.75, 0.25, 0]) + 1e-4) / (1 + 4e-4))
    (unknown,) = NeighborPart(TABLE).log_probs([np.array([2])], 4)
    np.testing.assert_allclose(np.exp(unknown), 0.25)  # item 2 gives nothing


def test_seen_by_hand():
    (found,) = SeenPart().log_probs([np.array([1, 1, 9])], 3)
    np.testing.assert_allclose(np.exp(found), np.array([1, np.e, 1]) / (2 + np.e))
    assert seen_mask([np.array([1, 1, 9]), np.array([], dtype=np.int64)], 3).tolist() == [[0, 1, 0], [0, 0, 0]]


DAY = 86_400
RECENT = RecentPopularity.count(np.array([0, 0, 1]), np.array([0, DAY, DAY + 1]), np.array([5, 6, 7]))


def test_popularity_by_hand():
    """On day 2, the one day before counts: items 0 and 1 once each. On day 9, nothing counts. Item 3 is new."""
    part = PopularityPart(RECENT, window=1)
    found = np.exp(part.log_probs([np.array([0])] * 3, 4, np.array([2 * DAY, 3 * DAY - 1, 9 * DAY])))
    of_day_2 = [2 / 6, 2 / 6, 1 / 6, 1 / 6]
    np.testing.assert_allclose(found, [of_day_2, of_day_2, [1 / 4] * 4])
    at_the_end = part.log_probs([np.array([0])], 4)
    np.testing.assert_allclose(np.exp(at_the_end), found[:1])
    with pytest.raises(ValueError, match="`window` must be at least 1 day, got 0"):
        PopularityPart(RECENT, window=0)


@given(st.lists(HISTORY, min_size=1, max_size=3))
@pytest.mark.parametrize("part", [NeighborPart(TABLE), SeenPart(), PopularityPart(RECENT)])
def test_parts_sum_to_one_for_any_history(part, histories):
    found = part.log_probs(histories, 4)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)
    # Histories that are asked for together do not change each other.
    np.testing.assert_allclose(found[-1:], part.log_probs(histories[-1:], 4))


def test_names_are_checked():
    with pytest.raises(ValueError, match="no part 'co_visit'; the parts are titles, item, co_visits"):
        check_part_names(["co_visit"])
    with pytest.raises(ValueError, match="'seen' is listed 2 times"):
        check_part_names(["seen", "seen"])
    with pytest.raises(ValueError, match="at least one part"):
        check_part_names([])
