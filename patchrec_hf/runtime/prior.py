"""The prior: what co-visits, titles and histories say about the next item, joined to the scores of the item head."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .hub_files import CO_VISITATION_NAME, find_file
from .neighbors import NeighborTable
from .title_similarity import log_shares


@dataclass(frozen=True)
class PriorWeights:
    """
    Weights of a log-linear model of the next item. [`~patchrec_hf.fit_prior`] chooses them by the likelihood of
    validation targets.

    Args:
        head (`float`):
            Weight of the item head's product of vectors.
        co_visits (`float`):
            Weight of log(1 + q / 10⁻⁴), where q is an item's share of the history's co-visitation scores.
        titles (`float`):
            Weight of log(1 + q / 10⁻⁴), where q is an item's share of the history's title similarities.
        seen (`float`):
            Weight of an item that the history holds.
    """

    head: float
    co_visits: float
    titles: float
    seen: float


@dataclass(frozen=True, eq=False)
class Prior:
    """
    Co-visitation counts, and the weights with which they, similar titles and seen items join the item head's products.
    It is a log-linear fusion: the scores are the logarithms of item probabilities, up to a constant for each history.

    Args:
        co_visits ([`NeighborTable`]):
            Co-visitation scores.
        weights ([`PriorWeights`]):
            The weights.
    """

    co_visits: NeighborTable
    weights: PriorWeights

    def join(self, products: np.ndarray, histories: Sequence[np.ndarray], titles: NeighborTable) -> np.ndarray:
        """
        Joins the prior to the item head's products.

        Args:
            products (`numpy.ndarray` of shape `(B, num_items)`, float32):
                Products of the vectors of users and items.
            histories (`Sequence[numpy.ndarray]`):
                Catalog indices of B histories, oldest first.
            titles ([`NeighborTable`]):
                Similar titles of the catalog.

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, float32.
        """
        weights = self.weights
        co_visits, similar, seen = self.features(histories, products.shape[1], titles)
        scores = weights.head * products + weights.co_visits * co_visits + weights.titles * similar
        return (scores + weights.seen * seen).astype(np.float32)

    def features(
        self, histories: Sequence[np.ndarray], num_items: int, titles: NeighborTable
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Computes what [`PriorWeights`] weigh: co-visits, titles, and whether the history holds the item.

        Args:
            histories (`Sequence[numpy.ndarray]`):
                Catalog indices of B histories, oldest first.
            num_items (`int`):
                Number of items of the catalog.
            titles ([`NeighborTable`]):
                Similar titles of the catalog.

        Returns:
            `tuple` of three arrays of shape `(B, num_items)`.
        """
        return (
            log_shares(self.co_visits.scores(histories, num_items)),
            log_shares(titles.scores(histories, num_items)),
            seen_mask(histories, num_items),
        )

    def save(self, directory: str | os.PathLike) -> None:
        """Writes co-visits and weights as `co_visitation.safetensors`."""
        self.co_visits.save(os.path.join(directory, CO_VISITATION_NAME), weights=asdict(self.weights))

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
            OSError: If the file is missing.
            ValueError: If a newer version of the library wrote it.
        """
        path = find_file(name_or_path, CO_VISITATION_NAME, kwargs)
        return cls(NeighborTable.load(path), PriorWeights(**NeighborTable.settings_of(path)["weights"]))


def seen_mask(histories: Sequence[np.ndarray], num_items: int) -> np.ndarray:
    """Returns 1 for each item that a history holds and else 0, float32, shape `(B, num_items)`."""
    seen = np.zeros((len(histories), num_items), dtype=np.float32)
    for row, history in enumerate(histories):
        seen[row, history[history < num_items]] = 1
    return seen
