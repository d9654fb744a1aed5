"""Tests of protocols: which place in a list is the target's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchrec_hf import RELEASE_MATCHING, STRICT_PROTOCOL, EvaluationProtocol
from patchrec_hf.evaluation.protocol import find_protocol


TITLES = ("Emma", "Emmanuel", "Typhoon", "Typhoon and Other Stories", "Poems", "Poems")


def place(protocol, items, target, titles=TITLES):
    return protocol.ranks(titles, np.array([items]), np.array([target])).tolist()


@pytest.mark.parametrize(
    ("items", "target", "strict", "prefixes", "last", "authors"),
    [
        ([1, 0, 3, 2], 0, 2, 1, 2, 2),  # "Emmanuel" stands before "Emma"
        ([0, 2, 1, 3], 0, 1, 1, 1, 3),  # and after it
        ([0, 2, 1, 3], 1, 3, 3, 3, 3),  # "Emma" is not taken for "Emmanuel"
        ([0, 3, 1, 2], 2, 4, 2, 4, 4),
        ([3, 1, -1, -1], 2, np.inf, 1, np.inf, 1),  # no "Typhoon", but its stories
        ([2, 0, -1, -1], 3, np.inf, np.inf, np.inf, np.inf),
        ([0, 5, 1, 4], 4, 2, 2, 4, 4),  # two items called "Poems": either is the target
        ([0, 5, 1, -1], 4, 2, 2, 2, 2),
        ([0, 1, 2, 3], 4, np.inf, np.inf, np.inf, np.inf),
    ],
)
def test_places_by_hand(items, target, strict, prefixes, last, authors):
    assert place(STRICT_PROTOCOL, items, target) == [strict]
    assert place(EvaluationProtocol(credit_prefixes=True, credit_items=False), items, target) == [prefixes]
    assert place(EvaluationProtocol(take_last_match=True, credit_items=False), items, target) == [last]
    assert place(
        EvaluationProtocol(credit_prefixes=True, take_last_match=True, credit_items=False), items, target
    ) == [authors]
    assert place(RELEASE_MATCHING, items, target) == [authors]
    # These two say what is ranked; they change nothing about a list that is given.
    assert place(EvaluationProtocol(complete_prefixes=False), items, target) == [strict]
    assert place(EvaluationProtocol(credit_items=False), items, target) == [strict]


@pytest.mark.parametrize("title", ["E", "Emm", "Emma", "emma", "Emma ", "Emmanuela"])
def test_prefixes_are_compared_letter_by_letter(title):
    """By letters, not by words: "E" is enough for "Emma", and a capital or a blank more is too much."""
    expected = 1.0 if title in ("E", "Emm", "Emma") else np.inf
    assert place(EvaluationProtocol(credit_prefixes=True, credit_items=False), [1], 0, titles=(title, "Emma")) == [
        expected
    ]
    expected = 1.0 if title == "Emma" else np.inf
    assert place(STRICT_PROTOCOL, [1], 0, titles=(title, "Emma")) == [expected]


@pytest.mark.parametrize("title", ["-1", "None", "nan", "0", "\0", " Emma"])
@pytest.mark.parametrize("protocol", [STRICT_PROTOCOL, RELEASE_MATCHING])
def test_missing_items_match_no_title(protocol, title):
    titles = ("Poems", title)
    assert place(protocol, [-1, -1, -1], 1, titles) == [np.inf]
    assert place(protocol, [1, -1, -1], 1, titles) == [1.0]
    assert place(protocol, [0, -1, -1], 1, titles) == [np.inf]


def test_every_list_has_its_own_target():
    items = np.array([[0, 1, 2], [0, 1, 2], [2, 0, -1]])
    places = STRICT_PROTOCOL.ranks(TITLES, items, np.array([2, 0, 1]))
    assert places.dtype == np.float64
    assert places.tolist() == [3.0, 1.0, np.inf]


def authors_place(generated, real):
    """The loop of the authors' release: every match overwrites the one before."""
    place = np.inf
    for index, title in enumerate(generated):
        if title[: len(real)] == real:
            place = index + 1
    return place


def first_place(generated, real):
    return generated.index(real) + 1 if real in generated else np.inf


@given(data=st.data())
def test_places_are_those_of_a_plain_loop(data):
    # Short titles of two letters begin each other, and repeat, all the time.
    titles = data.draw(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=8))
    indices = st.integers(0, len(titles) - 1)
    k = data.draw(st.integers(1, 6))
    lists = st.lists(st.integers(-1, len(titles) - 1), min_size=k, max_size=k)
    items, targets = zip(*data.draw(st.lists(st.tuples(lists, indices), min_size=1, max_size=4)), strict=True)
    for protocol, rule in ((RELEASE_MATCHING, authors_place), (STRICT_PROTOCOL, first_place)):
        places = protocol.ranks(titles, np.array(items), np.array(targets))
        generated = [["" if item < 0 else titles[item] for item in row] for row in items]
        assert places.tolist() == [rule(row, titles[target]) for row, target in zip(generated, targets, strict=True)]


@pytest.mark.parametrize("rule", ["credit_prefixes", "take_last_match"])
def test_rules_about_lists_of_titles_need_them(rule):
    with pytest.raises(ValueError, match="need `credit_items=False`"):
        EvaluationProtocol(**{rule: True})


def test_names_of_rules():
    """`release` names a whole evaluation, with a decoding of its own, and no rules."""
    assert find_protocol("strict") is find_protocol(STRICT_PROTOCOL) is STRICT_PROTOCOL
    assert find_protocol("release-matching") is RELEASE_MATCHING
    with pytest.raises(ValueError, match="must be one of 'strict', 'release-matching', got 'release'"):
        find_protocol("release")
