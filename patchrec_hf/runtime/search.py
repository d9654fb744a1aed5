"""Search: finds and scores the best titles of the trie, or all of them, behind the prompts of B users."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .catalog import ragged_arange
from .tree_reader import TreeReader
from .trie import TitleTrie


_MAX_TOKENS_PER_FORWARD = 512
"""Maximum number of title tokens of a user in one forward. Only the last chain may exceed it."""


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
        allowed (`numpy.ndarray` of shape `(B, num_items)`, bool):
            Whether each item may be recommended to each user, by catalog index.
    """

    def __init__(self, trie: TitleTrie, allowed: np.ndarray) -> None:
        self.trie = trie
        self.mask = allowed
        self._before = np.zeros((len(allowed), len(trie.items) + 1), dtype=np.int32)
        np.cumsum(allowed[:, trie.items], axis=1, out=self._before[:, 1:])

    def count(self, users: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """Counts the items at or below each of `nodes` that may be recommended to the user with the same index."""
        starts, stops = self.trie.item_offsets[nodes], self.trie.item_offsets[self.trie.subtree_ends[nodes]]
        return self._before[users, stops] - self._before[users, starts]


@dataclass(frozen=True, eq=False)
class SearchResult:
    """
    The result of a search for B users.

    Args:
        titles ([`Prefixes`]):
            The titles that were read to their end.
        dropped (`numpy.ndarray` of shape `(B,)`, float64):
            The best score of a dropped prefix that might have led into the top k; -infinity if no such prefix was
            dropped.
        tokens_read (`numpy.ndarray` of shape `(B,)`, int64):
            Number of title tokens that were read for each user.
    """

    titles: Prefixes
    dropped: np.ndarray
    tokens_read: np.ndarray


def search_titles(
    reader: TreeReader,
    allowed: AllowedItems,
    k: int,
    num_beams: int | None,
    max_title_tokens: int | None,
    tokens_per_wave: int,
    prune: bool = True,
) -> SearchResult:
    """
    Finds the best titles, wave by wave.

    Without `num_beams` the search is best-first. Each wave reads the best open prefixes of each user. If there is
    room, it also reads the tokens that follow them without a choice. The search stops when no open prefix scores above
    the k-th best title read so far.

    With `num_beams` it is a beam search. Each wave reads one token of each of the `num_beams` best prefixes, and drops
    the others.

    Args:
        reader ([`TreeReader`]):
            The reader, which has read the prompts.
        allowed ([`AllowedItems`]):
            The items that may be recommended.
        k (`int`):
            Number of items to find.
        num_beams (`int`, *optional*):
            Number of prefixes that are kept after each wave.
        max_title_tokens (`int`, *optional*):
            After this many title tokens for a user, the best-first search switches to a beam search, with one beam for
            each item still missing.
        tokens_per_wave (`int`):
            Approximate number of title tokens of a user that a wave of the best-first search reads.
        prune (`bool`, *optional*, defaults to `True`):
            Whether to drop prefixes below the k-th best title. Must be `False` if titles are not ranked by their
            scores.

    Returns:
        [`SearchResult`]
    """
    trie, num_users = reader.trie, reader.num_users
    users = np.arange(num_users)
    roots = Prefixes(users, np.zeros(num_users, dtype=np.int64), np.zeros(num_users))
    titles, opened = _follow(reader, allowed, roots, np.ones(num_users, dtype=np.int64))
    dropped = np.full(num_users, -np.inf)
    tokens_read = np.zeros(num_users, dtype=np.int64)
    while True:
        kth_scores, num_found = _kth_best(titles, allowed, num_users, k)
        if prune:
            opened = opened.select(opened.scores > kth_scores[opened.users])
        opened = opened.best_first()
        ranks = ranks_in_groups(opened.users)
        width = np.full(num_users, len(opened) if num_beams is None else num_beams)
        is_spent = np.zeros(num_users, dtype=bool)
        if max_title_tokens is not None and num_beams is None:
            is_spent = tokens_read >= max_title_tokens
            width[is_spent] = np.maximum(k - num_found, 0)[is_spent]
        is_kept = ranks < width[opened.users]
        np.maximum.at(dropped, opened.users[~is_kept], opened.scores[~is_kept])
        opened, ranks = opened.select(is_kept), ranks[is_kept]
        if reader.largest(len(opened)) == 0:
            return SearchResult(titles, dropped, tokens_read)

        reader.prune(opened.users, opened.nodes)
        is_chosen, lengths = np.ones(len(opened), dtype=bool), np.ones(len(opened), dtype=np.int64)
        if num_beams is None:
            is_chosen = (ranks < tokens_per_wave) | is_spent[opened.users]
            # Chains get the remaining room of the wave, beginning with the chain of the best prefix.
            room = tokens_per_wave - np.bincount(opened.users, minlength=num_users)[opened.users]
            more = trie.chain_lengths[opened.nodes] - 1
            lengths += np.clip(room - _sums_before(more, ranks), 0, more)
        read = np.bincount(opened.users[is_chosen], weights=lengths[is_chosen], minlength=num_users)
        tokens_read += read.astype(np.int64)
        chosen, lengths, opened = opened.select(is_chosen), lengths[is_chosen], opened.select(~is_chosen)
        if prune:
            titles = titles.select(titles.scores >= kth_scores[titles.users])
        # Many beams are read in several forwards.
        block = _sums_before(lengths, ranks_in_groups(chosen.users)) // _MAX_TOKENS_PER_FORWARD
        for index in range(reader.largest(int(block.max(initial=0)) + 1)):
            part, part_lengths = chosen.select(block == index), lengths[block == index]
            _read(reader, part, part_lengths)
            new_titles, new_prefixes = _follow(reader, allowed, part, part_lengths)
            titles, opened = titles.joined(new_titles), opened.joined(new_prefixes)


def score_all_titles(reader: TreeReader, allowed: AllowedItems, tokens_at_once: int) -> SearchResult:
    """
    Reads the whole trie, in runs of consecutive nodes.

    Args:
        reader ([`TreeReader`]):
            The reader, which has read the prompts.
        allowed ([`AllowedItems`]):
            The items that may be recommended.
        tokens_at_once (`int`):
            Number of title tokens of a user that a forward reads, besides the ancestors of the first one.

    Returns:
        [`SearchResult`]
    """
    trie, num_users = reader.trie, reader.num_users
    scores = np.zeros((num_users, trie.num_nodes))

    def score_children(nodes: np.ndarray, columns: np.ndarray) -> None:
        parents, children = trie.children_of(nodes)
        users = np.repeat(np.arange(num_users), len(children))
        log_probs = reader.log_probs(users, np.tile(columns[parents], num_users), np.tile(children, num_users))
        scores[:, children] = log_probs.reshape(num_users, len(children))

    score_children(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
    inner = np.flatnonzero(trie.num_children[1:] > 0) + 1
    tokens_read = 0
    for start in range(0, len(inner), tokens_at_once):
        nodes = inner[start : start + tokens_at_once]
        # The ancestors of the first node were read in an earlier run and forgotten, so they are read again.
        ancestors = 1 + np.flatnonzero(trie.subtree_ends[1 : nodes[0]] > nodes[0])
        run = np.concatenate([ancestors, nodes])
        reader.read(np.tile(run, (num_users, 1)))
        score_children(nodes, len(ancestors) + np.arange(len(nodes)))
        reader.forget()
        tokens_read += len(run)
    for depth in range(2, trie.max_depth + 1):
        level = np.flatnonzero(trie.depths == depth)
        scores[:, level] += scores[:, trie.parents[level]]
    leaves = np.flatnonzero(trie.num_children == 0)
    users, leaves = np.repeat(np.arange(num_users), len(leaves)), np.tile(leaves, num_users)
    titles = Prefixes(users, leaves, scores[users, leaves])
    titles = titles.select(allowed.count(users, leaves) > 0)
    return SearchResult(titles, np.full(num_users, -np.inf), np.full(num_users, tokens_read))


def _read(reader: TreeReader, prefixes: Prefixes, lengths: np.ndarray) -> None:
    """Reads `lengths[i]` nodes from prefix i on."""
    users, nodes, columns = _runs(prefixes, lengths)
    table = np.full((reader.num_users, int(columns.max(initial=0)) + 1), reader.padding)
    table[users, columns] = nodes
    reader.read(table)


def _follow(
    reader: TreeReader, allowed: AllowedItems, prefixes: Prefixes, lengths: np.ndarray
) -> tuple[Prefixes, Prefixes]:
    """Returns the whole titles and the open prefixes that follow the nodes read last."""
    trie = reader.trie
    users, nodes, columns = _runs(prefixes, lengths)
    steps = ragged_arange(lengths)
    is_last = np.append(steps[1:] == 0, True)[: len(steps)]
    # Within a run each node's only child is the next one.
    inner = np.flatnonzero(~is_last)
    parents, children = trie.children_of(nodes[is_last])
    parents = np.flatnonzero(is_last)[parents]
    is_live = allowed.count(users[parents], children) > 0
    parents, children = parents[is_live], children[is_live]
    queried = np.concatenate([inner, parents])
    log_probs = reader.log_probs(users[queried], columns[queried], np.concatenate([nodes[inner] + 1, children]))
    gained = np.zeros(len(nodes))
    gained[inner + 1] = log_probs[: len(inner)]
    scores = np.repeat(prefixes.scores, lengths) + _sums_before(gained, steps) + gained
    following = Prefixes(users[parents], children, scores[parents] + log_probs[len(inner) :])
    is_leaf = trie.num_children[children] == 0
    return following.select(is_leaf), following.select(~is_leaf)


def _runs(prefixes: Prefixes, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns user, node and column of `lengths[i]` nodes from prefix i on. A chain has consecutive node numbers."""
    users = np.repeat(prefixes.users, lengths)
    return users, np.repeat(prefixes.nodes, lengths) + ragged_arange(lengths), ranks_in_groups(users)


def ranks_in_groups(users: np.ndarray) -> np.ndarray:
    """Rank of each entry among the entries of its user. `users` must ascend."""
    return ragged_arange(np.diff(np.flatnonzero(np.diff(users, prepend=-1, append=-1))))


def _sums_before(values: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Sum of the values before each value in its group. A group starts where `ranks` is 0."""
    before = np.cumsum(values) - values
    starts = np.maximum.accumulate(np.where(ranks == 0, np.arange(len(ranks)), 0))
    return before - before[starts]


def _kth_best(titles: Prefixes, allowed: AllowedItems, num_users: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each user the score of the k-th best item, or -infinity, and the number of items in `titles`."""
    titles = titles.best_first()
    counts = allowed.count(titles.users, titles.nodes)
    before = _sums_before(counts, ranks_in_groups(titles.users))
    holds_kth = (before < k) & (before + counts >= k)
    kth_scores = np.full(num_users, -np.inf)
    kth_scores[titles.users[holds_kth]] = titles.scores[holds_kth]
    return kth_scores, np.bincount(titles.users, weights=counts, minlength=num_users).astype(np.int64)
