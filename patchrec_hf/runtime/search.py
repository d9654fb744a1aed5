"""Search: from the trie and the prompts of B users to the titles that are worth reading, and their scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .catalog import ragged_arange
from .tree_reader import TreeReader
from .trie import TitleTrie


_MAX_TOKENS_PER_FORWARD = 512
"""Title tokens of a user that one forward reads at most, but for the end of a chain."""


@dataclass(frozen=True, eq=False)
class Prefixes:
    """
    Prefixes of titles, flat.

    Args:
        users (`numpy.ndarray` of shape `(n,)`, int64):
            Whose prefix each is: a row of the batch.
        nodes (`numpy.ndarray` of shape `(n,)`, int64):
            Its node in the trie; a leaf is a whole title.
        scores (`numpy.ndarray` of shape `(n,)`, float64):
            Σ log p of its tokens: an upper bound of every title that it begins, as log-probabilities are at most 0.
    """

    users: np.ndarray
    nodes: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    def select(self, which: np.ndarray) -> Prefixes:
        """Those that an index array or a mask names."""
        return Prefixes(self.users[which], self.nodes[which], self.scores[which])

    def joined(self, more: Prefixes) -> Prefixes:
        """These, and then `more`."""
        return Prefixes(
            np.concatenate([self.users, more.users]),
            np.concatenate([self.nodes, more.nodes]),
            np.concatenate([self.scores, more.scores]),
        )

    def best_first(self) -> Prefixes:
        """Sorted by user, and by score within each."""
        return self.select(np.lexsort((-self.scores, self.users)))


class AllowedItems:
    """
    Which items each of B users may be recommended, counted below any node of the trie.

    Args:
        trie ([`TitleTrie`]):
            The titles.
        allowed (`numpy.ndarray` of shape `(B, num_items)`, bool):
            By catalog index.
    """

    def __init__(self, trie: TitleTrie, allowed: np.ndarray) -> None:
        self.trie = trie
        self.mask = allowed
        self._before = np.zeros((len(allowed), len(trie.items) + 1), dtype=np.int32)
        np.cumsum(allowed[:, trie.items], axis=1, out=self._before[:, 1:])

    def count(self, users: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """How many items each of `users` may be recommended at or below each of `nodes`."""
        starts, stops = self.trie.item_offsets[nodes], self.trie.item_offsets[self.trie.subtree_ends[nodes]]
        return self._before[users, stops] - self._before[users, starts]


@dataclass(frozen=True, eq=False)
class Found:
    """
    What a search found for B users.

    Args:
        titles ([`Prefixes`]):
            The titles that were read to their end.
        dropped (`numpy.ndarray` of shape `(B,)`, float64):
            The best score of a prefix that was given up though it might have led into the top k; -infinity if none
            was.
        tokens_read (`numpy.ndarray` of shape `(B,)`, int64):
            Title tokens that were read for each user.
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
) -> Found:
    """
    Finds the best titles, wave by wave.

    Without `num_beams` the search is best-first: each wave reads the best open prefixes of each user and, as far as it
    has room, the tokens that follow them without a choice, until no open prefix scores above the k-th best title
    found. With `num_beams` it is a beam search: each wave reads one token of each of so many prefixes, and the others
    are given up.

    Args:
        reader ([`TreeReader`]):
            Has read the prompts.
        allowed ([`AllowedItems`]):
            What may be found.
        k (`int`):
            How many items are wanted.
        num_beams (`int`, *optional*):
            Prefixes that are kept after each wave.
        max_title_tokens (`int`, *optional*):
            Title tokens of a user after which a best-first search goes on with as many beams as items are missing.
        tokens_per_wave (`int`):
            About how many title tokens of a user a wave of the best-first search reads.
        prune (`bool`, *optional*, defaults to `True`):
            Whether prefixes below the k-th best title are given up; wrong where titles are not ranked by their scores.

    Returns:
        [`Found`]
    """
    trie, num_users = reader.trie, reader.num_users
    everyone = np.arange(num_users)
    roots = Prefixes(everyone, np.zeros(num_users, dtype=np.int64), np.zeros(num_users))
    found, opened = _follow(reader, allowed, roots, np.ones(num_users, dtype=np.int64))
    dropped = np.full(num_users, -np.inf)
    tokens_read = np.zeros(num_users, dtype=np.int64)
    while True:
        last, num_found = _last_of_top_k(found, allowed, num_users, k)
        if prune:
            opened = opened.select(opened.scores > last[opened.users])
        opened = opened.best_first()
        place = ranks_in_groups(opened.users)
        width = np.full(num_users, len(opened) if num_beams is None else num_beams)
        is_spent = np.zeros(num_users, dtype=bool)
        if max_title_tokens is not None and num_beams is None:
            is_spent = tokens_read >= max_title_tokens
            width[is_spent] = np.maximum(k - num_found, 0)[is_spent]
        is_kept = place < width[opened.users]
        np.maximum.at(dropped, opened.users[~is_kept], opened.scores[~is_kept])
        opened, place = opened.select(is_kept), place[is_kept]
        if reader.largest(len(opened)) == 0:
            return Found(found, dropped, tokens_read)

        reader.forget_all_but_ways_to(opened.users, opened.nodes)
        is_chosen, lengths = np.ones(len(opened), dtype=bool), np.ones(len(opened), dtype=np.int64)
        if num_beams is None:
            is_chosen = (place < tokens_per_wave) | is_spent[opened.users]
            # What room a wave has left is given to chains, the best prefix's first.
            room = tokens_per_wave - np.bincount(opened.users, minlength=num_users)[opened.users]
            more = trie.chain_lengths[opened.nodes] - 1
            lengths += np.clip(room - _sums_before(more, place), 0, more)
        read = np.bincount(opened.users[is_chosen], weights=lengths[is_chosen], minlength=num_users)
        tokens_read += read.astype(np.int64)
        chosen, lengths, opened = opened.select(is_chosen), lengths[is_chosen], opened.select(~is_chosen)
        if prune:
            found = found.select(found.scores >= last[found.users])
        # Many beams are read in several forwards.
        block = _sums_before(lengths, ranks_in_groups(chosen.users)) // _MAX_TOKENS_PER_FORWARD
        for number in range(reader.largest(int(block.max(initial=0)) + 1)):
            part, part_lengths = chosen.select(block == number), lengths[block == number]
            _read(reader, part, part_lengths)
            titles, prefixes = _follow(reader, allowed, part, part_lengths)
            found, opened = found.joined(titles), opened.joined(prefixes)


