"""Ranking by an item index: the index proposes items, and the item head scores them exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from .best_items import best_items, best_of_rows
from .item_index import ItemIndex
from .item_scorer import ItemScorer
from .lazy_sequence import LazySequence
from .progress import progress_bar
from .ranking import CatalogRanking
from .read_histories import PromptToRank
from .sharding import gathered_root
from .title_similarity import sparse_log_shares


_USERS_AT_ONCE = 512
"""Users for whom the index is searched at once."""
_LEAST_EXTRA = 10
_MOST_EXTRA = 1024
"""The first search finds this many excluded items at most besides the items that are asked for."""
_GROWTH = 4
"""A search that found too little is repeated for this many times as many items."""
_LARGEST_SHARE = 1 / 16
"""A search for a larger share of the catalog takes longer than a product with all items."""
_NUMBERS_AT_ONCE = 1 << 24
"""Numbers of a product that stand in memory at once."""


class _Pairs(NamedTuple):
    """Pairs of a user and an item, each once, by user and item: arrays of shape `(n,)`."""

    rows: np.ndarray
    items: np.ndarray


class IndexRanker:
    """
    Ranks items by the item head's scores, as [`CatalogRanker`] does for `method="item"`, without a product with every
    item.

    The index proposes the items with the largest products. Items of the history and items with similar titles, whose
    scores hold features besides the product, are added. All of them are scored exactly, and excluded ones are left
    out. If fewer than k remain, or if an item that was not proposed could have a higher score, the index proposes four
    times as many, and at last the whole catalog is scored. Where candidates are given, these are scored, and the index
    is not searched.

    So the result is the same as without an index, except for items that the index itself has missed. A flat index
    misses none.

    Args:
        scorer ([`ItemScorer`]):
            The scorer of the model and the processor.
        index ([`ItemIndex`]):
            An index of the scorer's item vectors, which [`ItemIndex.check_vectors`] has compared.
        k (`int`):
            Number of items to return.
        batch_size (`int`, *optional*, defaults to `8`):
            Histories per forward.
        unique_titles (`bool`, *optional*, defaults to `False`):
            Whether to list each title once, as its best item.
        num_candidates (`int`, *optional*):
            Number of items that the first search finds for a user. If not given, twice k and as many as are excluded.
    """

    def __init__(
        self,
        scorer: ItemScorer,
        index: ItemIndex,
        k: int,
        batch_size: int = 8,
        unique_titles: bool = False,
        num_candidates: int | None = None,
    ) -> None:
        self.scorer, self.index, self.batch_size = scorer, index, batch_size
        self.k, self.num_candidates = k, num_candidates
        self._vectors = scorer.vectors_in_memory
        self._leaves = scorer.processor.trie.leaf_of_item if unique_titles else None

    def rank(
        self,
        prompts: Sequence[PromptToRank],
        candidates: Sequence[np.ndarray] | None = None,
        excluded: Sequence[np.ndarray] | None = None,
        show_progress: bool = False,
    ) -> CatalogRanking:
        """
        Finds the best items for each prompt.

        Args:
            prompts, candidates, excluded, show_progress:
                See [`CatalogRanker.rank`].

        Returns:
            [`CatalogRanking`]: `is_exact` tells whether a list is that of the whole catalog for certain: with a flat
            index, with candidates, or where the whole catalog was scored.

        Raises:
            ValueError: If there is no prompt, a prompt is longer than the model's context, an index lies outside the
                catalog, or a prompt has no item that may be recommended.
            FloatingPointError: If the model's scores are not numbers.
        """
        num_prompts = len(prompts)
        if num_prompts == 0:
            raise ValueError("There is nothing to rank: no prompt was given.")
        for row in range(num_prompts):  # a bad row raises before the model has read for hours
            self._check(
                row, None if candidates is None else candidates[row], None if excluded is None else excluded[row]
            )
        ranking = CatalogRanking(
            np.full((num_prompts, self.k), -1),
            np.full((num_prompts, self.k), -np.inf),
            *(np.zeros(num_prompts, dtype=dtype) for dtype in (bool, np.int64, np.int64)),
        )

        def measured(row: int) -> PromptToRank:
            prompt = prompts[row]
            ranking.kv_length[row] = prompt.history_end + 1
            return prompt

        with (
            gathered_root(self.scorer.model),
            progress_bar(show_progress, total=num_prompts, desc="Ranking", unit="history") as progress,
        ):
            for rows, histories, users in self._read(LazySequence(num_prompts, measured)):
                numbers = rows.tolist()
                ranking.items[rows], ranking.scores[rows], ranking.is_exact[rows] = self.best(
                    users,
                    histories,
                    None if candidates is None else [candidates[row] for row in numbers],
                    None if excluded is None else [excluded[row] for row in numbers],
                )
                progress.update(len(rows))
        return ranking

    def _read(self, prompts: Sequence[PromptToRank]) -> Iterator[tuple[np.ndarray, list[np.ndarray], torch.Tensor]]:
        """Yields the numbers, histories and vectors of many users, because a search for many is faster."""
        rows: list[np.ndarray] = []
        histories: list[np.ndarray] = []
        users: list[torch.Tensor] = []
        for some_rows, some_prompts, some_users in self.scorer.users(prompts, self.batch_size):
            rows.append(some_rows)
            histories += [prompt.items for prompt in some_prompts]
            users.append(some_users)
            if len(histories) >= _USERS_AT_ONCE:
                yield np.concatenate(rows), histories, torch.cat(users)
                rows, histories, users = [], [], []
        if histories:
            yield np.concatenate(rows), histories, torch.cat(users)

    def best(
        self,
        users: torch.Tensor,
        histories: Sequence[np.ndarray],
        candidates: Sequence[np.ndarray] | None = None,
        excluded: Sequence[np.ndarray] | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Finds the best items for users whose histories were read.

        Args:
            users (`torch.Tensor` of shape `(n, H + 1)`):
                User vectors, float32 (see [`ItemScorer.users`]).
            histories (`Sequence[numpy.ndarray]`):
                Catalog indices of the n histories, oldest first.
            candidates, excluded (`Sequence[numpy.ndarray]`, *optional*):
                See [`CatalogRanker.rank`].

        Returns:
            `tuple` of arrays: items (int64) and scores (float64) of shape `(n, k)`, best first, -1 and -infinity where
            there are fewer; and whether each list is exact, of shape `(n,)`.

        Raises:
            FloatingPointError: If a score is not a number.
        """
        items, scores = np.full((len(users), self.k), -1), np.full((len(users), self.k), -np.inf)
        is_exact = np.full(len(users), self.index.settings.is_exact or candidates is not None)
        vectors = users.cpu().numpy()
        if not np.isfinite(vectors).all():
            raise FloatingPointError(
                f"The item head's user vectors hold {vectors[~np.isfinite(vectors)][0]}. Weights that are not finite, "
                "or a dtype that is too small (float16) cause this."
            )
        num_items = len(self._vectors)
        rows = np.arange(len(users))
        width = self._first_width(excluded)
        if candidates is not None:
            given = _pairs_of(candidates, rows, num_items)
            if len(given.rows) <= _LARGEST_SHARE * num_items * len(rows):
                found = self._score(vectors, histories, given)
                items, scores = self._select(given, found, excluded, rows)
                rows = rows[:0]
        else:
            while len(rows) > 0 and width <= _LARGEST_SHARE * num_items:
                mine, some = vectors[rows], [histories[row] for row in rows.tolist()]
                proposed = self.index.search(mine, width)
                pairs = self._with_features(proposed, some)
                found = self._score(mine, some, pairs)
                items[rows], scores[rows] = self._select(pairs, found, excluded, rows)
                is_settled = self._is_settled(scores[rows, -1], proposed, mine)
                rows, width = rows[~is_settled], width * _GROWTH
        at_once = max(1, _NUMBERS_AT_ONCE // num_items)
        for start in range(0, len(rows), at_once):
            some_rows = rows[start : start + at_once]
            items[some_rows], scores[some_rows] = self._best_of_all(users, histories, candidates, excluded, some_rows)
            is_exact[some_rows] = True
        return items, scores, is_exact

    def _first_width(self, excluded: Sequence[np.ndarray] | None) -> int:
        if self.num_candidates is not None:
            return self.num_candidates
        most = max(map(len, excluded), default=0) if excluded is not None else 0
        return 2 * self.k + _LEAST_EXTRA + min(most, _MOST_EXTRA)

    def _with_features(self, proposed: np.ndarray, histories: Sequence[np.ndarray]) -> _Pairs:
        """Lists what the index proposes, and the items whose scores hold features besides the product."""
        num_items = len(self._vectors)
        keys = [(np.arange(len(proposed))[:, None] * num_items + proposed)[proposed >= 0]]
        keys.append(_keys(_pairs_of(histories, np.arange(len(histories)), num_items), num_items))
        if self.scorer.reads_titles:
            rows, items, _ = self.scorer.processor.title_neighbors.sparse_scores(histories)
            keys.append(rows * num_items + items)
        return _Pairs(*np.divmod(np.unique(np.concatenate(keys)), num_items))

    def _products(self, users: np.ndarray, pairs: _Pairs) -> np.ndarray:
        """Returns the product of each pair, float32. Sums of float64 make it the same wherever the pair stands."""
        products = np.empty(len(pairs.rows), dtype=np.float32)
        at_once = max(1, _NUMBERS_AT_ONCE // users.shape[1])
        for start in range(0, len(products), at_once):
            part = slice(start, start + at_once)
            mine, theirs = users[pairs.rows[part]], self._vectors[pairs.items[part]]
            products[part] = np.einsum("ij,ij->i", mine.astype(np.float64), theirs.astype(np.float64))
        return products

    def _score(self, users: np.ndarray, histories: Sequence[np.ndarray], pairs: _Pairs) -> np.ndarray:
        """Returns the score of each pair, float32, as [`ItemScorer.score_users`] adds it up."""
        num_items = len(self._vectors)
        scores, keys = self._products(users, pairs), _keys(pairs, num_items)
        seen_weight, title_weight = self.scorer.feature_weights
        seen = _keys(_pairs_of(histories, np.arange(len(histories)), num_items), num_items)
        scores += np.float32(seen_weight) * np.isin(keys, seen, assume_unique=True)
        if self.scorer.reads_titles:
            rows, items, sums = self.scorer.processor.title_neighbors.sparse_scores(histories)
            places = np.searchsorted(keys, rows * num_items + items)
            is_there = np.append(keys, -1)[places] == rows * num_items + items  # candidates may lack them
            shares = sparse_log_shares(rows, sums, len(histories))
            scores[places[is_there]] += title_weight * shares[is_there]
        return scores

    def _select(
        self, pairs: _Pairs, scores: np.ndarray, excluded: Sequence[np.ndarray] | None, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the k best allowed items of each row, and their scores."""
        if excluded is not None:
            num_items = len(self._vectors)
            left_out = _keys(_pairs_of([excluded[row] for row in rows.tolist()], np.arange(len(rows)), num_items),
                             num_items)  # fmt: skip
            is_allowed = ~np.isin(_keys(pairs, num_items), left_out, assume_unique=True)
            pairs, scores = _Pairs(pairs.rows[is_allowed], pairs.items[is_allowed]), scores[is_allowed]
        if self._leaves is not None:
            order = np.lexsort((pairs.items, -scores, pairs.rows))
            titles = pairs.rows[order] * self.scorer.processor.trie.num_nodes + self._leaves[pairs.items[order]]
            best = order[np.sort(np.unique(titles, return_index=True)[1])]
            pairs, scores = _Pairs(pairs.rows[best], pairs.items[best]), scores[best]
        return best_of_rows(pairs.rows, pairs.items, scores, len(rows), self.k)

    def _is_settled(self, kth_scores: np.ndarray, proposed: np.ndarray, users: np.ndarray) -> np.ndarray:
        """
        Returns whether no item that was not proposed can be among the k best. Its score is a product, which is at most
        that of the last item that was proposed.
        """
        rows, last = np.arange(len(proposed)), np.maximum((proposed >= 0).sum(axis=1) - 1, 0)
        is_found = proposed[:, 0] >= 0
        products = self._products(users, _Pairs(rows, np.where(is_found, proposed[rows, last], 0)))
        if not self.index.settings.is_exact:
            return is_found & (kth_scores > -np.inf) & (kth_scores >= products)
        # The index and this class add up products in another order, so equal ones may differ in their last digits.
        rounding = 8 * np.finfo(np.float32).eps * np.linalg.norm(users, axis=1) * self.index.longest
        return kth_scores > products + rounding

    def _best_of_all(
        self,
        users: torch.Tensor,
        histories: Sequence[np.ndarray],
        candidates: Sequence[np.ndarray] | None,
        excluded: Sequence[np.ndarray] | None,
        rows: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores the whole catalog for some users, and returns the k best allowed items and their scores."""
        numbers = rows.tolist()
        scores = self.scorer.score_users(users[torch.from_numpy(rows)], [histories[row] for row in numbers])
        for place, row in enumerate(numbers):
            if candidates is not None:
                is_left_out = np.ones(scores.shape[1], dtype=bool)
                is_left_out[candidates[row]] = False
                scores[place, is_left_out] = -np.inf
            if excluded is not None:
                scores[place, excluded[row]] = -np.inf
        width = min(self.k, scores.shape[1])
        while True:
            best, best_scores = best_items(scores, width)
            found_rows, places = np.nonzero(best >= 0)
            pairs = _Pairs(found_rows, best[found_rows, places])
            items, found = self._select(pairs, best_scores[found_rows, places], None, rows)
            if self._leaves is None or (items >= 0).all() or width == scores.shape[1]:
                return items, found
            width = min(_GROWTH * width, scores.shape[1])

    def _check(self, row: int, candidates: np.ndarray | None, excluded: np.ndarray | None) -> None:
        """Checks that a row names items of the catalog, and that one of them may be recommended."""
        num_items = len(self._vectors)
        for indices in (candidates, excluded):
            if indices is not None and len(indices) > 0 and not 0 <= indices.min() <= indices.max() < num_items:
                outside = indices[(indices < 0) | (indices >= num_items)][0]
                raise ValueError(f"Row {row} names item {outside}; catalog indices lie between 0 and {num_items - 1}.")
        if candidates is not None and len(candidates) == 0:
            raise ValueError(f"Row {row} has no candidates: its array is empty.")
        if excluded is None or len(excluded) < (num_items if candidates is None else 1):
            return
        left = np.setdiff1d(np.arange(num_items) if candidates is None else candidates, excluded)
        if len(left) == 0:
            num_candidates = num_items if candidates is None else len(np.unique(candidates))
            raise ValueError(
                f"Row {row} has no item left to recommend: all {num_candidates} candidates are excluded. If its "
                "history holds them all, pass `exclude_seen=False`, which recommends items of the history again."
            )


def _pairs_of(lists: Sequence[np.ndarray], rows: np.ndarray, num_items: int) -> _Pairs:
    """Lists each row with each of its items of the catalog once."""
    lengths = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    items = np.concatenate([np.empty(0, dtype=np.int64), *lists])
    is_known = items < num_items  # a history may hold new titles
    keys = np.unique(np.repeat(rows, lengths)[is_known] * num_items + items[is_known])
    return _Pairs(*np.divmod(keys, num_items))


def _keys(pairs: _Pairs, num_items: int) -> np.ndarray:
    return pairs.rows * num_items + pairs.items
