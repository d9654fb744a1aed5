"""Facts that decide whether long histories can matter, computed by hand."""

import polars as pl
import pytest

from patchrec_hf.data import history_facts as module
from patchrec_hf.data.history_facts import history_facts


MEDIAN = "different items that follow an item in train, median"
PERPLEXITY = "perplexity of the next item given the current one in train"
LATEST = "test targets one transition from the user's latest item, share"
ANY = "test targets one transition from any of the user's items, share"

LATEST_BY_CHANCE = "as many targets of other users one transition from the user's latest item, share"
ANY_BY_CHANCE = "as many targets of other users one transition from any of the user's items, share"


def log_of(*users, times=True):
    """A log of users, each a list of (item, split) or (item, split, time)."""
    rows = [(user, *entry) for user, entries in enumerate(users) for entry in entries]
    names = ["user_id", "item_id", "split"] + (["timestamp"] if times else [])
    return pl.DataFrame(rows, schema=names, orient="row")


def test_branching_by_hand():
    """a → b twice, a → c and a → d once each, b → a once: (4 · 1.5 + 1 · 0) / 5 bits."""
    log = log_of(
        [(item, "train") for item in "ab"],
        [(item, "train") for item in "aba"],
        [(item, "train") for item in "ac"],
        [("a", "train"), ("d", "train"), ("c", "validation")],  # d → c is not within train
        times=False,
    )
    assert history_facts(log) == pytest.approx({MEDIAN: 2.0, PERPLEXITY: 2**1.2})  # 3 items follow a, 1 follows b


def test_only_earlier_transitions_lead_to_a_target():
    log = log_of(
        [("a", "train", 1), ("b", "train", 10)],  # a → b at 10
        [("a", "train", 1), ("c", "train", 2), ("b", "test", 11)],  # from a, not from the latest item c
        [("a", "train", 1), ("b", "test", 10)],  # at the same time, which is not before
        [("c", "train", 1), ("b", "test", 12)],  # c → b at 11
        [("b", "train", 1), ("d", "test", 99)],  # nobody did this before
    )
    facts = history_facts(log)
    assert facts[LATEST] == 1 / 4
    assert facts[ANY] == 2 / 4


def test_without_times_earlier_splits_count():
    log = log_of(
        [("a", "train"), ("b", "train")],
        [("b", "train"), ("c", "validation")],
        [("a", "train"), ("b", "test")],
        [("b", "train"), ("c", "test")],
        [("c", "train"), ("d", "test")],
        [("c", "train"), ("d", "test")],
        times=False,
    )
    facts = history_facts(log)
    assert (facts[LATEST], facts[ANY]) == (2 / 4, 2 / 4)


def test_a_share_by_chance_stands_beside_each():
    """The targets are b, y, c and z; by chance, the histories are asked for c, z, b and y."""
    log = log_of(
        [("a", "train"), ("b", "train"), ("c", "train")],  # a → b → c
        [("b", "train"), ("a", "train"), ("b", "test")],  # c: from b, not from the latest item
        [("a", "train"), ("y", "test")],
        [("a", "train"), ("c", "test")],  # b: from a
        [("c", "train"), ("z", "test")],
        times=False,
    )
    facts = history_facts(log)
    assert (facts[LATEST_BY_CHANCE], facts[ANY_BY_CHANCE]) == (1 / 4, 2 / 4)
    assert (facts[LATEST], facts[ANY]) == (1 / 4, 1 / 4)


def test_long_histories_and_many_targets_are_bounded(monkeypatch):
    log = log_of(
        [("a", "train"), ("b", "train")],
        [("a", "train"), ("x", "train"), ("y", "train"), ("b", "test")],
        [("x", "train"), ("y", "test")],
        [("a", "train"), ("b", "test")],
        times=False,
    )
    assert history_facts(log)[ANY] == 1
    monkeypatch.setattr(module, "_MAX_HISTORY", 2)
    assert history_facts(log)[ANY] == 2 / 3
    monkeypatch.setattr(module, "_MAX_TARGETS", 2)  # the first and the last
    assert history_facts(log)[ANY] == 1 / 2


def test_nothing_to_count_is_left_out():
    assert history_facts(log_of([("a", "train")], [("b", "test")], times=False)) == {}
    assert history_facts(log_of([("a", "train"), ("b", "train")], times=False)) == {MEDIAN: 1, PERPLEXITY: 1}
