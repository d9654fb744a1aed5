"""Candidates: the items among which a batch's item targets are predicted, all of the catalog or a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..runtime.encoding import IGNORED_LABEL, EncodedHistory
from ..runtime.item_head import FEATURES
from ..runtime.item_loss import FIXED_POINT, NOT_DRAWN
from ..runtime.neighbors import NeighborTable
from ..runtime.processing import PatchRecProcessor
from ..runtime.title_similarity import NUM_HISTORY_ITEMS, sparse_log_shares
from ..runtime.title_tokens import ragged_arange


@dataclass(frozen=True, eq=False)
class NegativeSampling:
    """
    Chooses the items among which targets are predicted. If the catalog is large, it draws some items without
    replacement, so that a step need not score all of them.

    Each item gets an exponential waiting time with a rate of its weight, and the items with the shortest times are
    drawn. Given the waiting time of the first item that is not drawn, items were drawn independently, each with a
    known probability (Duffield, Lund and Thorup, "Priority Sampling for Estimation of Arbitrary Subset Sums", 2007).
    The loss corrects scores by these probabilities (see [`item_loss`]).

    Args:
        num_negatives (`int`, *optional*):
            Number of items to draw for a batch. All if not given.
        weights (`numpy.ndarray` of shape `(num_items,)`, float64, *optional*):
            How often each item is drawn, relative to the others. An item with the weight 0 is never drawn. All are
            alike if not given.
    """

    num_negatives: int | None = None
    weights: np.ndarray | None = None

    def check(self, num_items: int) -> None:
        """
        Checks the settings for a catalog.

        Raises:
            ValueError: If fewer than one or more than all items are to be drawn, or the weights are wrong.
        """
        if self.weights is not None and (self.weights.shape != (num_items,) or not (self.weights >= 0).all()):
            raise ValueError(f"`weights` must hold a number of at least 0 for each of {num_items} items.")
        if self.num_negatives is not None and not 1 <= self.num_negatives <= num_items:
            raise ValueError(
                f"`num_negatives` must lie between 1 and the catalog's {num_items} items, got {self.num_negatives}."
            )

    def draw(self, num_items: int, seed: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """
        Draws items.

        Args:
            num_items (`int`):
                Number of items of the catalog.
            seed (`Sequence[int]`):
                Seed; equal seeds draw equally.

        Returns:
            `tuple[numpy.ndarray, numpy.ndarray]`: the catalog indices that were drawn, ascending, and the logarithms
            of their probabilities. If all items are drawn, the logarithms are 0.
        """
        weights = np.ones(num_items) if self.weights is None else self.weights
        items = np.flatnonzero(weights > 0)
        if self.num_negatives is None or self.num_negatives >= len(items):
            return items, np.zeros(len(items))
        times = np.random.default_rng(seed).exponential(size=len(items)) / weights[items]
        order = np.argpartition(times, self.num_negatives)
        drawn = np.sort(order[: self.num_negatives])
        items = items[drawn]
        return items, np.log(-np.expm1(-weights[items] * times[order[self.num_negatives]]))


def all_candidates(processor: PatchRecProcessor) -> dict[str, torch.Tensor]:
    """
    Lists all items of the catalog as candidates, in the form that [`PatchRecForCausalLM`] takes.

    Args:
        processor ([`PatchRecProcessor`]):
            Its catalog holds the items.

    Returns:
        `dict[str, torch.Tensor]`, all int64, with C items and K tokens folded into their patches:
            - `candidate_items` of shape `(1, C)`: catalog indices, ascending.
            - `candidate_token_ids`, `candidate_divisors` of shape `(1, K)`: what is folded into the items' patches,
              item after item, as [`PatchRecProcessor.fold_items`] lists it.
            - `candidate_starts` of shape `(1, C)`: for each item, the index of its first token among the K.
    """
    return _as_tensors(processor, np.arange(len(processor.catalog)))


def draw_candidates(
    processor: PatchRecProcessor, negatives: NegativeSampling, targets: np.ndarray, seed: Sequence[int]
) -> dict[str, torch.Tensor]:
    """
    Draws candidates, and adds the targets that were not drawn.

    Args:
        processor ([`PatchRecProcessor`]):
            Its catalog holds the items.
        negatives ([`NegativeSampling`]):
            How to draw.
        targets (`numpy.ndarray` of shape `(n,)`, int64):
            Catalog indices of the batch's item targets.
        seed (`Sequence[int]`):
            Seed; equal seeds draw equally.

    Returns:
        `dict[str, torch.Tensor]`: as [`all_candidates`], and `candidate_log_inclusion` of shape `(1, C)`, as
        [`PatchRecForCausalLM.forward`] takes it.
    """
    drawn, log_inclusion = negatives.draw(len(processor.catalog), seed)
    items = np.union1d(drawn, targets)
    units = np.full(len(items), NOT_DRAWN, dtype=np.int64)
    units[np.searchsorted(items, drawn)] = np.round(log_inclusion * FIXED_POINT).astype(np.int64)
    return {**_as_tensors(processor, items), "candidate_log_inclusion": torch.from_numpy(units[None])}


def candidate_features(
    histories: Sequence[EncodedHistory], candidates: np.ndarray, title_neighbors: NeighborTable | None
) -> dict[str, torch.Tensor]:
    """
    Lists what is known of item targets and candidates: which candidates a history holds already, and which have titles
    that are similar to its latest ones.

    Args:
        histories (`Sequence[EncodedHistory]`):
            Histories with item targets.
        candidates (`numpy.ndarray` of shape `(C,)`, int64):
            Catalog indices, ascending.
        title_neighbors ([`NeighborTable`], *optional*):
            Similar titles. If not given, titles are not compared.

    Returns:
        `dict[str, torch.Tensor]`: `features` of shape `(1, m, 4)`, int64, as [`PatchRecForCausalLM.forward`] takes it.
        Item targets are counted over all histories, without fillers.
    """
    seen_rows, seen_items = [], []
    latest: list[np.ndarray] = []
    for history in histories:
        before = history.items_before[history.item_targets != IGNORED_LABEL]
        distinct, first = np.unique(history.items, return_index=True)
        order = np.argsort(first)  # the items that a target's history holds are then the first ones
        num_seen = np.searchsorted(first[order], before)
        seen_rows.append(len(latest) + np.repeat(np.arange(len(before)), num_seen))
        seen_items.append(distinct[order][ragged_arange(num_seen)])
        latest += [history.items[max(0, num - NUM_HISTORY_ITEMS) : num] for num in before]
    rows, items = np.concatenate(seen_rows), np.concatenate(seen_items)
    kinds, values = np.full(len(rows), FEATURES.index("seen")), np.full(len(rows), FIXED_POINT)
    if title_neighbors is not None and latest:
        title_rows, title_items, scores = title_neighbors.sparse_scores(latest)
        similarities = sparse_log_shares(title_rows, scores, len(latest))
        rows, items = np.concatenate([rows, title_rows]), np.concatenate([items, title_items])
        kinds = np.concatenate([kinds, np.full(len(title_rows), FEATURES.index("titles"))])
        values = np.concatenate([values, np.round(similarities * FIXED_POINT).astype(np.int64)])
    column_of_item = np.full(max(candidates.max(initial=-1), items.max(initial=-1)) + 1, -1)
    column_of_item[candidates] = np.arange(len(candidates))
    columns = column_of_item[items]
    kept = np.flatnonzero(columns >= 0)
    kept = kept[np.argsort(rows[kept], kind="stable")]
    features = np.empty((1, len(kept), 4), dtype=np.int64)
    for place, part in enumerate((rows, columns, kinds, values)):
        features[0, :, place] = part[kept]
    return {"features": torch.from_numpy(features)}


def _as_tensors(processor: PatchRecProcessor, items: np.ndarray) -> dict[str, torch.Tensor]:
    folded = processor.fold_items(items)
    arrays = {
        "candidate_items": items,
        "candidate_token_ids": folded.token_ids,
        "candidate_starts": np.searchsorted(folded.positions, np.arange(len(items))),
        "candidate_divisors": folded.divisors,
    }
    return {name: torch.from_numpy(np.asarray(array, dtype=np.int64)[None]) for name, array in arrays.items()}
