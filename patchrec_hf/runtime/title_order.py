"""Title order: sorts titles by their tokens, and compares neighbors in this order, in memory for the tokens alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from .title_tokens import TitleTokens, ragged_arange


_TOKENS_AT_ONCE = 2**20
"""Tokens that are compared at once, which bounds the memory."""


def sort_titles(titles: TitleTokens) -> np.ndarray:
    """
    Sorts titles in lexicographic order of their tokens.

    Args:
        titles ([`TitleTokens`]):
            The titles.

    Returns:
        `numpy.ndarray` of shape `(num_titles,)`, int64: indices of the titles. A title precedes the titles that it
        begins. Equal titles stay in their order.
    """
    order = np.arange(len(titles))
    # Titles that share their first tokens are a group, which is named by its first place in the order. Only places
    # of groups that the next token may divide are sorted further.
    groups, places, depth = np.zeros(len(titles), dtype=np.int64), np.arange(len(titles)), 0
    num_kinds = int(titles.ids.max(initial=0)) + 2
    while len(places) > 0:
        indices = order[places]
        goes_on = titles.lengths[indices] > depth
        kinds = np.zeros(len(places), dtype=np.int64)  # 0: the title has ended
        kinds[goes_on] = titles.ids[titles.offsets[indices[goes_on]] + depth] + 1
        keys = groups[places] * num_kinds + kinds
        sorter = np.argsort(keys, kind="stable")
        order[places], keys, goes_on = indices[sorter], keys[sorter], goes_on[sorter]
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        sizes = np.diff(starts, append=len(keys))
        groups[places] = np.repeat(places[starts], sizes)
        places = places[goes_on & np.repeat(sizes > 1, sizes)]
        depth += 1
    return order


def shared_lengths(titles: TitleTokens) -> np.ndarray:
    """
    Counts the first tokens that each title shares with the title before it.

    Args:
        titles ([`TitleTokens`]):
            Titles of at least one token each.

    Returns:
        `numpy.ndarray` of shape `(num_titles - 1,)`, int64: for each title except the first.
    """
    widths = np.minimum(titles.lengths[1:], titles.lengths[:-1])
    shared = np.empty(len(widths), dtype=np.int64)
    bounds = np.flatnonzero(np.diff(np.cumsum(widths) // _TOKENS_AT_ONCE, prepend=-1, append=np.inf)).tolist()
    for start, stop in pairwise(bounds):
        some = widths[start:stop]
        steps = ragged_arange(some)
        before, after = (
            titles.ids[np.repeat(titles.offsets[start + shift : stop + shift], some) + steps] for shift in (0, 1)
        )
        # The first difference; the width if there is none.
        ends = np.where(before == after, np.repeat(some, some), steps)
        shared[start:stop] = np.minimum.reduceat(ends, np.cumsum(some) - some)
    return shared


def is_prefix_of_another(titles: TitleTokens) -> np.ndarray:
    """
    Finds titles that begin another, longer title.

    Args:
        titles ([`TitleTokens`]):
            Titles in the order of [`sort_titles`].

    Returns:
        `numpy.ndarray` of shape `(num_titles,)`, bool.
    """
    if len(titles) == 0:
        return np.zeros(0, dtype=bool)
    # With a token of its own at its end, a title differs from the titles that it begins.
    lengths, shared = titles.lengths, shared_lengths(titles.ended(-1))
    # A prefix of any other title is a prefix of the next different title. Equal titles share the result.
    begins_next = np.append((shared >= lengths[:-1]) & (lengths[1:] > lengths[:-1]), False)
    is_first_of_kind = np.append(True, shared <= lengths[:-1])
    last_of_kind = np.append(np.flatnonzero(is_first_of_kind)[1:], len(titles)) - 1
    return begins_next[last_of_kind][np.cumsum(is_first_of_kind) - 1]


def num_prefix_titles(titles: TitleTokens) -> int:
    """Number of titles whose tokens are a prefix of another, longer title."""
    return int(is_prefix_of_another(titles.select(sort_titles(titles))).sum())
