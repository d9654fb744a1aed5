"""Search: finds and scores the best titles of the trie, or all of them, behind the prompts of many users."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from .allowed_items import ItemSet
from .prefixes import AllowedItems, Prefixes, length_divisors, ranks_in_groups, sums_before
from .read_histories import PromptToRank
from .title_tokens import ragged_arange
from .tree_reader import TreeReader


_MAX_TOKENS_PER_FORWARD = 512
"""Maximum number of title tokens of a user in one forward. Only the last chain may exceed it."""
_NODE_SCORES_AT_ONCE = 2**26
"""Scores of nodes that are in memory at once, if all titles are scored: 512 MiB. Fewer users come in together then."""


class SearchRequest(NamedTuple):
    """
    A user for whom titles are searched.

    Args:
        row (`int`):
            Number of the request.
        prompt (`PromptToRank`):
            The user's history.
        allowed ([`ItemSet`]):
            The items that may be recommended: at least one.
    """

    row: int
    prompt: PromptToRank
    allowed: ItemSet


class FoundTitles(NamedTuple):
    """
    The result of a search for one user.

    Args:
        request ([`SearchRequest`]):
            The user.
        leaves (`numpy.ndarray` of shape `(n,)`, int64):
            The titles that were read to their end.
        scores (`numpy.ndarray` of shape `(n,)`, float64):
            Their scores, divided by their lengths if there is a length penalty.
        dropped (`float`):
            The upper bound of the scores of all titles below dropped prefixes that might have led into the top k;
            -infinity if no such prefix was dropped.
        tokens_read (`int`):
            Number of title tokens that were read.
        kv_length (`int`):
            Largest number of keys and values that a layer's head held for the user at once.
    """

    request: SearchRequest
    leaves: np.ndarray
    scores: np.ndarray
    dropped: float
    tokens_read: int
    kv_length: int


def search_titles(
    reader: TreeReader,
    requests: Iterator[SearchRequest],
    batch_size: int,
    k: int,
    num_beams: int | None,
    max_title_tokens: int | None,
    tokens_per_wave: int,
    length_penalty: float = 0.0,
) -> Iterator[FoundTitles]:
    """
    Finds the best titles, wave by wave. A user whose search is finished leaves, and the next one comes in.

    Without `num_beams` the search is best-first. Each wave reads the best open prefixes of each user. If there is
    room, it also reads the tokens that follow them without a choice. The search stops when no open prefix can lead to
    a score above the k-th best title read so far (see [`length_divisors`]).

    With `num_beams` it is a beam search. Each wave reads one token of each of the `num_beams` prefixes with the best
    Σ log p, and drops the others.

    Args:
        reader ([`TreeReader`]):
            A reader without users.
        requests (`Iterator[SearchRequest]`):
            The users. Each request is taken when there is room for its user.
        batch_size (`int`):
            Number of users who are present at once.
        k (`int`):
            Number of items to find.
        num_beams (`int`, *optional*):
            Number of prefixes that are kept after each wave.
        max_title_tokens (`int`, *optional*):
            After this many title tokens for a user, the best-first search switches to a beam search, with one beam for
            each item still missing.
        tokens_per_wave (`int`):
            Approximate number of title tokens of a user that a wave of the best-first search reads.
        length_penalty (`float`, *optional*, defaults to `0.0`):
            Titles score Σ log p / (number of tokens with the end of turn) ** length_penalty.

    Yields:
        [`FoundTitles`], as users leave.
    """
    trie = reader.trie
    divisors = length_divisors(trie, length_penalty)
    present: dict[int, SearchRequest] = {}
    allowed = AllowedItems(trie, batch_size)
    titles = opened = Prefixes(*(np.empty(0, dtype=dtype) for dtype in (np.int64, np.int64, np.float64)))
    dropped = np.full(batch_size, -np.inf)
    tokens_read = np.zeros(batch_size, dtype=np.int64)
    while True:
        new = dict(zip((user for user in range(batch_size) if user not in present), requests, strict=False))
        if reader.largest(len(new)) > 0:
            present |= new
            users = np.array(list(new), dtype=np.int64)
            allowed.allow(list(new), [request.allowed for request in new.values()])
            dropped[users], tokens_read[users] = -np.inf, 0
            reader.admit(users, [request.prompt for request in new.values()])
            roots = Prefixes(users, np.zeros(len(users), dtype=np.int64), np.zeros(len(users)))
            new_titles, new_prefixes = _follow(reader, allowed, roots, np.ones(len(users), dtype=np.int64))
            titles, opened = titles.joined(new_titles), opened.joined(new_prefixes)

        kth_scores, num_found = _kth_best(titles, allowed, batch_size, k, divisors)
        opened = opened.select(opened.bounds(divisors) > kth_scores[opened.users])
        titles = titles.select(titles.bounds(divisors) >= kth_scores[titles.users])
        opened = opened.best_first(divisors if num_beams is None else None)
        ranks = ranks_in_groups(opened.users)
        width = np.full(batch_size, len(opened) if num_beams is None else num_beams)
        is_spent = np.zeros(batch_size, dtype=bool)
        if max_title_tokens is not None and num_beams is None:
            is_spent = tokens_read >= max_title_tokens
            width[is_spent] = np.maximum(k - num_found, 0)[is_spent]
        is_kept = ranks < width[opened.users]
        np.maximum.at(dropped, opened.users[~is_kept], opened.bounds(divisors)[~is_kept])
        opened, ranks = opened.select(is_kept), ranks[is_kept]

        num_open = np.bincount(opened.users, minlength=batch_size)
        finished = np.array([user for user in sorted(present) if num_open[user] == 0], dtype=np.int64)
        for user in finished.tolist():
            found = titles.select(titles.users == user)
            numbers = float(dropped[user]), int(tokens_read[user]), reader.kv_length(user)
            yield FoundTitles(present.pop(user), found.nodes, found.bounds(divisors), *numbers)
        if len(finished) > 0:
            titles = titles.select(~np.isin(titles.users, finished))
            reader.leave(finished)
        if reader.largest(len(finished)) > 0:
            continue  # the next users come in before the others go on
        if reader.largest(len(present)) == 0:
            return

        reader.prune(opened.users, opened.nodes)
        is_chosen, lengths = np.ones(len(opened), dtype=bool), np.ones(len(opened), dtype=np.int64)
        if num_beams is None:
            is_chosen = (ranks < tokens_per_wave) | is_spent[opened.users]
            # Chains get the remaining room of the wave, beginning with the chain of the best prefix.
            room = tokens_per_wave - num_open[opened.users]
            more = trie.chain_lengths[opened.nodes] - 1
            lengths += np.clip(room - sums_before(more, ranks), 0, more)
        read = np.bincount(opened.users[is_chosen], weights=lengths[is_chosen], minlength=batch_size)
        tokens_read += read.astype(np.int64)
        chosen, lengths, opened = opened.select(is_chosen), lengths[is_chosen], opened.select(~is_chosen)
        # Many beams are read in several forwards.
        block = sums_before(lengths, ranks_in_groups(chosen.users)) // _MAX_TOKENS_PER_FORWARD
        for index in range(reader.largest(int(block.max(initial=0)) + 1)):
            part, part_lengths = chosen.select(block == index), lengths[block == index]
            reader.read(*_runs(part, part_lengths))
            new_titles, new_prefixes = _follow(reader, allowed, part, part_lengths)
            titles, opened = titles.joined(new_titles), opened.joined(new_prefixes)


def score_all_titles(
    reader: TreeReader,
    requests: Iterator[SearchRequest],
    batch_size: int,
    tokens_at_once: int,
    length_penalty: float = 0.0,
) -> Iterator[FoundTitles]:
    """
    Reads the whole trie, in runs of consecutive nodes.

    Args:
        reader, requests, batch_size:
            See [`search_titles`]. All users of a batch come in and leave together, because they have equally much to
            read.
        tokens_at_once (`int`):
            Number of title tokens of a user that a forward reads, besides the ancestors of the first one.
        length_penalty (`float`, *optional*, defaults to `0.0`):
            See [`search_titles`].

    Yields:
        [`FoundTitles`], with all titles that can be spelled, for each user.
    """
    trie = reader.trie
    leaves = np.flatnonzero(trie.num_children == 0)
    divisors = length_divisors(trie, length_penalty)[leaves]
    shared_by = _log_num_sharers(reader, leaves)
    batch_size = max(1, min(batch_size, _NODE_SCORES_AT_ONCE // trie.num_nodes))
    while batch := list(islice(requests, batch_size)):
        users = np.arange(len(batch))
        reader.admit(users, [request.prompt for request in batch])
        scores, tokens_read = _score_all_nodes(reader, users, tokens_at_once)
        for user, request in enumerate(batch):
            found = (scores[user, leaves] - shared_by) / divisors
            yield FoundTitles(request, leaves, found, -np.inf, tokens_read, reader.kv_length(user))
        reader.leave(users)


def _score_all_nodes(reader: TreeReader, users: np.ndarray, tokens_at_once: int) -> tuple[np.ndarray, int]:
    """Returns the score of every node, of shape `(B, num_nodes)`, and the number of tokens that each user read."""
    trie = reader.trie
    scores = np.zeros((len(users), trie.num_nodes))

    def score_children(nodes: np.ndarray, places: np.ndarray) -> None:
        """Scores the children of nodes that were read last, at `places` of shape `(B, n)`."""
        parents, children = trie.children_of(nodes)
        log_probs = reader.log_probs(places[:, parents].ravel(), np.tile(children, len(users)))
        scores[:, children] = log_probs.reshape(len(users), len(children))

    score_children(np.zeros(1, dtype=np.int64), users[:, None])
    # Without a choice below it, a node has one title, which has the node's own probability if only titles share it.
    is_read = trie.only_leaves < 0 if reader.is_normalized else trie.num_children > 0
    inner = np.flatnonzero(is_read[1:]) + 1
    tokens_read = 0
    for start in range(0, len(inner), tokens_at_once):
        nodes = inner[start : start + tokens_at_once]
        # The ancestors of the first node were read in an earlier run and forgotten, so they are read again.
        ancestors = trie.ancestors_of(int(nodes[0]))
        run = np.concatenate([ancestors, nodes])
        reader.read(np.repeat(users, len(run)), np.tile(run, len(users)))
        score_children(nodes, (len(run) * users)[:, None] + np.arange(len(ancestors), len(run)))
        reader.forget()
        tokens_read += len(run)
    for level in trie.levels[2:]:
        scores[:, level] += scores[:, trie.parents[level]]
    return scores, tokens_read


def _follow(
    reader: TreeReader, allowed: AllowedItems, prefixes: Prefixes, lengths: np.ndarray
) -> tuple[Prefixes, Prefixes]:
    """
    Returns the whole titles and the open prefixes that follow the nodes read last. If only titles share probability,
    a prefix that has one title below it stands for this title.
    """
    trie = reader.trie
    users, nodes = _runs(prefixes, lengths)
    steps = ragged_arange(lengths)
    is_last = np.append(steps[1:] == 0, True)[: len(steps)]
    # Within a run each node's only child is the next one.
    inner = np.flatnonzero(~is_last)
    parents, children = trie.children_of(nodes[is_last])
    parents = np.flatnonzero(is_last)[parents]
    is_live = allowed.count(users[parents], children) > 0
    parents, children = parents[is_live], children[is_live]
    log_probs = reader.log_probs(np.concatenate([inner, parents]), np.concatenate([nodes[inner] + 1, children]))
    gained = np.zeros(len(nodes))
    gained[inner + 1] = log_probs[: len(inner)]
    scores = np.repeat(prefixes.scores, lengths) + sums_before(gained, steps) + gained
    scores = scores[parents] + log_probs[len(inner) :]
    if reader.is_normalized:
        children = np.where(trie.only_leaves[children] >= 0, trie.only_leaves[children], children)
    is_leaf = trie.num_children[children] == 0
    scores[is_leaf] -= _log_num_sharers(reader, children[is_leaf])
    following = Prefixes(users[parents], children, scores)
    return following.select(is_leaf), following.select(~is_leaf)


def _log_num_sharers(reader: TreeReader, leaves: np.ndarray) -> np.ndarray | float:
    """
    Returns the logarithm of the number of items that share each title's probability, shape `(n,)`; 0 if the
    probabilities of titles do not sum to 1.
    """
    return np.log(reader.trie.num_items_at(leaves)) if reader.is_normalized else 0.0


def _runs(prefixes: Prefixes, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns user and node of `lengths[i]` nodes from prefix i on. A chain has consecutive node numbers."""
    return np.repeat(prefixes.users, lengths), np.repeat(prefixes.nodes, lengths) + ragged_arange(lengths)


def _kth_best(
    titles: Prefixes, allowed: AllowedItems, num_users: int, k: int, divisors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each user the score of the k-th best item, or -infinity, and the number of items in `titles`."""
    titles = titles.best_first(divisors)
    counts = allowed.count(titles.users, titles.nodes)
    before = sums_before(counts, ranks_in_groups(titles.users))
    holds_kth = (before < k) & (before + counts >= k)
    kth_scores = np.full(num_users, -np.inf)
    kth_scores[titles.users[holds_kth]] = titles.bounds(divisors)[holds_kth]
    return kth_scores, np.bincount(titles.users, weights=counts, minlength=num_users).astype(np.int64)
