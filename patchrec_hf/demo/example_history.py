"""Example histories: items that belong together, so that the page does not begin empty."""

from __future__ import annotations

import numpy as np

from ..runtime.fusion_parts import NeighborPart
from ..runtime.processing import PatchRecProcessor


def example_history(processor: PatchRecProcessor, num_items: int, seed: int) -> list[int]:
    """
    Makes a history. If the checkpoint's fusion has a table of co-visits, each item is the one that the items before it
    recommend most, from a random first item on. Otherwise all items are random.

    Args:
        processor ([`PatchRecProcessor`]):
            The processor.
        num_items (`int`):
            Number of items; fewer if the catalog has fewer.
        seed (`int`):
            Seed of the random items: equal seeds give equal histories.

    Returns:
        `list[int]`: catalog indices, oldest first, each of them once.
    """
    catalog, random = processor.catalog, np.random.default_rng(seed)
    order = random.permutation(len(catalog)).tolist()
    part = None if processor.fusion is None else processor.fusion.parts.get("co_visits")
    if not isinstance(part, NeighborPart):
        return order[:num_items]
    history = order[:1]
    while len(history) < min(num_items, len(catalog)):
        scores = part.table.scores([np.array(history)], len(catalog))[0].astype(np.float64)
        scores[history] = -1.0
        best = int(scores.argmax())
        history.append(best if scores[best] > 0 else next(item for item in order if item not in history))
    return history
