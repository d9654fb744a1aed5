"""Candidates: the items among which a batch's item targets are predicted, all of the catalog or a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..runtime.encoding import IGNORED_LABEL, EncodedHistory
from ..runtime.item_loss import LOG_INCLUSION_UNITS, NOT_DRAWN
from ..runtime.processing import PatchRecProcessor


@dataclass(frozen=True, eq=False)
class NegativeSampling:
    """
    Draws items of a large catalog, without replacement, so that a step need not score all of them.

    Each item gets an exponential waiting time with a rate of its weight, and the items with the shortest times are
    drawn. Given the waiting time of the first item that is not drawn, items were drawn independently, each with a
    known probability (Duffield, Lund and Thorup, "Priority Sampling for Estimation of Arbitrary Subset Sums", 2007).
    The loss corrects scores by these probabilities (see [`item_loss`]).

    Args:
        num_negatives (`int`):
            Number of items to draw for a batch.
        weights (`numpy.ndarray` of shape `(num_items,)`, float64, *optional*):
            How often each item is drawn, relative to the others; above 0. All alike if not given.
    """

    num_negatives: int
    weights: np.ndarray | None = None

    def check(self, num_items: int) -> None:
        """
        Checks the settings for a catalog.

        Raises:
            ValueError: If fewer than one or more than all items are to be drawn, or the weights are wrong.
        """
        if not 1 <= self.num_negatives <= num_items:
            raise ValueError(
                f"`num_negatives` must lie between 1 and the catalog's {num_items} items, got {self.num_negatives}."
            )
        if self.weights is not None and (self.weights.shape != (num_items,) or not (self.weights > 0).all()):
            raise ValueError(f"`weights` must hold a number above 0 for each of {num_items} items.")

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
        times = np.random.default_rng(seed).exponential(size=num_items) / weights
        if self.num_negatives == num_items:
            return np.arange(num_items), np.zeros(num_items)
        order = np.argpartition(times, self.num_negatives)
        drawn = np.sort(order[: self.num_negatives])
        return drawn, np.log(-np.expm1(-weights[drawn] * times[order[self.num_negatives]]))


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
    units[np.searchsorted(items, drawn)] = np.round(log_inclusion * LOG_INCLUSION_UNITS).astype(np.int64)
    return {**_as_tensors(processor, items), "candidate_log_inclusion": torch.from_numpy(units[None])}


def seen_candidates(histories: Sequence[EncodedHistory], candidates: np.ndarray) -> dict[str, torch.Tensor]:
    """
    Lists the candidates that histories hold already when an item is predicted.

    Args:
        histories (`Sequence[EncodedHistory]`):
            Histories with item targets.
        candidates (`numpy.ndarray` of shape `(C,)`, int64):
            Catalog indices, ascending.

    Returns:
        `dict[str, torch.Tensor]`, both int64 of shape `(1, m)`:
            - `seen_rows`: numbers of item targets, counted over all histories without fillers; ascending.
            - `seen_columns`: the candidates that are seen before those targets, as indices of `candidates`.
    """
    rows, items, num_targets = [], [], 0
    for history in histories:
        before = history.items_before[history.item_targets != IGNORED_LABEL]
        distinct, first = np.unique(history.items, return_index=True)
        targets, seen = np.nonzero(first < before[:, None])
        rows.append(num_targets + targets)
        items.append(distinct[seen])
        num_targets += len(before)
    flat_rows, flat_items = np.concatenate(rows), np.concatenate(items)
    columns = np.searchsorted(candidates, flat_items).clip(max=len(candidates) - 1)
    is_candidate = candidates[columns] == flat_items
    return {
        "seen_rows": torch.from_numpy(flat_rows[is_candidate][None]),
        "seen_columns": torch.from_numpy(columns[is_candidate][None]),
    }


def _as_tensors(processor: PatchRecProcessor, items: np.ndarray) -> dict[str, torch.Tensor]:
    folded = processor.fold_items(items)
    arrays = {
        "candidate_items": items,
        "candidate_token_ids": folded.token_ids,
        "candidate_starts": np.searchsorted(folded.positions, np.arange(len(items))),
        "candidate_divisors": folded.divisors,
    }
    return {name: torch.from_numpy(np.asarray(array, dtype=np.int64)[None]) for name, array in arrays.items()}
