"""Recommending: the best items by a baseline's scores, in the form in which an LLM recommends them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from ..evaluation.score_ranks import TitleGroups
from ..evaluation.scorers import checked_scores, reads_times, score_at
from ..runtime.best_items import best_items, rows_at_once
from ..runtime.catalog import Catalog
from ..runtime.moments import as_moments
from ..runtime.ranking_config import check_k
from ..runtime.recommendations import Recommendation
from ..runtime.score_ties import tie_width
from ..runtime.skipped_histories import OnError, check_on_error, recommend_or_skip
from ..runtime.user_histories import as_batch, candidate_indices, match_item
from .histories import HISTORIES_PER_BATCH


class CatalogRecommender:
    """
    Base of all baselines: recommends items by `score`, which a subclass implements. A subclass has a `catalog`.

    Example:
    ```python
    >>> class RandomOrder(CatalogRecommender):
    ...     def __init__(self, catalog):
    ...         self.catalog = catalog
    ...
    ...     def score(self, histories):
    ...         return np.random.default_rng(0).random((len(histories), len(self.catalog)))
    >>> RandomOrder(catalog).recommend([3, 14, "Persuasion"], k=3)
    ```
    """

    catalog: Catalog

    def score(self, histories: Sequence[Sequence[Any]]) -> np.ndarray:
        """Scores every item for every history; see [`Scorer`]."""
        raise NotImplementedError(f"{type(self).__name__} does not implement `score`.")

    @property
    def next_moment(self) -> int | None:
        """
        The moment of asking if [`CatalogRecommender.recommend`] gets none, in whole seconds since 1970 UTC. `None`
        here, where no moment is read.
        """
        return None

    def score_candidates(
        self, histories: Sequence[Sequence[Any]], allowed: np.ndarray, k: int, times: np.ndarray | None = None
    ) -> np.ndarray:
        """
        Scores the items that may be recommended. A subclass implements this method only if its scores depend on them.

        Args:
            histories (`Sequence[Sequence]`):
                B lists of item ids, oldest first.
            allowed (`numpy.ndarray` of shape `(B, num_items)`, bool):
                Whether each item may be recommended, in catalog order.
            k (`int`):
                Number of allowed items that need a score above -infinity for each history; all if fewer are allowed.
            times (`numpy.ndarray` of shape `(B,)`, int64, *optional*):
                The moments of asking. They are only given if the baseline reads them (see [`TimedScorer`]).

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, in catalog order. The scores of other items are ignored.
        """
        return score_at(self, histories, times)

    def recommend(
        self,
        histories: Any,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        unique_titles: bool = True,
        candidates: Collection[Any] | Sequence[Collection[Any]] | None = None,
        times: int | Sequence[int] | None = None,
        on_error: OnError = "raise",
    ) -> Sequence[Recommendation] | Sequence[Sequence[Recommendation]]:
        """
        Recommends the k items with the best scores. All arguments mean the same for [`PatchRecommender.recommend`].

        Args:
            histories (`Sequence[int | str | Title]`, or a sequence of them):
                As for [`PatchRecommender.recommend`]: one history or a batch of them, oldest item first. An item is an
                id or a title of the catalog. If several items share a title, it means the first of them.
            k (`int`, *optional*, defaults to `10`):
                Number of items to return; fewer if fewer are left.
            exclude_seen (`bool`, *optional*, defaults to `True`):
                Whether to leave out the items of the history, and all other items with the same titles.
            unique_titles (`bool`, *optional*, defaults to `True`):
                Whether to recommend each title once, as its best item.
            candidates (`Collection[int | str]`, or a sequence of them, *optional*):
                Ids of the items that may be recommended: one collection for all histories, or one for each. The whole
                catalog if not given.
            times (`int` or `Sequence[int]`, *optional*):
                The moment of asking, in whole seconds since 1970 UTC: one for all histories, or one for each. Only
                baselines that read times use it, such as [`Popularity`] with a window. If not given, they recommend
                for the end of the interactions that they have counted ([`CatalogRecommender.next_moment`]).
            on_error (`"raise"` or `"skip"`, *optional*, defaults to `"raise"`):
                A history has no recommendations if it is empty, holds an unknown item, or leaves no item to
                recommend. `"raise"` makes this an error. `"skip"` returns a [`SkippedHistory`] with the reason in the
                place of its list, and recommends for the others. Wrong settings are always errors.

        Returns:
            `list[Recommendation]` for one history, a list of them for a batch; best first. `score` is the baseline's
            score, and `is_exact` is true.

        Raises:
            ValueError: If a history is empty or leaves nothing to recommend;
                if `k` is below 1; or if the number of candidate lists or of moments is not the number of histories.
            TypeError: If an item is neither an id nor a title, or `k` or a moment is no whole number.
            KeyError: If an id or a title is not in the catalog.
            FloatingPointError: If a score is not a number.
        """
        check_k(k)
        if check_on_error(on_error):
            return recommend_or_skip(
                partial(self.recommend, k=k, exclude_seen=exclude_seen, unique_titles=unique_titles),
                lambda history: [match_item(item, self.catalog, allows_new=False) for item in history],
                self.catalog,
                histories,
                candidates=candidates,
                times=times,
            )
        is_single, batch = as_batch(histories)
        matches = [
            [match_item(item, self.catalog, row, allows_new=False) for item in history]
            for row, history in enumerate(batch)
        ]
        allowed = candidate_indices(candidates, len(batch), self.catalog)
        moments = None if times is None else as_moments(times, len(batch))
        if not reads_times(self):
            moments = None
        elif moments is None and self.next_moment is not None:
            moments = as_moments(self.next_moment, len(batch))
        results: list[list[Recommendation]] = []
        at_once = min(HISTORIES_PER_BATCH, rows_at_once(len(self.catalog)))  # bounds the memory
        for start in range(0, len(batch), at_once):
            part = slice(start, start + at_once)
            part_allowed = None if allowed is None else allowed[part]
            part_moments = None if moments is None else moments[part]
            results += self._best(matches[part], part_allowed, k, exclude_seen, unique_titles, start, part_moments)
        return results[0] if is_single else results

    def _best(
        self,
        matches: Sequence[Sequence[list[int]]],
        candidates: Sequence[np.ndarray] | None,
        k: int,
        exclude_seen: bool,
        unique_titles: bool,
        first_row: int,
        times: np.ndarray | None,
    ) -> list[list[Recommendation]]:
        """Recommends for histories, whose items are the catalog indices that match them."""
        catalog, title_of_item = self.catalog, self._titles.title_of_item
        histories = [catalog.item_ids[[indices[0] for indices in history]].tolist() for history in matches]
        allowed = self._allowed(matches, candidates, exclude_seen, first_row)
        # Items of one title have scores of their own. So more are ranked, and the best of each title stays.
        num_alike = int(np.bincount(title_of_item).max()) if unique_titles else 1
        num_ranked = min(k * num_alike, len(catalog))
        arguments = (histories, allowed, num_ranked) if times is None else (histories, allowed, num_ranked, times)
        raw = np.asarray(self.score_candidates(*arguments))
        scores = checked_scores(self, raw, allowed.shape)
        if np.isnan(scores).any():
            row = first_row + int(np.isnan(scores).any(axis=1).argmax())
            raise FloatingPointError(f"{type(self).__name__} gives a score that is not a number (row {row}).")
        results = []
        ranked = best_items(np.where(allowed, scores, -np.inf), num_ranked)
        for row, (items, values) in enumerate(zip(*ranked, strict=True)):
            kept = np.flatnonzero(items >= 0)
            if len(kept) == 0:
                raise ValueError(
                    f"Row {first_row + row} has no item left to recommend: {type(self).__name__} scores all "
                    f"{allowed[row].sum()} items that may be recommended with -infinity. Give more candidates."
                )
            if unique_titles:
                _, first = np.unique(title_of_item[items[kept]], return_index=True)
                kept = kept[np.sort(first)][:k]
            last = values[kept[-1]]
            equals = np.flatnonzero(allowed[row] & (scores[row] >= last - tie_width(last, raw.dtype)))
            num_equals = len(np.unique(title_of_item[equals])) if unique_titles else len(equals)
            results.append(
                [
                    Recommendation(item_id, catalog.titles[index], value, True, num_equals > len(kept))
                    for item_id, index, value in zip(
                        catalog.item_ids[items[kept]].tolist(), items[kept], values[kept].tolist(), strict=True
                    )
                ]
            )
        return results

    def _allowed(
        self,
        matches: Sequence[Sequence[list[int]]],
        candidates: Sequence[np.ndarray] | None,
        exclude_seen: bool,
        first_row: int,
    ) -> np.ndarray:
        """Returns whether each item may be recommended for each history, `(B, num_items)`."""
        title_of_item = self._titles.title_of_item
        allowed = np.full((len(matches), len(self.catalog)), candidates is None)
        for row, history in enumerate(matches):
            if candidates is not None:
                allowed[row, candidates[row]] = True
            if exclude_seen:
                seen = np.zeros(len(self._titles.starts), dtype=bool)
                seen[title_of_item[np.concatenate(history)]] = True
                allowed[row] &= ~seen[title_of_item]
            if not allowed[row].any():
                raise ValueError(
                    f"Row {first_row + row} has no item left to recommend: the history holds all candidates. Give "
                    "more candidates, or set `exclude_seen=False`."
                )
        return allowed

    @cached_property
    def _titles(self) -> TitleGroups:
        return TitleGroups.from_catalog(self.catalog)
