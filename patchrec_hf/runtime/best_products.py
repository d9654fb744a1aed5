"""Best products: the k items whose products with a user's vector are largest, block by block of a large catalog."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from .allowed_items import ItemSet
from .best_items import best_items, best_of_rows


ROWS_MULTIPLE = 64
"""The number of rows of item vectors is a multiple of this. So libraries compute the products with all of them in one
way, and items with one vector have one score."""
_PRODUCTS_AT_ONCE = 2**23
"""Products that are in memory at once: 32 MiB in float32."""


class Addend(NamedTuple):
    """
    Numbers that are added to the products of some users and items.

    Args:
        rows (`numpy.ndarray` of shape `(m,)`, int64):
            The users' rows.
        items (`numpy.ndarray` of shape `(m,)`, int64):
            Catalog indices. A user has each item once.
        values (`numpy.ndarray` of shape `(m,)`, float32 or float64):
            The numbers.
    """

    rows: np.ndarray
    items: np.ndarray
    values: np.ndarray

    def of_rows(self, rows: np.ndarray, num_rows: int) -> Addend:
        """Returns the numbers of the users in `rows`, of `num_rows`, whose rows become 0, 1 and so on."""
        places = np.full(num_rows, -1)
        places[rows] = np.arange(len(rows))
        own = places[self.rows]
        return Addend(own[own >= 0], self.items[own >= 0], self.values[own >= 0])

    def add_to(self, products: np.ndarray, items: np.ndarray) -> None:
        """Adds the numbers to products of shape `(B, n)` with `items`, which ascend."""
        columns = np.searchsorted(items, self.items)
        columns[columns == len(items)] = 0
        is_here = items[columns] == self.items
        cells = self.rows[is_here], columns[is_here]
        products[cells] = (products[cells] + self.values[is_here]).astype(products.dtype)


def products_of(users: torch.Tensor, vectors: torch.Tensor) -> np.ndarray:
    """
    Computes the products of users' vectors with item vectors.

    Args:
        users (`torch.Tensor` of shape `(B, H + 1)`):
            Vectors of users, float32.
        vectors (`torch.Tensor` of shape `(n, H + 1)`):
            Vectors of items, float32. To give equal vectors equal products, n is a multiple of `ROWS_MULTIPLE`.

    Returns:
        `numpy.ndarray` of shape `(B, n)`, float32.

    Raises:
        FloatingPointError: If a product is not finite.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        products = (users.to(vectors.device) @ vectors.T).cpu().numpy()
    if not np.isfinite(products).all():
        raise FloatingPointError(
            f"The item head's scores hold {products[~np.isfinite(products)][0]}. Weights that are not finite, such "
            "as a NaN residual, or a dtype that is too small (float16) cause this."
        )
    return products


