"""Ranks from scores, by item and by title."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiers import scaled

from patchrec_hf import Catalog
from patchrec_hf.evaluation.score_ranks import TitleGroups


def catalog_of(titles):
    return Catalog(np.arange(len(titles)), tuple(titles))


def test_groups_by_hand():
    groups = TitleGroups.from_catalog(catalog_of(["b", "a", "b", "c", "a"]))
    assert groups.title_of_item.tolist() == [1, 0, 1, 2, 0]
    assert groups.by_title.tolist() == [1, 4, 0, 2, 3]
    assert groups.starts.tolist() == [0, 2, 4]


@pytest.mark.parametrize(
    ("target", "left_out", "item_rank", "title_rank", "num_ties"),
    [
        (1, [], 4.5, 2.0, 2),  # ties with "c" for places 4 and 5; the other "a" makes the title second
        (4, [], 2.0, 2.0, 1),
        (3, [], 4.5, 3.0, 2),
        (4, [2], 1.0, 1.0, 1),  # of "b" is left what scores 2
        (0, [2, 4], 1.0, 1.0, 1),
        (1, [0, 2, 4], 1.5, 1.5, 2),  # "a" and "c" tie, by item and by title; "b" is left out
        (2, [0, 1, 3, 4], 1.0, 1.0, 1),
    ],
)
def test_ranks_by_hand(target, left_out, item_rank, title_rank, num_ties):
    groups = TitleGroups.from_catalog(catalog_of(["b", "a", "b", "c", "a"]))
    allowed = np.ones((1, 5), dtype=bool)
    allowed[0, left_out] = False
    found = groups.ranks(np.array([[2.0, 1.0, 5.0, 1.0, 4.0]]), np.array([target]), allowed)
    assert [values.tolist() for values in found] == [[item_rank], [title_rank], [num_ties]]


@settings(max_examples=scaled(80))
@given(st.data())
def test_ranks_equal_counting(data):
    """The mean place among all allowed items, and among all allowed titles, that have the target's score."""
    titles = data.draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=7))
    num_rows, num_items = data.draw(st.integers(1, 3)), len(titles)
    row = st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=num_items, max_size=num_items)
    scores = np.array(data.draw(st.lists(row, min_size=num_rows, max_size=num_rows)))
    targets = np.array(data.draw(st.lists(st.integers(0, num_items - 1), min_size=num_rows, max_size=num_rows)))
    flags = st.lists(st.booleans(), min_size=num_items, max_size=num_items)
    allowed = np.array(data.draw(st.lists(flags, min_size=num_rows, max_size=num_rows)))
    allowed[np.arange(num_rows), targets] = True
    found = TitleGroups.from_catalog(catalog_of(titles)).ranks(scores, targets, allowed)

    def mean_place(values, own):
        above, equal = sum(value > own for value in values), sum(value == own for value in values)
        return above + (equal + 1) / 2

    for place, target in enumerate(targets):
        items = [item for item in range(num_items) if allowed[place, item]]
        best = {
            title: max(scores[place, i] for i in items if titles[i] == title) for title in {titles[i] for i in items}
        }
        own = scores[place, target]
        assert found[0][place] == mean_place([scores[place, item] for item in items], own)
        assert found[1][place] == mean_place(best.values(), best[titles[target]])
        assert found[2][place] == sum(scores[place, item] == own for item in items)
