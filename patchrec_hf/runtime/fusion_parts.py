"""Parts of a fusion: each gives every item of the catalog a log-probability, by a model, a table or the history."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from .catalog import Catalog
from .configuration import Normalizer, check_normalizer
from .log_probs import log_smoothed_shares, log_softmax
from .neighbors import NeighborTable
from .recent_popularity import RecentPopularity, check_window


_WEIGHTING_KEY = "weighting"


@dataclass(frozen=True)
class ItemHeadPart:
    """
    The part `"item"`: the scores of the item head, as log-probabilities over the catalog (see [`FusionScorer`]).

    Args:
        with_features (`bool`, *optional*, defaults to `True`):
            Whether the scores hold the head's features (seen items, similar titles). A prior of an earlier version of
            the library weighed the products of the vectors alone.
    """

    with_features: bool = True


@dataclass(frozen=True)
class TitlePart:
    """
    The part `"titles"`: the likelihood of an item's title, as log-probability over the catalog.

    Args:
        normalizer (`"vocabulary"` or `"catalog"`, *optional*, defaults to `"catalog"`):
            See [`RankingConfig`]. With `"catalog"`, the model reads a small part of the titles' tokens.
        temperature (`float`, *optional*, defaults to `1.0`):
            For the normalizer `"catalog"`: by what logits are divided.

    Raises:
        ValueError: If the normalizer is unknown, or the temperature is no positive number.
    """

    normalizer: Normalizer = "catalog"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_normalizer("normalizer", self.normalizer, "temperature", self.temperature)


@dataclass(frozen=True)
class SimilarTitlesPart:
    """
    The part `"similar_titles"`: an item's share of the history's title similarities, smoothed. The processor computes
    the similarities from its catalog, so new items have them at once.
    """


@dataclass(frozen=True)
class SeenPart:
    """
    The part `"seen"`: an item that the history holds is e times as likely as another one. The weight becomes
    the exponent.
    """

    def log_probs(
        self, histories: Sequence[np.ndarray], num_items: int, times: np.ndarray | None = None
    ) -> np.ndarray:
        """See [`NeighborPart.log_probs`]."""
        return log_softmax(seen_mask(histories, num_items))


@dataclass(frozen=True, eq=False)
class NeighborPart:
    """
    The parts `"co_visits"` and `"transitions"`: an item's share of the scores that the history's items give, smoothed
    as in [`log_smoothed_shares`].

    Args:
        table ([`NeighborTable`]):
            The scores from item to item.
        weighting (`Mapping[str, Any]`, *optional*):
            The settings with which counts became scores, JSON-ready, so that they can be counted anew. Empty if they
            are unknown, as in checkpoints of earlier versions. The part's file keeps them.
    """

    table: NeighborTable
    weighting: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def num_items(self) -> int:
        """Number of items that the part knows by their places in the catalog: the first ones."""
        return self.table.num_items

    def check_catalog(self, catalog: Catalog) -> None:
        """Raises a `ValueError` if the part was made for another catalog."""
        self.table.check_catalog(catalog)

    def log_probs(
        self, histories: Sequence[np.ndarray], num_items: int, times: np.ndarray | None = None
    ) -> np.ndarray:
        """
        Computes the log-probability of every item after each history.

        Args:
            histories (`Sequence[numpy.ndarray]`):
                Catalog indices of B histories, oldest first. Indices of `num_items` and above are new titles.
            num_items (`int`):
                Number of items of the catalog.
            times (`numpy.ndarray` of shape `(B,)`, int64, *optional*):
                The moment of asking of each history, in seconds since 1970 UTC.

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, float64; `exp` of each row sums to 1.
        """
        return log_smoothed_shares(self.table.scores(histories, num_items))

    def save(self, path: str | os.PathLike) -> None:
        """Writes the part as one safetensors file."""
        self.table.save(path, **({_WEIGHTING_KEY: dict(self.weighting)} if self.weighting else {}))

    def settings(self) -> dict[str, Any]:
        """Returns what the file lacks, as JSON-ready values."""
        return {}

    @classmethod
    def load(cls, path: str | os.PathLike) -> NeighborPart:
        """Reads a file that [`NeighborPart.save`] wrote."""
        return cls(NeighborTable.load(path), NeighborTable.settings_of(path).get(_WEIGHTING_KEY, {}))


@dataclass(frozen=True, eq=False)
class PopularityPart:
    """
    The part `"popularity"`: how often each item was chosen in the days before the moment of asking, plus one, as a
    share of all.

    Args:
        recent ([`RecentPopularity`]):
            Counts by day.
        window (`int`, *optional*, defaults to `7`):
            Number of whole days before the day of the moment that count.

    Raises:
        TypeError, ValueError: If the window is no whole number of at least 1.
    """

    recent: RecentPopularity
    window: int = 7

    def __post_init__(self) -> None:
        check_window(self.window)

    @property
    def num_items(self) -> int:
        """Number of items that the part knows by their places in the catalog: the first ones."""
        return self.recent.num_items

    def check_catalog(self, catalog: Catalog) -> None:
        """Raises a `ValueError` if the part was made for another catalog."""
        self.recent.check_catalog(catalog)

    def log_probs(
        self, histories: Sequence[np.ndarray], num_items: int, times: np.ndarray | None = None
    ) -> np.ndarray:
        """See [`NeighborPart.log_probs`]. Without `times`, the moment is the end of the counted days."""
        moments = np.full(len(histories), self.recent.end_time) if times is None else times
        return log_softmax(np.log1p(self.recent.counts_before(moments, self.window, num_items)))

    def save(self, path: str | os.PathLike) -> None:
        """Writes the counts as one safetensors file."""
        self.recent.save(path)

    def settings(self) -> dict[str, Any]:
        """Returns what the file lacks, as JSON-ready values."""
        return {"window": int(self.window)}

    @classmethod
    def load(cls, path: str | os.PathLike, window: int) -> PopularityPart:
        """Reads a file that [`PopularityPart.save`] wrote."""
        return cls(RecentPopularity.load(path), window)


FiledPart = NeighborPart | PopularityPart
"""Parts that are saved as a file of their own, and that know items by their places in the catalog."""
DataPart = SeenPart | NeighborPart | PopularityPart
"""Parts that need neither a model nor the titles of the catalog."""
Part = ItemHeadPart | TitlePart | SimilarTitlesPart | DataPart
PART_CLASSES: Mapping[str, type[Part]] = MappingProxyType(
    {
        "titles": TitlePart,
        "item": ItemHeadPart,
        "co_visits": NeighborPart,
        "transitions": NeighborPart,
        "similar_titles": SimilarTitlesPart,
        "seen": SeenPart,
        "popularity": PopularityPart,
    }
)
"""The class of each part, by its name."""
PART_NAMES = tuple(PART_CLASSES)
"""Names of the parts that a fusion can have, in the order in which it keeps them."""


def check_part_names(names: Sequence[str]) -> None:
    """
    Checks the names of a fusion's parts.

    Raises:
        ValueError: If there are none, or one is unknown or listed twice.
    """
    if not names:
        raise ValueError(f"A fusion needs at least one part; the parts are {', '.join(PART_NAMES)}.")
    for name in names:
        if name not in PART_CLASSES:
            raise ValueError(f"A fusion has no part {name!r}; the parts are {', '.join(PART_NAMES)}.")
        if names.count(name) > 1:
            raise ValueError(f"The fusion's part {name!r} is listed {names.count(name)} times; list it once.")


def seen_mask(histories: Sequence[np.ndarray], num_items: int) -> np.ndarray:
    """Returns 1 for each item that a history holds and else 0, float32, shape `(B, num_items)`."""
    seen = np.zeros((len(histories), num_items), dtype=np.float32)
    for row, history in enumerate(histories):
        seen[row, history[history < num_items]] = 1
    return seen