def best_products(
    users: torch.Tensor,
    vectors: torch.Tensor,
    num_items: int,
    k: int,
    allowed: Sequence[ItemSet],
    addends: Sequence[Addend] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """
    Finds the k items with the largest scores for each user, where a score is a product and what is added to it. The
    scores of all items never stand in memory together. If few items are allowed, only their products are computed.

    Args:
        users (`torch.Tensor` of shape `(B, H + 1)`):
            Vectors of users, float32.
        vectors (`torch.Tensor` of shape `(n, H + 1)`):
            Vectors of the items of a catalog, float32, and after them rows that stand for no item. n is a multiple of
            `ROWS_MULTIPLE`.
        num_items (`int`):
            Number of items.
        k (`int`):
            Number of items to find, at most `num_items`.
        allowed (`Sequence[ItemSet]`):
            For each user, the items that may be found.
        addends (`Sequence[Addend]`, *optional*, defaults to `()`):
            Numbers that are added to products.

    Returns:
        `tuple[numpy.ndarray, numpy.ndarray]`: the items (int64, best first, equal scores in catalog order) and their
        scores (float64), both of shape `(B, k)`; -1 and -infinity where there are fewer.

    Raises:
        FloatingPointError: If a product is not finite.
    """
    items, scores = np.full((len(users), k), -1), np.full((len(users), k), -np.inf)
    is_rest = np.array([some.is_rest for some in allowed], dtype=bool)
    # A block has room for four times k items, unless the catalog is smaller.
    least_width = min(_rounded(4 * k), len(vectors))
    whole, at_once = np.flatnonzero(is_rest), max(1, _PRODUCTS_AT_ONCE // least_width)
    groups = [whole[start : start + at_once] for start in range(0, len(whole), at_once)]
    for rows in [*groups, *np.flatnonzero(~is_rest)[:, None]]:
        own = users[torch.from_numpy(rows).to(users.device)]
        added = [addend.of_rows(rows, len(users)) for addend in addends]
        if is_rest[rows[0]]:
            width = max(least_width, _floored(_PRODUCTS_AT_ONCE // len(rows)))
            blocks = _whole_blocks(own, vectors, num_items, width, [allowed[row].listed for row in rows])
        else:
            width = max(least_width, _floored(_PRODUCTS_AT_ONCE // vectors.shape[1]))
            blocks = _listed_blocks(own, vectors, allowed[rows[0]].listed, width)
        best = np.full((len(rows), k), -1), np.full((len(rows), k), -np.inf)
        for block_items, products in blocks:
            for addend in added:
                addend.add_to(products, block_items)
            best = _merged(*best, block_items, products)
        items[rows], scores[rows] = best
    return items, scores


def _whole_blocks(
    users: torch.Tensor, vectors: torch.Tensor, num_items: int, width: int, left_out: Sequence[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the items of each block of a catalog, and users' products with them. Items left out have -infinity."""
    for start, first, stop in _windows(len(vectors), num_items, width):
        products = products_of(users, vectors[start : start + width])[:, first - start : stop - start]
        for row, items in enumerate(left_out):
            products[row, items[slice(*np.searchsorted(items, [first, stop]))] - first] = -np.inf
        yield np.arange(first, stop), products


def _listed_blocks(
    users: torch.Tensor, vectors: torch.Tensor, items: np.ndarray, width: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields blocks of `items`, which ascend, and a user's products with them."""
    padded = np.append(items, np.repeat(items[:1], -len(items) % ROWS_MULTIPLE))
    for start, first, stop in _windows(len(padded), len(items), width):
        some = torch.from_numpy(padded[start : start + width]).to(vectors.device)
        yield items[first:stop], products_of(users, vectors[some])[:, first - start : stop - start]


def _windows(num_rows: int, num_items: int, width: int) -> Iterator[tuple[int, int, int]]:
    """
    Yields windows of `width` rows, or of all: the first row of each, its first item that no window before it had, and
    the end of its items. In products of another shape, numbers could be rounded in another way.
    """
    width, done = min(width, num_rows), 0
    while done < num_items:
        start = min(done, num_rows - width)
        stop = min(start + width, num_items)
        yield start, done, stop
        done = stop


def _merged(
    items: np.ndarray, scores: np.ndarray, block_items: np.ndarray, block_scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the best among the k best items so far and the items of a block, which come later in the catalog."""
    num_rows, k = items.shape
    is_better = block_scores > scores[:, -1:]  # of equal scores, the earlier ones stay
    if np.count_nonzero(is_better) > 4 * k * num_rows:
        columns, _ = best_items(block_scores, min(k, len(block_items)))
        rows, places = np.nonzero(columns >= 0)
        columns = columns[rows, places]
    else:
        rows, columns = np.nonzero(is_better)
    kept, places = np.nonzero(items >= 0)
    return best_of_rows(
        np.concatenate([kept, rows]),
        np.concatenate([items[kept, places], block_items[columns]]),
        np.concatenate([scores[kept, places], block_scores[rows, columns]]),
        num_rows,
        k,
    )


def _rounded(number: int) -> int:
    """Returns the lowest multiple of `ROWS_MULTIPLE` that is at least a number."""
    return -(-number // ROWS_MULTIPLE) * ROWS_MULTIPLE


def _floored(number: int) -> int:
    """Returns the highest multiple of `ROWS_MULTIPLE` that is at most a number."""
    return number // ROWS_MULTIPLE * ROWS_MULTIPLE
