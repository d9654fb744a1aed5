"""Diverse search: decodes titles by group beams of one title each, as the released code does."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from .prefixes import AllowedItems
from .search import FoundTitles, SearchRequest
from .title_tokens import ragged_arange
from .tree_reader import TreeReader


def search_diverse(
    reader: TreeReader,
    requests: Iterator[SearchRequest],
    batch_size: int,
    num_groups: int,
    diversity_penalty: float,
    ended_token_id: int,
) -> Iterator[FoundTitles]:
    """
    Decodes titles as transformers' former group beam search does with as many groups as beams (diverse beam search,
    https://arxiv.org/abs/1610.02424).

    In each step the groups choose a token one after the other. A group takes the token that is best for its title so
    far. Each earlier group that has chosen the same token in this step lowers the token's log-probability by
    `diversity_penalty`, and the lowered value enters the title's score. A title that has ended scores the mean over
    its tokens, with the end of turn. The search takes as many steps as the longest title of the trie has tokens, so
    the longest titles have no end of turn in their score.

    From the step in which its title ends, a group counts as `ended_token_id` for the groups after it. So the end of
    turn itself is never penalized: former transformers count in this step the token that comes second, which is the
    vocabulary's first one (0) where the end of turn is the only allowed token, and the padding token in later steps.
    The release's padding token is 0 too.

    Args:
        reader, requests, batch_size:
            See [`search_titles`]. All users of a batch come in and leave together.
        num_groups (`int`):
            Number of groups, and of titles.
        diversity_penalty (`float`):
            The log-probability of a token falls by this number for each earlier group that has chosen it.
        ended_token_id (`int`):
            The token as which a group counts after its title.

    Yields:
        [`FoundTitles`] for each user: `num_groups` titles, best first, of which several may be the same. Among equal
        scores the later group comes first. The scores are penalized means. Nothing is proven about such a list, so
        `dropped` is infinity.
    """
    while batch := list(islice(requests, batch_size)):
        users = np.arange(len(batch))
        allowed = AllowedItems(reader.trie, len(batch))
        allowed.allow(range(len(batch)), [request.allowed for request in batch])
        reader.admit(users, [request.prompt for request in batch])
        leaves, scores, tokens_read = _decode(
            reader, allowed, len(batch), num_groups, diversity_penalty, ended_token_id
        )
        best_first = np.argsort(scores, axis=1, kind="stable")[:, ::-1]  # of equal scores, the later group first
        for user, request in enumerate(batch):
            order = best_first[user]
            numbers = np.inf, int(tokens_read[user]), reader.kv_length(user)
            yield FoundTitles(request, leaves[user, order], scores[user, order], *numbers)
        reader.leave(users)


def _decode(
    reader: TreeReader,
    allowed: AllowedItems,
    num_users: int,
    num_groups: int,
    diversity_penalty: float,
    ended_token_id: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns leaf and score of each group's title, of shape `(B, num_groups)`, and the tokens read of each user."""
    trie, shape = reader.trie, (num_users, num_groups)
    nodes, sums, is_open = np.zeros(shape, dtype=np.int64), np.zeros(shape), np.ones(shape, dtype=bool)
    lengths, tokens_read = np.zeros(shape, dtype=np.int64), np.zeros(num_users, dtype=np.int64)
    for step in range(trie.max_depth - 1):
        if reader.largest(int(is_open.sum())) == 0:
            break
        users, groups = np.nonzero(is_open)
        # Groups of a user at the same node share what is read.
        places, place = np.unique(users * trie.num_nodes + nodes[users, groups], return_inverse=True)
        read_users, read_nodes = np.divmod(places, trie.num_nodes)
        if step > 0:  # the prompts have been read
            reader.prune(read_users, read_nodes)
            reader.read(read_users, read_nodes)
            tokens_read += np.bincount(read_users, minlength=num_users)
        parents, children = trie.children_of(read_nodes)
        is_live = allowed.count(read_users[parents], children) > 0
        parents, children = parents[is_live], children[is_live]
        choices = _Choices(
            read_users[parents], trie.tokens[children], reader.log_probs(parents, children).astype(np.float64),
            np.append(0, np.cumsum(np.bincount(parents, minlength=len(places)))), num_users, ended_token_id,
        )  # fmt: skip
        is_end = trie.num_children[children] == 0
        for group in range(num_groups):
            is_own = groups == group
            own_users = users[is_own]
            chosen, values = choices.best(place[is_own], diversity_penalty)
            nodes[own_users, group] = children[chosen]
            sums[own_users, group] += values
            lengths[own_users, group] += 1
            is_open[own_users, group] = ~is_end[chosen]
            choices.count(chosen[~is_end[chosen]], np.flatnonzero(~is_open[:, group]))
    # Only the longest titles are still open. Nothing but their end is left of them.
    users, groups = np.nonzero(is_open)
    nodes[users, groups] = trie.children[trie.child_offsets[nodes[users, groups]]]
    return nodes, sums / lengths, tokens_read


class _Choices:
    """The tokens among which the groups choose in one step, and how many groups have chosen each."""

    def __init__(
        self,
        users: np.ndarray,
        tokens: np.ndarray,
        log_probs: np.ndarray,
        starts: np.ndarray,
        num_users: int,
        ended_token_id: int,
    ) -> None:
        """`starts[p] : starts[p + 1]` are the choices at place p."""
        self._log_probs = log_probs
        self._starts = starts
        # One counter for each token that a user's groups may choose, and for the token of those that have ended.
        vocab_size = max(int(tokens.max(initial=0)), ended_token_id) + 1
        ended = np.arange(num_users) * vocab_size + ended_token_id
        counters, counter = np.unique(np.concatenate([ended, users * vocab_size + tokens]), return_inverse=True)
        self._counter_of_user, self._counter = counter[:num_users], counter[num_users:]
        self._counts = np.zeros(len(counters))

    def best(self, places: np.ndarray, diversity_penalty: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns the best choice at each place, the first of equal ones, and its penalized log-probability."""
        sizes = self._starts[places + 1] - self._starts[places]
        choices = np.repeat(self._starts[places], sizes) + ragged_arange(sizes)
        values = self._log_probs[choices] - diversity_penalty * self._counts[self._counter[choices]]
        order = np.lexsort((-values, np.repeat(np.arange(len(places)), sizes)))
        first = order[np.cumsum(sizes) - sizes]
        return choices[first], values[first]

    def count(self, chosen: np.ndarray, ended_users: np.ndarray) -> None:
        """Counts what one group of each user has chosen, and the users whose group has ended."""
        self._counts[self._counter[chosen]] += 1
        self._counts[self._counter_of_user[ended_users]] += 1