def score_all_titles(reader: TreeReader, allowed: AllowedItems, tokens_at_once: int) -> Found:
    """
    Reads the whole trie, in runs of nodes that follow each other.

    Args:
        reader ([`TreeReader`]):
            Has read the prompts.
        allowed ([`AllowedItems`]):
            What may be found.
        tokens_at_once (`int`):
            Title tokens of a user that a forward reads, besides those that lead to the first of them.

    Returns:
        [`Found`]
    """
    trie, num_users = reader.trie, reader.num_users
    scores = np.zeros((num_users, trie.num_nodes))

    def score_children(nodes: np.ndarray, columns: np.ndarray) -> None:
        parents, children = trie.children_of(nodes)
        users = np.repeat(np.arange(num_users), len(children))
        found = reader.log_probs(users, np.tile(columns[parents], num_users), np.tile(children, num_users))
        scores[:, children] = found.reshape(num_users, len(children))

    score_children(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
    inner = np.flatnonzero(trie.num_children[1:] > 0) + 1
    tokens_read = 0
    for start in range(0, len(inner), tokens_at_once):
        nodes = inner[start : start + tokens_at_once]
        # The way to the first of them was read and forgotten with nodes before it.
        way = 1 + np.flatnonzero(trie.subtree_ends[1 : nodes[0]] > nodes[0])
        run = np.concatenate([way, nodes])
        reader.read(np.tile(run, (num_users, 1)))
        score_children(nodes, len(way) + np.arange(len(nodes)))
        reader.forget()
        tokens_read += len(run)
    for depth in range(2, trie.max_depth + 1):
        level = np.flatnonzero(trie.depths == depth)
        scores[:, level] += scores[:, trie.parents[level]]
    leaves = np.flatnonzero(trie.num_children == 0)
    users, leaves = np.repeat(np.arange(num_users), len(leaves)), np.tile(leaves, num_users)
    titles = Prefixes(users, leaves, scores[users, leaves])
    titles = titles.select(allowed.count(users, leaves) > 0)
    return Found(titles, np.full(num_users, -np.inf), np.full(num_users, tokens_read))


def _read(reader: TreeReader, prefixes: Prefixes, lengths: np.ndarray) -> None:
    """Reads so many nodes from each prefix on."""
    users, nodes, columns = _runs(prefixes, lengths)
    table = np.full((reader.num_users, int(columns.max(initial=0)) + 1), reader.padding)
    table[users, columns] = nodes
    reader.read(table)


def _follow(
    reader: TreeReader, allowed: AllowedItems, prefixes: Prefixes, lengths: np.ndarray
) -> tuple[Prefixes, Prefixes]:
    """The whole titles and the open prefixes that follow what was read last."""
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
    asked = np.concatenate([inner, parents])
    log_probs = reader.log_probs(users[asked], columns[asked], np.concatenate([nodes[inner] + 1, children]))
    gained = np.zeros(len(nodes))
    gained[inner + 1] = log_probs[: len(inner)]
    scores = np.repeat(prefixes.scores, lengths) + _sums_before(gained, steps) + gained
    following = Prefixes(users[parents], children, scores[parents] + log_probs[len(inner) :])
    is_leaf = trie.num_children[children] == 0
    return following.select(is_leaf), following.select(~is_leaf)


def _runs(prefixes: Prefixes, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User, node and column of so many nodes from each prefix on. A chain of nodes is a run of consecutive numbers."""
    users = np.repeat(prefixes.users, lengths)
    return users, np.repeat(prefixes.nodes, lengths) + ragged_arange(lengths), ranks_in_groups(users)


def ranks_in_groups(users: np.ndarray) -> np.ndarray:
    """The place of each entry among those of its user; `users` ascends."""
    return ragged_arange(np.diff(np.flatnonzero(np.diff(users, prepend=-1, append=-1))))


def _sums_before(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Sum of the values before each one in its group; a group starts where `places` is 0."""
    before = np.cumsum(values) - values
    starts = np.maximum.accumulate(np.where(places == 0, np.arange(len(places)), 0))
    return before - before[starts]


def _last_of_top_k(titles: Prefixes, allowed: AllowedItems, num_users: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each user: the k-th best item's score, -infinity where fewer were found; and how many were found."""
    titles = titles.best_first()
    counts = allowed.count(titles.users, titles.nodes)
    before = _sums_before(counts, ranks_in_groups(titles.users))
    is_last = (before < k) & (before + counts >= k)
    last = np.full(num_users, -np.inf)
    last[titles.users[is_last]] = titles.scores[is_last]
    return last, np.bincount(titles.users, weights=counts, minlength=num_users).astype(np.int64)
