"""Title similarity: how strongly an item recommends items whose titles share rare tokens with its own."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from .neighbors import NeighborTable, is_among_largest, sum_by_cell
from .title_tokens import TitleTokens, ragged_arange


DECAY = 0.8
NUM_HISTORY_ITEMS = 10
MAX_NEIGHBORS = 40
SMOOTHING = 1e-4
"""Share that an item has at least, so that its logarithm is finite."""
_EXPONENT = 3
_MAX_SHARE = 0.1
_MAX_ITEMS_OF_TOKEN = 2000
_PAIRS_PER_BLOCK = 2**21
"""Pairs of titles that share a token and are compared at once, which bounds the memory."""


def title_similarity(titles: TitleTokens, item_ids: np.ndarray, max_neighbors: int = MAX_NEIGHBORS) -> NeighborTable:
    """
    Computes how similar the titles of items are: the cube of the cosine of their TF-IDF vectors, whose entries are a
    title's distinct tokens. It needs no interactions, so it also knows items that nobody has chosen.

    Tokens that more than 10 % of the titles or more than 2,000 titles hold count for the length of the vectors only.
    So the time grows with the number of pairs of titles that share a rarer token.

    Args:
        titles ([`TitleTokens`]):
            The titles of a catalog.
        item_ids (`numpy.ndarray` of shape `(num_items,)`, int64):
            The catalog's `id_numbers`.
        max_neighbors (`int`, *optional*, defaults to `40`):
            Number of most similar items that are kept for each item.

    Returns:
        [`NeighborTable`]
    """
    num_items = len(titles)
    keys = np.unique(np.repeat(np.arange(num_items), titles.lengths) * (titles.ids.max() + 1) + titles.ids)
    items, tokens = np.divmod(keys, titles.ids.max() + 1)
    num_titles = np.bincount(tokens)
    weights = np.log(num_items / num_titles[tokens])
    norms = np.sqrt(np.bincount(items, weights**2, minlength=num_items))
    weights = weights / np.maximum(norms, 1e-9)[items]

    is_rare = num_titles[tokens] <= max(min(_MAX_SHARE * num_items, _MAX_ITEMS_OF_TOKEN), 2)
    items, tokens, weights = items[is_rare], tokens[is_rare], weights[is_rare]
    # The titles of each token.
    by_token = np.argsort(tokens, kind="stable")
    lengths = np.bincount(tokens, minlength=len(num_titles))
    starts = np.cumsum(lengths) - lengths
    item_starts = np.searchsorted(items, np.arange(num_items + 1))

    # Blocks of items, so that memory holds a bounded number of pairs. A large item has a block of its own.
    num_pairs = np.bincount(items, lengths[tokens], minlength=num_items)
    bounds = np.flatnonzero(np.diff(np.cumsum(num_pairs) // _PAIRS_PER_BLOCK, prepend=-1, append=np.inf))
    columns, values, counts = [], [], []
    for start, stop in pairwise(bounds):
        part = slice(item_starts[start], item_starts[stop])
        sizes = lengths[tokens[part]]
        entries = by_token[np.repeat(starts[tokens[part]], sizes) + ragged_arange(sizes)]
        cells = np.repeat((items[part] - start) * num_items, sizes) + items[entries]
        products = np.repeat(weights[part], sizes) * weights[entries]
        distinct, cosines = sum_by_cell(cells, products)
        rows, found = np.divmod(distinct, num_items)
        is_other = found != rows + start  # an item does not recommend itself
        rows, found, cosines = rows[is_other], found[is_other], cosines[is_other]
        is_kept = is_among_largest(rows, cosines, max_neighbors)
        columns.append(found[is_kept].astype(np.int32))
        values.append((cosines[is_kept] ** _EXPONENT).astype(np.float32))
        counts.append(np.bincount(rows[is_kept], minlength=stop - start))
    return NeighborTable(
        offsets=np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64),
        targets=np.concatenate(columns),
        values=np.concatenate(values),
        item_ids=item_ids,
        decay=DECAY,
        num_history_items=NUM_HISTORY_ITEMS,
    )


def log_shares(scores: np.ndarray) -> np.ndarray:
    """
    Returns log(1 + q / 10⁻⁴), where q is each score's share of its row's sum; 0 in a row of zeros. For the scores of a
    [`title_similarity`], this is how similar each item's title is to the latest titles of a history.
    """
    shares = np.zeros(scores.shape)
    rows, items = np.nonzero(scores)
    shares[rows, items] = sparse_log_shares(rows, scores[rows, items], len(scores))
    return shares


def sparse_log_shares(rows: np.ndarray, values: np.ndarray, num_rows: int) -> np.ndarray:
    """As [`log_shares`], for scores that are listed with their rows."""
    sums = np.bincount(rows, values, minlength=num_rows)
    return np.log1p(values / (sums[rows] * SMOOTHING))
