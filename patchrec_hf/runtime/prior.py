"""The prior: co-visitation counts that are joined to the scores of the item head."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .co_visitation import CoVisitationTable
from .hub_files import find_file


PRIOR_NAME = "prior.json"
SMOOTHING = 1e-4
"""Probability that an item has at least, so that its logarithm is finite."""


@dataclass(frozen=True)
class PriorWeights:
    """
    Weights of a product of experts: log p(item) = head_weight · score(item) + prior_weight · log(q(item) + smoothing),
    up to a constant. q is the item's share of the history's co-visitation scores.

    Args:
        head_weight (`float`):
            Weight of the item head's scores.
        prior_weight (`float`):
            Weight of the logarithm of the co-visitation shares.
        smoothing (`float`, *optional*, defaults to `1e-4`):
            Added to each share.
    """

    head_weight: float
    prior_weight: float
    smoothing: float = SMOOTHING


@dataclass(frozen=True, eq=False)
class Prior:
    """
    Co-visitation counts and the weights with which they join the item head's scores.

    Args:
        table ([`CoVisitationTable`]):
            The counts.
        weights ([`PriorWeights`]):
            The weights, which [`~patchrec_hf.fit_prior`] chooses.
    """

    table: CoVisitationTable
    weights: PriorWeights

    def join(self, scores: np.ndarray, histories: Sequence[np.ndarray]) -> np.ndarray:
        """
        Joins the prior to the item head's scores.

        Args:
            scores (`numpy.ndarray` of shape `(B, num_items)`, float32):
                Scores of the item head.
            histories (`Sequence[numpy.ndarray]`):
                Catalog indices of B histories, oldest first.

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, float32.
        """
        weights = self.weights
        logarithms = self.log_shares(histories, scores.shape[1])
        return weights.head_weight * scores + weights.prior_weight * logarithms

    def log_shares(self, histories: Sequence[np.ndarray], num_items: int) -> np.ndarray:
        """
        Computes the logarithms of the smoothed co-visitation shares.

        Args:
            histories (`Sequence[numpy.ndarray]`):
                Catalog indices of B histories, oldest first.
            num_items (`int`):
                Number of items of the catalog. Items that the table does not know have the share 0.

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, float32.
        """
        counts = self.table.scores(histories, num_items)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-12)
        return np.log(shares + self.weights.smoothing).astype(np.float32)

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the table as `co_visitation.safetensors`, and the weights as `prior.json`."""
        self.table.save(directory)
        Path(directory, PRIOR_NAME).write_text(json.dumps(asdict(self.weights), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, name_or_path: str | os.PathLike, **kwargs: Any) -> Prior:
        """
        Reads what [`Prior.save`] wrote.

        Args:
            name_or_path (`str` or `os.PathLike`):
                A directory or a repository of the Hub.
            **kwargs:
                Arguments that choose files on the Hub.

        Raises:
            OSError: If a file is missing.
            ValueError: If a newer version of the library wrote it.
        """
        with open(find_file(name_or_path, PRIOR_NAME, kwargs), encoding="utf-8") as file:
            weights = PriorWeights(**json.load(file))
        return cls(CoVisitationTable.load(name_or_path, **kwargs), weights)
