"""History facts: what decides whether long histories can matter, counted from transitions between items."""

from __future__ import annotations

import numpy as np
import polars as pl

from ..runtime.title_tokens import ragged_arange
from .splits import SPLITS


_MAX_TARGETS = 10_000
"""Number of test targets that are looked up, evenly spaced, which bounds the time."""
_MAX_HISTORY = 100
"""Number of latest items of a history that are looked up."""


def history_facts(interactions: pl.DataFrame) -> dict[str, float]:
    """
    Counts how freely one item follows another, and which test targets a single transition leads to. A transition is a
    pair of successive items of a user.

    Args:
        interactions (`polars.DataFrame`):
            Split interactions, sorted by user and from oldest to newest, with the columns `user_id`, `item_id` and
            `split`, and optionally `timestamp`.

    Returns:
        `dict[str, float]`:
            - The median number of different items that follow an item in train, of the items that another one follows.
            - The perplexity of the next item given the current one, in train: 2 to the power of the conditional
              entropy in bits. It is the number of equally likely items that would be as hard to guess. Few
              interactions make it too small.
            - The shares of test targets to which a transition leads from the latest item of the user, and from any of
              the latest 100 items. Only transitions count that end before the target's time. Without times, those
              count that end in an earlier split. At most 10,000 targets, evenly spaced, are looked up.
            - The same two shares if each history is asked for another target: the one half of the targets further on,
              which is another user's unless one user has half of them. These are the shares by chance.

            A fact that there is nothing to count for is left out.
    """
    items = interactions["item_id"].rank("dense").to_numpy().astype(np.int64) - 1
    split = interactions["split"].replace_strict(list(SPLITS), range(len(SPLITS)), return_dtype=pl.Int64).to_numpy()
    times = interactions["timestamp"].to_numpy() if "timestamp" in interactions.columns else split
    is_first = interactions["user_id"].ne_missing(interactions["user_id"].shift(1)).to_numpy()
    ends = np.flatnonzero(~is_first)
    keys = items[ends - 1] * (items.max() + 1) + items[ends]
    facts = _branching(keys[(split[ends] == 0) & (split[ends - 1] == 0)], int(items.max()) + 1)

    targets = ends[split[ends] == SPLITS.index("test")]
    if len(targets) == 0:
        return facts
    targets = targets[np.linspace(0, len(targets) - 1, min(len(targets), _MAX_TARGETS)).astype(np.int64)]
    order = np.lexsort((times[ends], keys))
    known, firsts = np.unique(keys[order], return_index=True)
    first_times = times[ends][order][firsts]
    starts = np.maximum.accumulate(np.where(is_first, np.arange(len(items)), 0))[targets]
    lengths = np.minimum(targets - starts, _MAX_HISTORY)
    rows = np.repeat(np.arange(len(targets)), lengths)
    sources = targets[rows] - 1 - ragged_arange(lengths)  # from the latest item back
    # Which share would be reached by chance? Each history is also asked for the target of another place.
    others = np.roll(targets, len(targets) // 2)
    for whose, wanted_at in (("test targets", targets), ("as many targets of other users", others)):
        wanted = items[sources] * (items.max() + 1) + items[wanted_at][rows]
        places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        is_reached = (known[places] == wanted) & (first_times[places] < times[targets][rows])
        from_latest = is_reached[np.cumsum(lengths) - lengths]
        from_any = np.bincount(rows, is_reached, minlength=len(targets)) > 0
        facts[f"{whose} one transition from the user's latest item, share"] = float(from_latest.mean())
        facts[f"{whose} one transition from any of the user's items, share"] = float(from_any.mean())
    return facts


def _branching(keys: np.ndarray, num_items: int) -> dict[str, float]:
    if len(keys) == 0:
        return {}
    pairs, counts = np.unique(keys, return_counts=True)
    sources = pairs // num_items
    successors = np.bincount(sources)
    shares = counts / np.bincount(sources, counts)[sources]
    entropy = -float((counts * np.log2(shares)).sum()) / len(keys)
    return {
        "different items that follow an item in train, median": float(np.median(successors[successors > 0])),
        "perplexity of the next item given the current one in train": 2**entropy,
    }
