"""Titles that may be recommended, and where a target stands among them; by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_parts import title_tokens

from patchrec_hf import RELEASE_MATCHING, STRICT_PROTOCOL
from patchrec_hf.evaluation.title_lists import AllowedTitles, TitleLists
from patchrec_hf.runtime.title_tokens import TitleTokens
from patchrec_hf.runtime.trie import build_trie


TITLES = ("Emma", "Poems", "Emma", "Emma II")
TOKENS = TitleTokens(np.array([5, 6, 5, 5, 7]), np.array([0, 1, 2, 3, 5]))
END = 9


def lists(protocol):
    trie = build_trie(TOKENS, END, protocol.complete_prefixes)
    return TitleLists(trie, TITLES, protocol)


def listed(titles, allowed):
    """The first item of each title that may be recommended for the one target, and the number of its items."""
    (one,), items = allowed, np.sort(titles.trie.items)
    firsts = items[one.representatives.holds(items)]
    return dict(zip(firsts.tolist(), one.num_items_at(titles.trie.leaf_of_item[firsts]).tolist(), strict=True))


def test_items_of_one_title_are_listed_once():
    strict = lists(STRICT_PROTOCOL)
    assert strict.num_titles == 3
    assert listed(strict, strict.all(1)) == {0: 2, 1: 1, 3: 1}


def test_titles_that_begin_another_cannot_be_spelled_in_the_release():
    release = lists(RELEASE_MATCHING)
    assert release.num_titles == 2
    assert listed(release, release.all(1)) == {1: 1, 3: 1}


def test_seen_items_are_left_out():
    """With credit by item, the other "Emma" stays; in the release a seen title goes with all of its items."""
    strict, release = lists(STRICT_PROTOCOL), lists(RELEASE_MATCHING)
    assert listed(strict, strict.without([np.array([0, 1])], np.array([3]))) == {2: 1, 3: 1}
    assert listed(strict, strict.without([np.array([2, 2])], np.array([3]))) == {0: 1, 1: 1, 3: 1}
    assert listed(release, release.without([np.array([1])], np.array([3]))) == {3: 1}


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3), min_size=1, max_size=12), st.data())
def test_titles_without_items_equal_the_titles_of_the_others(titles, data):
    trie = build_trie(title_tokens(titles), END, complete_prefixes=data.draw(st.booleans()))
    left_out = np.array(data.draw(st.lists(st.integers(0, len(titles) - 1), max_size=5)), dtype=np.int64)
    found = AllowedTitles.without(trie, left_out)
    leaves, firsts, counts = trie.titles_of(np.setdiff1d(trie.items, left_out))
    items = np.sort(trie.items)
    assert items[found.representatives.holds(items)].tolist() == sorted(firsts.tolist())
    assert found.num_items_at(leaves).tolist() == counts.tolist()


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
    ranks = strict.find(strict.all(1), np.array([ranked]), np.array([target]))
    assert tuple(column[0] for column in ranks) == expected


def test_the_release_credits_longer_titles():
    """ "Emma II" begins with the letters of "Emma", which the release cannot spell."""
    release = lists(RELEASE_MATCHING)
    item_rank, title_rank, num_ties = release.find(release.all(1), np.array([[1, 3]]), np.array([0]))
    assert (item_rank[0], title_rank[0], num_ties[0]) == (2, 2, 1)
