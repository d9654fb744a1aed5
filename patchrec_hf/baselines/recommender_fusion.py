"""Fusion: mixes the log-probabilities of any recommenders and baselines, with weights that validation rows choose."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from datasets import Dataset

from ..evaluation.scorers import missing_times, reads_times
from ..evaluation.targets import find_targets
from ..runtime.catalog import Catalog
from ..runtime.fusion import FusionFit
from ..runtime.hub_files import FORMAT_VERSION, check_format_version
from ..runtime.log_linear import checked_weights, mix_log_probs
from ..runtime.progress import progress_bar
from ..runtime.recommender import PatchRecommender
from .fusion_weights import MAX_STEPS, fit_weights, max_rows_to_fit
from .histories import HISTORIES_PER_BATCH, check_histories
from .neighbor_recommender import NeighborRecommender
from .popularity import Popularity
from .recommending import CatalogRecommender
from .saved import FUSION_NAME, load_baseline
from .sequential import SequentialRecommender


_SUM_TOLERANCE = 1e-3


@runtime_checkable
class FusionPart(Protocol):
    """A recommender that gives every item of its catalog a log-probability, as the baselines and LLMs do."""

    @property
    def catalog(self) -> Catalog:
        """The items that get a log-probability."""
        ...

    def log_probs(self, histories: Sequence[Sequence[Any]], times: np.ndarray | None = None) -> np.ndarray:
        """
        Computes the log-probability of every item after each history.

        Args:
            histories (`Sequence[Sequence]`):
                B lists of item ids, oldest first.
            times (`numpy.ndarray` of shape `(B,)`, int64, *optional*):
                The moment of asking of each history, in seconds since 1970 UTC.

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, in catalog order; `exp` of each row sums to 1.
        """
        ...


class Fusion(CatalogRecommender):
    """
    A log-linear mix of recommenders: log p(item) is Σ weight · log p_part(item), minus the logarithm of the sum over
    the catalog. [`~patchrec_hf.fit_fusion`] makes such a mix a part of a checkpoint; this class mixes any objects.

    Args:
        parts (`Mapping[str, FusionPart]`):
            The parts, by names of your own: [`PatchRecommender`], baselines, and any objects with `catalog` and
            `log_probs`. All have learned from the same data set.
        weights (`Mapping[str, float]`, *optional*):
            The weight of each part; all the same, with the sum 1, if not given. [`Fusion.fit`] chooses them.
        batch_size (`int`, *optional*, defaults to `8`):
            Histories per forward of an LLM.

    Raises:
        TypeError: If `parts` is no mapping, or a part has no `catalog` or no `log_probs`.
        ValueError: If there is no part, a part lacks a finite weight, the parts have different catalogs, or an LLM's
            histories need timestamps.

    Example:
    ```python
    >>> llm = PatchRecommender.from_pretrained("outputs/final")
    >>> fusion = Fusion({"LLM": llm, "co-visits": co_visitation, "SASRec": sasrec}).fit(splits["validation"])
    >>> fusion.weights, fusion.fit_result
    >>> evaluate_scorer(fusion, catalog, splits["test"]).metrics()
    >>> fusion.recommend([3, 14], k=5)
    >>> fusion.save_pretrained("outputs/fusion")  # with all parts
    ```
    """

    def __init__(
        self, parts: Mapping[str, FusionPart], weights: Mapping[str, float] | None = None, batch_size: int = 8
    ) -> None:
        if not isinstance(parts, Mapping):
            raise TypeError(
                f"`Fusion` takes its parts by their names, got `{type(parts).__name__}`. Write "
                "`Fusion({'LLM': recommender, 'baseline': baseline}).fit(validation)`: weights by maximum likelihood "
                "have replaced the former weight of standardized scores."
            )
        if not parts:
            raise ValueError("A fusion needs at least one part, such as {'co-visits': co_visitation}.")
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        for name, part in parts.items():
            if not isinstance(part, FusionPart):
                raise TypeError(
                    f"The part {name!r} is a `{type(part).__name__}`, which gives no log-probabilities. A part has a "
                    "`catalog` and a method `log_probs(histories, times=None)`, as all baselines and "
                    "`PatchRecommender` do."
                )
            if isinstance(part, PatchRecommender) and part.processor.reads_timestamps():
                raise ValueError(
                    f"The part {name!r} needs the timestamps of its histories, for time gaps or for the layout "
                    f"{part.processor.layout}, but `Fusion` gives its parts only items and the moment of asking. "
                    "`patchrec_hf.fit_fusion` mixes such a model with counts, in its checkpoint."
                )
        (first, part), *others = parts.items()
        for name, other in others:
            if not np.array_equal(part.catalog.item_ids, other.catalog.item_ids):
                raise ValueError(
                    f"The catalog of the part {first!r} with {len(part.catalog)} items and the catalog of {name!r} "
                    f"with {len(other.catalog)} do not hold the same ids in the same order. Make both from one data "
                    "set."
                )
            part.catalog.check_same_titles(other.catalog)
        self.catalog = part.catalog
        self.parts = dict(parts)
        equal = dict.fromkeys(parts, 1 / len(parts))
        self.weights = checked_weights(list(parts), equal if weights is None else weights)
        self.batch_size = batch_size
        self.fit_result: FusionFit | None = None

    def fit(
        self, dataset: Dataset, max_rows: int | None = None, max_steps: int = MAX_STEPS, show_progress: bool = True
    ) -> Fusion:
        """
        Chooses the weights that make the targets of some rows most likely (see [`fit_weights`]). On these targets, the
        fusion's likelihood is never below the likelihood of its best part.

        Args:
            dataset ([`~datasets.Dataset`]):
                Rows. No part should have been trained on them, so pass validation rows. For a large catalog, evenly
                spaced rows are read, so that an array of log-probabilities holds at most 2²⁵ numbers, or 200 rows if
                that is more.
            max_rows (`int`, *optional*):
                Number of rows to read, evenly spaced, if this is fewer.
            max_steps (`int`, *optional*, defaults to `100`):
                Number of steps of the search for weights, at most.
            show_progress (`bool`, *optional*, defaults to `True`):
                Whether to show a progress bar.

        Returns:
            [`Fusion`]: itself, with new `weights`, and with the likelihoods in `fit_result`.

        Raises:
            ValueError: If a part gives no log-probabilities, a part reads times and the rows have no timestamps, or
                the weights do not converge.
            KeyError: If the catalog lacks an item.
            FloatingPointError: If a log-probability is not a finite number.
        """
        targets = find_targets(dataset, self.catalog, max_rows_to_fit(len(self.catalog), max_rows))
        for name, part in self.parts.items():
            if _reads_times(part) and targets.times is None:
                raise missing_times(f"The fusion's part {name!r}")
        shape = (len(targets), len(self.catalog))
        log_probs = {name: np.empty(shape, dtype=np.float32) for name in self.parts}
        with progress_bar(show_progress, total=len(targets), desc="Fitting the fusion", unit="history") as progress:
            for start in range(0, len(targets), HISTORIES_PER_BATCH):
                numbers = np.arange(start, min(start + HISTORIES_PER_BATCH, len(targets)))
                times = None if targets.times is None else targets.times[numbers]
                for name, array in self._parts_log_probs(targets.history_ids(numbers), times).items():
                    log_probs[name][numbers] = array
                progress.update(len(numbers))
        self.weights, self.fit_result = fit_weights(log_probs, targets.items, max_steps)
        return self

    def log_probs(self, histories: Sequence[Sequence[Any]], times: np.ndarray | None = None) -> np.ndarray:
        """
        Computes the log-probability of every item after each history.

        Args:
            histories (`Sequence[Sequence]`):
                B lists of item ids, oldest first.
            times (`numpy.ndarray` of shape `(B,)`, int64, *optional*):
                The moment of asking of each history, in seconds since 1970 UTC.

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, float64, in catalog order; `exp` of each row sums to 1.

        Raises:
            ValueError, TypeError: As [`check_histories`] does, or if a part gives no log-probabilities.
            FloatingPointError: If a part's scores are not numbers.
            KeyError: If the catalog lacks an item.
        """
        check_histories(histories)
        return mix_log_probs(self._parts_log_probs(histories, times), self.weights)

    @property
    def reads_times(self) -> bool:
        """Whether scores depend on the moment of asking, as a part's scores may."""
        return any(_reads_times(part) for part in self.parts.values())

    @property
    def next_moment(self) -> int | None:
        """The latest `next_moment` of a part; `None` if no part has one."""
        known = (CatalogRecommender, PatchRecommender)
        moments = [part.next_moment for part in self.parts.values() if isinstance(part, known)]
        return max((moment for moment in moments if moment is not None), default=None)

    score = log_probs  # one method under both names, so that an evaluation computes it once

    def _parts_log_probs(self, histories: Sequence[Sequence[Any]], times: np.ndarray | None) -> dict[str, np.ndarray]:
        found = {}
        for name, part in self.parts.items():
            if isinstance(part, PatchRecommender):
                found[name] = part.log_probs(histories, times, batch_size=self.batch_size)
            else:
                array = np.asarray(part.log_probs(histories, times), dtype=np.float64)
                found[name] = _checked(name, part, array, (len(histories), len(self.catalog)))
        return found

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """
        Saves the weights as `fusion.json`, and each part in a subdirectory.

        Args:
            save_directory (`str` or `os.PathLike`):
                The directory. It is made if there is none.

        Raises:
            TypeError: If a part is an object of your own, which only your code can save.
            RuntimeError: If a baseline has not been fitted.
        """
        directory = Path(save_directory)
        parts: list[dict[str, Any]] = []
        for number, (name, part) in enumerate(self.parts.items()):
            if not isinstance(part, (PatchRecommender, NeighborRecommender, Popularity, SequentialRecommender)):
                raise TypeError(
                    f"The fusion's part {name!r} is a `{type(part).__name__}`, which the library cannot load again. "
                    "Save your parts yourself, and keep the fusion's `weights`."
                )
            is_llm = isinstance(part, PatchRecommender)
            parts.append({"name": name, "is_llm": is_llm, "directory": f"part_{number}"})
        # LLMs are saved last: a baseline that was not fitted raises before a large model is written.
        for settings in sorted(parts, key=lambda settings: settings["is_llm"]):
            saved: Any = self.parts[settings["name"]]
            saved = (saved.model, saved.processor) if settings["is_llm"] else (saved,)
            for one in saved:
                one.save_pretrained(directory / settings["directory"])
        values: dict[str, Any] = {"format_version": FORMAT_VERSION, "parts": parts, "weights": self.weights}
        values |= {"batch_size": self.batch_size}
        values |= {} if self.fit_result is None else {"fit_result": self.fit_result.to_dict()}
        (directory / FUSION_NAME).write_text(json.dumps(values, indent=2), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike, **kwargs: Any) -> Self:
        """
        Loads a fusion with all parts.

        Args:
            directory (`str` or `os.PathLike`):
                A directory that [`Fusion.save_pretrained`] wrote.
            **kwargs:
                Passed to [`PatchRecommender.from_pretrained`], such as `device_map` and `dtype`.

        Raises:
            FileNotFoundError: If the directory holds no fusion.
            ValueError: If a newer version of the library wrote it, or an earlier one, which mixed standardized scores.
        """
        path = Path(directory, FUSION_NAME)
        if not path.is_file():
            raise FileNotFoundError(
                f"{directory} holds no fusion: it lacks {FUSION_NAME}. Give the directory that "
                "`Fusion.save_pretrained` wrote."
            )
        values = json.loads(path.read_text(encoding="utf-8"))
        check_format_version(values["format_version"], FUSION_NAME)
        if "parts" not in values:
            raise ValueError(
                f"{path} was written by an earlier version of the library, which mixed standardized scores. Load its "
                "parts, and fit them anew: `Fusion({'LLM': "
                f"PatchRecommender.from_pretrained('{directory}/recommender'), 'baseline': "
                f"load_baseline('{directory}/baseline')}}).fit(validation)`."
            )
        parts: dict[str, FusionPart] = {}
        for settings in values["parts"]:
            part = Path(directory, settings["directory"])
            if settings["is_llm"]:
                parts[settings["name"]] = PatchRecommender.from_pretrained(part, **kwargs)
            else:
                parts[settings["name"]] = load_baseline(part)
        fusion = cls(parts, values["weights"], values["batch_size"])
        fusion.fit_result = FusionFit(**values["fit_result"]) if "fit_result" in values else None
        return fusion


def _reads_times(part: object) -> bool:
    return part.reads_times if isinstance(part, PatchRecommender) else reads_times(part)


def _checked(name: str, part: object, log_probs: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Checks that a part gave log-probabilities, one for each history and item."""
    if log_probs.shape != shape:
        raise ValueError(
            f"The part {name!r}: `{type(part).__name__}.log_probs` returned an array of shape {log_probs.shape}, "
            f"expected {shape}: one log-probability for each history and item."
        )
    sums = np.exp(log_probs).sum(axis=1)
    is_wrong = ~(np.abs(sums - 1) <= _SUM_TOLERANCE)
    if is_wrong.any():
        raise ValueError(
            f"The part {name!r} gives no log-probabilities: `exp` of what `{type(part).__name__}.log_probs` returned "
            f"for history {is_wrong.argmax()} sums to {sums[is_wrong][0]:.4g}, expected 1."
        )
    return log_probs
