"""Methods with an item index: by the item head alone, or by titles among the items that the item head proposes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .index_ranking import IndexRanker
from .item_index import ItemIndex
from .item_scorer import ItemScorer
from .ranking import CatalogRanker, CatalogRanking
from .ranking_config import Method, RankingConfig
from .read_histories import PromptToRank


DEFAULT_NUM_CANDIDATES = 200
"""Number of items that the item head proposes for a ranking by titles."""
INDEX_METHODS = ("item", "exact")


def index_method(method: Method | None) -> Method:
    """
    Returns the method by which items are ranked with an index: `"item"` if none is chosen.

    Raises:
        ValueError: If the method reads the whole catalog.
    """
    if method is None:
        return "item"
    if method not in INDEX_METHODS:
        raise ValueError(
            f"An index proposes items for `method='item'` or `method='exact'`, got {method!r}, which needs the whole "
            "catalog: leave out `index`, or choose one of the two."
        )
    return method


def rank_by_index(
    scorer: ItemScorer,
    index: ItemIndex,
    config: RankingConfig,
    prompts: Sequence[PromptToRank],
    candidates: Sequence[np.ndarray] | None = None,
    excluded: Sequence[np.ndarray] | None = None,
    *,
    unique_titles: bool = False,
    num_candidates: int | None = None,
    show_progress: bool = False,
) -> CatalogRanking:
    """
    Ranks items that an index proposes.

    For `method="item"`, the item head ranks them (see [`IndexRanker`]). For `method="exact"`, the item head chooses
    `num_candidates` of them, and these are ranked by the likelihood of their titles. The catalog may hold a more
    likely title that the item head does not propose, so such a list is not proven to be the best one.

    Args:
        scorer ([`ItemScorer`]):
            The scorer of the model and the processor.
        index ([`ItemIndex`]):
            An index of the scorer's item vectors.
        config ([`RankingConfig`]):
            How to rank: its `k`, its `batch_size`, its method, and how titles are scored.
        prompts, candidates, excluded, show_progress:
            See [`CatalogRanker.rank`].
        unique_titles (`bool`, *optional*, defaults to `False`):
            Whether to list each title once, as its best item by the item head.
        num_candidates (`int`, *optional*):
            For `method="item"`: number of items that the index proposes first (see [`IndexRanker`]). For
            `method="exact"`: number of items that are ranked by titles; 200, or k if it is larger, if not given.

    Returns:
        [`CatalogRanking`]

    Raises:
        ValueError: If `num_candidates` is below k, or as [`CatalogRanker.rank`] does.
        TypeError: If `num_candidates` is no whole number, or as [`CatalogRanker.rank`] does.
        FloatingPointError: If the model's scores are not numbers.
    """
    num_candidates = check_num_candidates(num_candidates, config.k)
    if config.method == "item":
        ranker = IndexRanker(scorer, index, config.k, config.batch_size, unique_titles, num_candidates)
        return ranker.rank(prompts, candidates, excluded, show_progress)
    number = max(DEFAULT_NUM_CANDIDATES, config.k) if num_candidates is None else num_candidates
    number = min(number, index.num_items)
    by_titles = CatalogRanker(
        scorer.model, scorer.processor, config
    )  # wrong settings raise before the index is searched
    proposed = IndexRanker(scorer, index, number, config.batch_size, unique_titles).rank(
        prompts, candidates, excluded, show_progress
    )
    ranking = by_titles.rank(prompts, [items[items >= 0] for items in proposed.items], show_progress=show_progress)
    return replace(ranking, is_exact=np.zeros(len(prompts), dtype=bool))


def check_num_candidates(num_candidates: int | None, k: int) -> int | None:
    """
    Checks a number of items that an index proposes.

    Raises:
        TypeError: If it is no whole number.
        ValueError: If it is below k.
    """
    if num_candidates is None:
        return None
    if isinstance(num_candidates, bool) or not isinstance(num_candidates, (int, np.integer)):
        raise TypeError(f"`num_candidates` must be a whole number, got {num_candidates!r}.")
    if num_candidates < k:
        raise ValueError(f"`num_candidates` must be at least k = {k}, got {num_candidates}.")
    return int(num_candidates)
