"""Prefixes of titles, for many users at once, and the items that may be recommended below them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .allowed_items import ItemSet
from .title_tokens import ragged_arange
from .trie import TitleTrie


@dataclass(frozen=True, eq=False)
class Prefixes:
    """
    Prefixes of titles, as flat arrays.

    Args:
        users (`numpy.ndarray` of shape `(n,)`, int64):
            The user of each prefix: a row of the batch.
        nodes (`numpy.ndarray` of shape `(n,)`, int64):
            The node of each prefix in the trie. A leaf is a whole title.
        scores (`numpy.ndarray` of shape `(n,)`, float64):
            Σ log p of the tokens of each prefix.
    """

    users: np.ndarray
    nodes: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    def select(self, which: np.ndarray) -> Prefixes:
        """Returns the prefixes that an index array or a mask selects."""
        return Prefixes(self.users[which], self.nodes[which], self.scores[which])

    def joined(self, more: Prefixes) -> Prefixes:
        """Returns these prefixes, followed by `more`."""
        return Prefixes(
            np.concatenate([self.users, more.users]),
            np.concatenate([self.nodes, more.nodes]),
            np.concatenate([self.scores, more.scores]),
        )

    def bounds(self, divisors: np.ndarray) -> np.ndarray:
        """
        Returns the upper bound of each prefix for the scores of the titles below it. For a whole title, it is the
        title's score.

        Args:
            divisors (`numpy.ndarray` of shape `(num_nodes,)`, float64):
                [`length_divisors`] of the trie.
        """
        return self.scores / divisors[self.nodes]

    def best_first(self, divisors: np.ndarray | None = None) -> Prefixes:
        """
        Returns the prefixes sorted by user and, for each user, by descending bound, or by descending score if no
        `divisors` are given.
        """
        values = self.scores if divisors is None else self.bounds(divisors)
        return self.select(np.lexsort((-values, self.users)))


def length_divisors(trie: TitleTrie, length_penalty: float) -> np.ndarray:
    """
    Computes by what a sum of log-probabilities is divided at each node, so that it bounds the score of every title at
    or below the node: Σ log p / (number of tokens with the end of turn) ** length_penalty.

    Log-probabilities are at most 0, so Σ log p of a prefix bounds Σ log p of its titles. For a positive penalty, the
    deepest title below the prefix could have the best score by this sum; for a negative one, the shallowest.

    Args:
        trie ([`TitleTrie`]):
            The titles.
        length_penalty (`float`):
            The exponent. With 0 all divisors are 1.

    Returns:
        `numpy.ndarray` of shape `(num_nodes,)`, float64. At a leaf it is the divisor of the title itself.

    Raises:
        ValueError: If the longest title's divisor is no positive finite number.
    """
    with np.errstate(over="ignore", under="ignore"):
        longest = np.float64(trie.max_depth) ** length_penalty
    if not 0 < longest < np.inf:
        raise ValueError(
            f"`length_penalty` must be a number that titles of {trie.max_depth} tokens can be raised to, got "
            f"{length_penalty}. Usual values lie between 0 and 2."
        )
    if length_penalty == 0:  # nothing is computed or held for a trie of millions of nodes
        return np.broadcast_to(np.float64(1), (trie.num_nodes,))
    leaves = trie.deepest_leaves if length_penalty > 0 else trie.shallowest_leaves
    return leaves.astype(np.float64) ** length_penalty


class AllowedItems:
    """
    The items that may be recommended to each of B users, and their number below any node of the trie. Memory holds
    what the users' sets list, and nothing for every item.

    Args:
        trie ([`TitleTrie`]):
            The titles.
        num_users (`int`):
            Number of users B. No item is allowed until [`AllowedItems.allow`] is called.
    """

    def __init__(self, trie: TitleTrie, num_users: int) -> None:
        self.trie = trie
        self._width = len(trie.items) + 1
        self._listed = [np.empty(0, dtype=np.int64)] * num_users
        self._is_rest = np.zeros(num_users, dtype=bool)
        self._line = np.empty(0, dtype=np.int64)

    def allow(self, users: Sequence[int], allowed: Sequence[ItemSet]) -> None:
        """
        Replaces what may be recommended to some users.

        Args:
            users (`Sequence[int]`):
                The users' rows.
            allowed (`Sequence[ItemSet]`):
                The items that may be recommended to each of them.
        """
        for user, items in zip(users, allowed, strict=True):
            self._listed[user] = user * self._width + np.sort(self.trie.place_of_item[items.listed])
            self._is_rest[user] = items.is_rest
        self._line = np.concatenate(self._listed)  # the places of all users on one number line, user after user

    def count(self, users: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """Counts the items at or below each of `nodes` that may be recommended to the user with the same index."""
        starts, stops = self.trie.item_offsets[nodes], self.trie.item_offsets[self.trie.subtree_ends[nodes]]
        line_starts = users * self._width
        listed = np.searchsorted(self._line, line_starts + stops) - np.searchsorted(self._line, line_starts + starts)
        return np.where(self._is_rest[users], stops - starts - listed, listed)


def ranks_in_groups(users: np.ndarray) -> np.ndarray:
    """Rank of each entry among the entries of its user. `users` must ascend."""
    return ragged_arange(np.diff(np.flatnonzero(np.diff(users, prepend=-1, append=-1))))


def sums_before(values: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Sum of the values before each value in its group. A group starts where `ranks` is 0."""
    before = np.cumsum(values) - values
    starts = np.maximum.accumulate(np.where(ranks == 0, np.arange(len(ranks)), 0))
    return before - before[starts]
