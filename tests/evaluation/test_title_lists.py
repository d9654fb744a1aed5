"""Titles that may be recommended, and where a target stands among them; by hand."""

import math

import numpy as np
import pytest

from patchrec_hf import RELEASE_MATCHING, STRICT_PROTOCOL
from patchrec_hf.evaluation.title_lists import TitleLists
from patchrec_hf.runtime.title_tokens import TitleTokens
from patchrec_hf.runtime.trie import build_trie


TITLES = ("Emma", "Poems", "Emma", "Emma II")
TOKENS = TitleTokens(np.array([5, 6, 5, 5, 7]), np.array([0, 1, 2, 3, 5]))
END = 9


def lists(protocol):
    trie = build_trie(TOKENS, END, protocol.complete_prefixes)
    return TitleLists(trie, TITLES, protocol)


def test_items_of_one_title_are_listed_once():
    strict = lists(STRICT_PROTOCOL)
    assert strict.num_titles == 3
    (titles,) = strict.all(1)
    by_item = dict(zip(titles.items.tolist(), titles.num_items.tolist(), strict=True))
    assert by_item == {0: 2, 1: 1, 3: 1}


def test_titles_that_begin_another_cannot_be_spelled_in_the_release():
    release = lists(RELEASE_MATCHING)
    assert release.num_titles == 2
    assert sorted(release.all(1)[0].items.tolist()) == [1, 3]


def test_seen_items_are_left_out():
    """With credit by item, the other "Emma" stays; in the release a seen title goes with all of its items."""
    (titles,) = lists(STRICT_PROTOCOL).without([np.array([0, 1])], np.array([3]))
    assert dict(zip(titles.items.tolist(), titles.num_items.tolist(), strict=True)) == {2: 1, 3: 1}
    (titles,) = lists(RELEASE_MATCHING).without([np.array([1])], np.array([3]))
    assert titles.items.tolist() == [3]


@pytest.mark.parametrize(
    ("ranked", "target", "expected"),
    [
        ([1, 0, 3], 1, (1.0, 1.0, 1)),
        ([1, 0, 3], 2, (2.5, 2.0, 2)),  # both "Emma" share the ranks 2 and 3
        ([1, 0, 3], 3, (4.0, 3.0, 1)),
        ([1, 0, -1], 3, (math.inf, math.inf, 1)),
        ([1, -1, -1], 0, (math.inf, math.inf, 2)),
    ],
)
def test_ranks_by_item_and_by_title(ranked, target, expected):
    strict = lists(STRICT_PROTOCOL)
    found = strict.find(strict.all(1), np.array([ranked]), -np.arange(3.0)[None], np.array([target]))
    assert tuple(column[0] for column in found[:3]) == expected
    assert found.places[0] == expected[1]


def test_the_release_credits_longer_titles():
    """ "Emma II" begins with the letters of "Emma", which the release cannot spell."""
    release = lists(RELEASE_MATCHING)
    found = release.find(release.all(1), np.array([[1, 3]]), np.zeros((1, 2)), np.array([0]))
    assert tuple(column[0] for column in found) == (2, 2, 1, 2)


@pytest.mark.parametrize(
    ("scores", "target", "tied", "expected"),
    [
        ([-1.0, -1.0, -2.0], 1, [], (2.0, 1.5, 3, 1.0)),  # "Poems" and two "Emma" share the ranks 1, 2 and 3
        ([-1.0, -1.0, -2.0], 2, [], (2.0, 1.5, 3, 2.0)),
        ([-1.0, -1.0, -2.0], 3, [], (4.0, 3.0, 1, 3.0)),
        ([-1.0, -2.0, -2.0 - 1e-7], 3, [], (3.0, 2.5, 3, 3.0)),  # float32 cannot tell these two apart
        ([-1.0, -2.0, -2.0 - 1e-4], 3, [], (4.0, 3.0, 1, 3.0)),
        ([-1.0, -2.0, -np.inf], 3, [3], (3.0, 2.5, 3, math.inf)),  # the list left out what ties with its last place
        ([-1.0, -2.0, -np.inf], 0, [3], (3.0, 2.5, 3, 2.0)),
        ([-2.0, -2.0, -np.inf], 1, [3], (2.5, 2.0, 4, 1.0)),
    ],
)
def test_titles_with_equal_scores_share_their_ranks(scores, target, tied, expected):
    strict = lists(STRICT_PROTOCOL)
    ranked = np.where(np.isfinite(scores), [1, 0, 3], -1)
    found = strict.find(strict.all(1), ranked[None], np.array([scores]), np.array([target]), {0: np.array(tied, int)})
    assert tuple(column[0] for column in found) == expected
