"""Prefixes of titles, for many users at once, and the items that may be recommended below them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
            Σ log p of the tokens of each prefix. Log-probabilities are at most 0, so this bounds the score of every
            title with this prefix from above.
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

    def best_first(self) -> Prefixes:
        """Returns the prefixes sorted by user and, for each user, by descending score."""
        return self.select(np.lexsort((-self.scores, self.users)))


class AllowedItems:
    """
    The items that may be recommended to each of B users, and their number below any node of the trie.

    Args:
        trie ([`TitleTrie`]):
            The titles.
        num_users (`int`):
            Number of users B. No item is allowed until [`AllowedItems.allow`] is called.
    """

    def __init__(self, trie: TitleTrie, num_users: int) -> None:
        self.trie = trie
        self._before = np.zeros((num_users, len(trie.items) + 1), dtype=np.int32)

    def allow(self, user: int, allowed: np.ndarray) -> None:
        """
        Replaces what may be recommended to a user.

        Args:
            user (`int`):
                The user's row.
            allowed (`numpy.ndarray` of shape `(num_items,)`, bool):
                Whether each item may be recommended, by catalog index.
        """
        np.cumsum(allowed[self.trie.items], out=self._before[user, 1:])

    def count(self, users: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """Counts the items at or below each of `nodes` that may be recommended to the user with the same index."""
        starts, stops = self.trie.item_offsets[nodes], self.trie.item_offsets[self.trie.subtree_ends[nodes]]
        return self._before[users, stops] - self._before[users, starts]


def ranks_in_groups(users: np.ndarray) -> np.ndarray:
    """Rank of each entry among the entries of its user. `users` must ascend."""
    return ragged_arange(np.diff(np.flatnonzero(np.diff(users, prepend=-1, append=-1))))


def sums_before(values: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Sum of the values before each value in its group. A group starts where `ranks` is 0."""
    before = np.cumsum(values) - values
    starts = np.maximum.accumulate(np.where(ranks == 0, np.arange(len(ranks)), 0))
    return before - before[starts]
