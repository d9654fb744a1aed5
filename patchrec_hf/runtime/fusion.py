"""The fusion: a log-linear mix of parts that each give every item of the catalog a log-probability."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from .catalog import Catalog
from .fusion_parts import (
    PART_CLASSES,
    PART_NAMES,
    FiledPart,
    ItemHeadPart,
    NeighborPart,
    Part,
    PopularityPart,
    SeenPart,
    SimilarTitlesPart,
    check_part_names,
)
from .log_linear import checked_weights, mix_log_probs
from .neighbors import NeighborTable


@dataclass(frozen=True)
class FusionFit:
    """
    How well a fusion and its parts predict the targets on which its weights were fitted.

    Args:
        num_targets (`int`):
            Number of targets.
        log_likelihood (`float`):
            Mean log-probability of a target by the fusion.
        of_parts (`Mapping[str, float]`):
            Mean log-probability of a target by each part alone.
    """

    num_targets: int
    log_likelihood: float
    of_parts: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Returns the values as JSON-ready ones."""
        return {**vars(self), "of_parts": dict(self.of_parts)}


@dataclass(frozen=True, eq=False, repr=False)
class Fusion:
    """
    A log-linear mix of parts: log p(item) is Σ weight · log p_part(item), minus the logarithm of the sum over the
    catalog. [`~patchrec_hf.fit_fusion`] chooses the weights by the likelihood of validation targets.

    Args:
        parts (`Mapping[str, Part]`):
            The parts by their names: some of [`PART_NAMES`].
        weights (`Mapping[str, float]`):
            The weight of each part. It may be negative, as for seen items where nobody chooses an item twice.
        fit_result ([`FusionFit`], *optional*):
            The likelihoods that the fit of the weights reached.

    Raises:
        ValueError: If there is no part, a name is unknown, or a part lacks a finite weight.
        TypeError: If a part is of another class than its name says.
    """

    parts: Mapping[str, Part]
    weights: Mapping[str, float]
    fit_result: FusionFit | None = None

    def __post_init__(self) -> None:
        check_part_names(list(self.parts))
        for name, part in self.parts.items():
            if not isinstance(part, PART_CLASSES[name]):
                raise TypeError(
                    f"The part {name!r} must be a `{PART_CLASSES[name].__name__}`, got `{type(part).__name__}`."
                )
        weights = checked_weights(list(self.parts), self.weights)
        names = [name for name in PART_NAMES if name in self.parts]
        object.__setattr__(self, "parts", MappingProxyType({name: self.parts[name] for name in names}))
        object.__setattr__(self, "weights", MappingProxyType({name: weights[name] for name in names}))

    def __repr__(self) -> str:  # without the arrays of the parts
        weights = ", ".join(f"{name}: {weight:.4g}" for name, weight in self.weights.items())
        return f"{type(self).__name__}({weights})"

    def __getstate__(self) -> dict[str, Any]:  # a mapping proxy cannot be copied to a worker
        return {"parts": dict(self.parts), "weights": dict(self.weights), "fit_result": self.fit_result}

    @property
    def num_items(self) -> int:
        """Number of items that a part knows by their places in the catalog: the first ones."""
        return max((part.num_items for part in self.parts.values() if isinstance(part, FiledPart)), default=0)

    @property
    def reads_times(self) -> bool:
        """Whether a part's log-probabilities depend on the moment of asking."""
        return "popularity" in self.parts

    @property
    def next_moment(self) -> int | None:
        """
        The moment of asking if none is given, in seconds since 1970 UTC: the end of the counted days. `None` if no
        part reads it.
        """
        part = self.parts.get("popularity")
        return part.recent.end_time if isinstance(part, PopularityPart) else None

    def check_catalog(self, catalog: Catalog) -> None:
        """
        Checks that the parts were made for a catalog, which may have new items at its end.

        Raises:
            ValueError: If a part was made for another catalog. The message names it.
        """
        for name, part in self.parts.items():
            if isinstance(part, FiledPart):
                try:
                    part.check_catalog(catalog)
                except ValueError as error:
                    raise ValueError(f"The fusion's part {name!r} was made for another catalog. {error}") from error

    def mix(self, log_probs: Mapping[str, np.ndarray]) -> np.ndarray:
        """
        Mixes the parts' log-probabilities.

        Args:
            log_probs (`Mapping[str, numpy.ndarray]`):
                The log-probabilities of each part, shape `(B, num_items)`.

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, float64; `exp` of each row sums to 1.
        """
        return mix_log_probs(log_probs, self.weights)

    def to_dict(self) -> dict[str, Any]:
        """Returns all but the arrays, as JSON-ready values."""
        parts = {
            name: {"weight": self.weights[name], **(part.settings() if isinstance(part, FiledPart) else asdict(part))}
            for name, part in self.parts.items()
        }
        if self.fit_result is None:
            return {"parts": parts}
        return {"parts": parts, "fit_result": self.fit_result.to_dict()}

    def save_files(self, directory: str | os.PathLike) -> None:
        """Writes each part that has arrays, as `fusion_<part>.safetensors`."""
        for name, part in self.parts.items():
            if isinstance(part, FiledPart):
                part.save(Path(directory, _file_name(name)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], find: Callable[[str], str | os.PathLike]) -> Fusion:
        """
        Loads a fusion.

        Args:
            values (`Mapping[str, Any]`):
                The result of [`Fusion.to_dict`].
            find (`Callable[[str], str | os.PathLike]`):
                Returns the path of a file that [`Fusion.save_files`] wrote, by its name.

        Raises:
            OSError: If a file is missing.
            ValueError: If a newer version of the library wrote a file.
        """
        check_part_names(list(values["parts"]))
        parts: dict[str, Part] = {}
        weights: dict[str, float] = {}
        for name, settings in values["parts"].items():
            kind = PART_CLASSES[name]
            others = {key: value for key, value in settings.items() if key != "weight"}
            weights[name] = settings["weight"]
            parts[name] = (
                kind.load(find(_file_name(name)), **others) if issubclass(kind, FiledPart) else kind(**others)
            )
        return cls(parts, weights, FusionFit(**values["fit_result"]) if "fit_result" in values else None)

    @classmethod
    def from_prior(cls, path: str | os.PathLike) -> Fusion:
        """
        Loads the prior of an earlier version of the library, as a fusion that ranks as the prior did.

        Args:
            path (`str` or `os.PathLike`):
                The file `co_visitation.safetensors` of the checkpoint.
        """
        weights = NeighborTable.settings_of(path)["weights"]
        return cls(
            {
                "item": ItemHeadPart(with_features=False),
                "co_visits": NeighborPart(NeighborTable.load(path)),
                "similar_titles": SimilarTitlesPart(),
                "seen": SeenPart(),
            },
            {
                "item": weights["head"],
                "co_visits": weights["co_visits"],
                "similar_titles": weights["titles"],
                "seen": weights["seen"],
            },
        )


def _file_name(part: str) -> str:
    return f"fusion_{part}.safetensors"
