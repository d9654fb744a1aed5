"""Ranking by an item index: the index proposes items, and the item head scores them exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from .allowed_items import AllowedRows, ItemSet
from .best_items import best_of_rows
from .best_products import Addend
from .item_index import ItemIndex
from .item_scorer import ItemScorer
from .lazy_sequence import LazySequence
from .progress import progress_bar
from .ranking import CatalogRanking, end_in_tie
from .read_histories import PromptToRank
from .sharding import gathered_root
from .title_tokens import sorted_distinct


_USERS_AT_ONCE = 512
"""Users for whom the index is searched at once."""
_LEAST_EXTRA = 10
_MOST_EXTRA = 1024
"""The first search finds this many excluded items at most, besides the items that are asked for."""
_GROWTH = 4
"""A search that found too little is repeated for this many times as many items."""
_LARGEST_SHARE = 1 / 16
"""A search for a larger share of the catalog takes longer than a product with all items."""
_NUMBERS_AT_ONCE = 1 << 24
"""Numbers of the vectors of pairs that stand in memory at once."""
_NO_ITEMS = np.empty(0, dtype=np.int64)


class _Pairs(NamedTuple):
    """Pairs of a user and an item, each once, by user and item: arrays of shape `(n,)`."""

    rows: np.ndarray
    items: np.ndarray


class IndexRanker:
    """
    Ranks items by the item head's scores, as [`CatalogRanker`] does for `method="item"`, without a product with every
    item.

    The index proposes the items with the largest products. Items of the history and items with similar titles, whose
    scores hold features besides the product, are added, and the items with the largest biases if the index may miss
    items. All of them are scored exactly, and excluded ones are left
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
            Number of items that the first search finds for a user. If not given, k, ten more, and as many as are
            excluded.
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
        # The item after the k-th shows whether a list ends in a tie.
        self._num_asked = min(k + 1, len(self._vectors))
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
            [`CatalogRanking`]: `is_exact` tells whether a list certainly holds the best items: with a flat index, with
            candidates, or where the whole catalog was scored.

        Raises:
            ValueError: If there is no prompt, a prompt is longer than the model's context, an index lies outside the
                catalog, or a prompt has no item that may be recommended.
            FloatingPointError: If the model's scores are not numbers.
        """
        num_prompts = len(prompts)
        if num_prompts == 0:
            raise ValueError("There is nothing to rank: no prompt was given.")
        allowed = AllowedRows(self.scorer.processor.trie, num_prompts, candidates, excluded)
        allowed.check()  # a bad row raises before the model has read for hours
        ranking = CatalogRanking(
            np.full((num_prompts, self.k), -1),
            np.full((num_prompts, self.k), -np.inf),
            *(np.zeros(num_prompts, dtype=dtype) for dtype in (bool, bool, np.int64, np.int64)),
        )

        def measured(row: int) -> PromptToRank:
            prompt = prompts[row]
            ranking.kv_length[row] = prompt.history_end + 1
            return prompt

        with (
            gathered_root(self.scorer.model),
            progress_bar(show_progress, total=num_prompts, desc="Ranking", unit="history") as progress,
        ):
            # Candidates may be long lists, and each row excludes others. So the lists of one forward are in memory.
            at_once = _USERS_AT_ONCE if candidates is None else 1
            for rows, histories, users in self._read(LazySequence(num_prompts, measured), at_once):
                own = [allowed[row] for row in rows.tolist()]
                if candidates is None:
                    items, scores, is_exact = self._find(users, histories, own)
                else:
                    items, scores = self._best_of_all(users, histories, own)
                    is_exact = np.ones(len(rows), dtype=bool)
                ranking.items[rows], ranking.scores[rows] = items[:, : self.k], scores[:, : self.k]
                ranking.is_exact[rows] = is_exact
                ranking.ends_in_tie[rows] = end_in_tie(scores, scores[:, : self.k])
                progress.update(len(rows))
        return ranking

    def _read(
        self, prompts: Sequence[PromptToRank], at_once: int
    ) -> Iterator[tuple[np.ndarray, list[np.ndarray], torch.Tensor]]:
        """Yields the numbers, histories and vectors of users, at least `at_once`: a search for many is faster."""
        rows: list[np.ndarray] = []
        histories: list[np.ndarray] = []
        users: list[torch.Tensor] = []
        for some_rows, some_prompts, some_users in self.scorer.users(prompts, self.batch_size):
            rows.append(some_rows)
            histories += [prompt.items for prompt in some_prompts]
            users.append(some_users)
            if len(histories) >= at_once:
                yield np.concatenate(rows), histories, torch.cat(users)
                rows, histories, users = [], [], []
        if histories:
            yield np.concatenate(rows), histories, torch.cat(users)

    def best(
        self, users: torch.Tensor, histories: Sequence[np.ndarray], allowed: Sequence[ItemSet]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Finds the best items for users whose histories were read.

        Args:
            users (`torch.Tensor` of shape `(n, H + 1)`):
                User vectors, float32 (see [`ItemScorer.users`]).
            histories (`Sequence[numpy.ndarray]`):
                Catalog indices of the n histories, oldest first.
            allowed (`Sequence[ItemSet]`):
                For each user, the items that may be found. A set that lists its items is scored directly; the index is
                searched for one that lists what it leaves out.

        Returns:
            `tuple` of arrays: items (int64) and scores (float64) of shape `(n, k)`, best first, -1 and -infinity where
            there are fewer; and whether each list is exact, of shape `(n,)`.

        Raises:
            FloatingPointError: If a score is not a number.
        """
        items, scores, is_exact = self._find(users, histories, allowed)
        return items[:, : self.k], scores[:, : self.k], is_exact

    def _find(
        self, users: torch.Tensor, histories: Sequence[np.ndarray], allowed: Sequence[ItemSet]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `best`, with the item after the k-th if there is one."""
        shape = (len(users), self._num_asked)
        items, scores = np.full(shape, -1), np.full(shape, -np.inf)
        is_exact = np.full(len(users), self.index.settings.is_exact)
        vectors = users.cpu().numpy()
        if not np.isfinite(vectors).all():
            raise FloatingPointError(
                f"The item head's user vectors hold {vectors[~np.isfinite(vectors)][0]}. Weights that are not finite, "
                "or a dtype that is too small (float16) cause this."
            )
        is_searched = np.array([some.is_rest for some in allowed], dtype=bool)
        rows, scored = np.flatnonzero(is_searched), np.flatnonzero(~is_searched)
        width = self._first_width([allowed[row] for row in rows.tolist()])
        while len(rows) > 0 and width <= _LARGEST_SHARE * len(self._vectors):
            mine, some = vectors[rows], [histories[row] for row in rows.tolist()]
            features = self.scorer.features(some)
            proposed = self.index.search(mine, width)
            last = self._last_products(mine, proposed)
            pairs = self._with_others(mine, proposed, last, features)
            found = self._score(mine, pairs, features)
            kept = _allowed_pairs(pairs, found, [allowed[row] for row in rows.tolist()], len(self._vectors))
            items[rows], scores[rows] = self._select(*kept, len(rows))
            is_settled = self._is_settled(scores[rows, -1], last, mine)
            rows, width = rows[~is_settled], width * _GROWTH
        rest = np.sort(np.concatenate([rows, scored]))
        if len(rest) > 0:
            own, numbers = users[torch.from_numpy(rest).to(users.device)], rest.tolist()
            items[rest], scores[rest] = self._best_of_all(
                own, [histories[row] for row in numbers], [allowed[row] for row in numbers]
            )
            is_exact[rest] = True
        return items, scores, is_exact

    def _first_width(self, allowed: Sequence[ItemSet]) -> int:
        if self.num_candidates is not None:
            return max(self.num_candidates, self._num_asked)
        most = max((len(some.listed) for some in allowed), default=0)
        return self._num_asked + _LEAST_EXTRA + min(most, _MOST_EXTRA)

    def _last_products(self, users: np.ndarray, proposed: np.ndarray) -> np.ndarray:
        """Returns the product of each user and the last item that is proposed; -infinity where none is."""
        last = np.maximum((proposed >= 0).sum(axis=1) - 1, 0)
        items = proposed[np.arange(len(proposed)), last]
        is_found = items >= 0
        products = np.full(len(proposed), -np.inf, dtype=np.float32)
        products[is_found] = self._products(users, _Pairs(np.flatnonzero(is_found), items[is_found]))
        return products

    def _with_others(
        self, users: np.ndarray, proposed: np.ndarray, last: np.ndarray, features: Sequence[Addend]
    ) -> _Pairs:
        """
        Lists what the index proposes, and the items whose scores hold features besides the product. If the index may
        miss items, the items with the largest biases are added where their products are larger than the last one that
        is proposed.
        """
        num_items = len(self._vectors)
        keys = [(np.arange(len(proposed))[:, None] * num_items + proposed)[proposed >= 0]]
        keys += [addend.rows * num_items + addend.items for addend in features]
        if not self.index.settings.is_exact:
            # Most items have small biases, so neither lists of items nor codes nor links tell much about a large one.
            biased = self.scorer.items_of_largest_biases
            rows, places = np.nonzero(users @ self._vectors[biased].T > last[:, None])
            keys.append(rows * num_items + biased[places])
        return _Pairs(*np.divmod(sorted_distinct(np.concatenate(keys)), num_items))

    def _products(self, users: np.ndarray, pairs: _Pairs) -> np.ndarray:
        """Returns the product of each pair, float32. Sums of float64 make it the same wherever the pair stands."""
        products = np.empty(len(pairs.rows), dtype=np.float32)
        at_once = max(1, _NUMBERS_AT_ONCE // users.shape[1])
        for start in range(0, len(products), at_once):
            part = slice(start, start + at_once)
            mine, theirs = users[pairs.rows[part]], self._vectors[pairs.items[part]]
            products[part] = np.einsum("ij,ij->i", mine, theirs, dtype=np.float64)
        return products

    def _score(self, users: np.ndarray, pairs: _Pairs, features: Sequence[Addend]) -> np.ndarray:
        """Returns the score of each pair, float32: the product, and what the features add to it."""
        num_items = len(self._vectors)
        scores, keys = self._products(users, pairs), _keys(pairs, num_items)
        for addend in features:
            places = np.searchsorted(keys, addend.rows * num_items + addend.items)
            scores[places] = scores[places] + addend.values
        return scores

    def _select(self, pairs: _Pairs, scores: np.ndarray, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the best items of each row, as many as are asked for, and their scores."""
        if self._leaves is not None:
            order = np.lexsort((pairs.items, -scores, pairs.rows))
            titles = pairs.rows[order] * self.scorer.processor.trie.num_nodes + self._leaves[pairs.items[order]]
            best = order[np.sort(np.unique(titles, return_index=True)[1])]
            pairs, scores = _Pairs(pairs.rows[best], pairs.items[best]), scores[best]
        return best_of_rows(pairs.rows, pairs.items, scores, num_rows, self._num_asked)

    def _is_settled(self, kth_scores: np.ndarray, last: np.ndarray, users: np.ndarray) -> np.ndarray:
        """
        Returns whether no item that was not proposed can be among those that are asked for. Its score is a product,
        and no higher than the last product that was proposed.
        """
        if not self.index.settings.is_exact:
            return (last > -np.inf) & (kth_scores > -np.inf) & (kth_scores >= last)
        # The index and this class add up products in another order, so equal ones may differ in their last digits.
        rounding = 8 * np.finfo(np.float32).eps * np.linalg.norm(users, axis=1) * self.index.longest
        return kth_scores > last + rounding

    def _best_of_all(
        self, users: torch.Tensor, histories: Sequence[np.ndarray], allowed: Sequence[ItemSet]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores all allowed items for some users, and returns the best items and their scores."""
        num_items, width = len(self._vectors), self._num_asked
        while True:
            best, scores = self.scorer.best_of_users(users, histories, width, allowed)
            rows, places = np.nonzero(best >= 0)
            items, found = self._select(_Pairs(rows, best[rows, places]), scores[rows, places], len(users))
            if self._leaves is None or width == num_items or (items >= 0).all() or (best[:, -1] < 0).all():
                return items, found
            width = min(_GROWTH * width, num_items)


def _keys(pairs: _Pairs, num_items: int) -> np.ndarray:
    return pairs.rows * num_items + pairs.items


def _allowed_pairs(
    pairs: _Pairs, scores: np.ndarray, allowed: Sequence[ItemSet], num_items: int
) -> tuple[_Pairs, np.ndarray]:
    """Returns the pairs whose items are allowed. Each set lists the items that are left out."""
    lists = [some.listed if len(some.listed) <= _MOST_EXTRA else _NO_ITEMS for some in allowed]
    rows = np.repeat(np.arange(len(lists)), [len(items) for items in lists])
    left_out = ItemSet(rows * num_items + np.concatenate([_NO_ITEMS, *lists]))
    is_kept = left_out.holds(_keys(pairs, num_items))
    # Rows may share a list of half the catalog, so long lists are not joined.
    for row, some in enumerate(allowed):
        if len(some.listed) > _MOST_EXTRA:
            part = slice(*np.searchsorted(pairs.rows, [row, row + 1]))
            is_kept[part] = some.holds(pairs.items[part])
    return _Pairs(pairs.rows[is_kept], pairs.items[is_kept]), scores[is_kept]
