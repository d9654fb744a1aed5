"""The fusion scorer: scores all items of the catalog behind prompts by each part of a fusion, and mixes the scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

import numpy as np

from .best_items import rows_at_once
from .fusion_parts import DataPart, ItemHeadPart, NeighborPart, Part, TitlePart
from .item_scorer import ItemScorer, ScoredRows, prompt_blocks
from .log_probs import log_softmax
from .modeling import PatchRecForCausalLM
from .moments import as_moments
from .processing import PatchRecProcessor
from .read_histories import PromptToRank


TitleScores = Callable[[Sequence[PromptToRank]], np.ndarray]
"""Returns the log-likelihood of every item's title behind prompts, shape `(B, num_items)`."""


class FusionScorer:
    """
    Scores the catalog by the fusion of a processor. The scores are log-probabilities over the whole catalog.
    Candidates and exclusions choose among the items afterwards, and change no score.

    Args:
        model ([`PatchRecForCausalLM`]):
            A model in evaluation mode.
        processor ([`PatchRecProcessor`]):
            The model's processor, with a fusion.
        score_titles (`TitleScores`):
            Scores titles, for the part `"titles"`.
        item_scorer ([`ItemScorer`], *optional*):
            For the part `"item"`: a scorer of this model and processor, which has computed its item vectors. A new one
            if not given.

    Raises:
        ValueError: If the processor has no fusion, if the fusion has the part `"item"` and the model has no item head,
            or if model and processor were not made for each other.
    """

    def __init__(
        self,
        model: PatchRecForCausalLM,
        processor: PatchRecProcessor,
        score_titles: TitleScores,
        item_scorer: ItemScorer | None = None,
    ) -> None:
        if processor.fusion is None:
            raise ValueError(
                "`method='fusion'` needs a processor with a fusion, and this one has none. Fit one with "
                "`processor = fit_fusion(model, processor, train_dataset, validation)`, or choose another method."
            )
        model.check_processor(processor)
        self.processor = processor
        self.fusion = processor.fusion
        self._score_titles = score_titles
        self._item_scorer = item_scorer
        if "item" not in self.fusion.parts:
            self._item_scorer = None
        elif item_scorer is None:
            if model.item_head is None:
                raise ValueError(
                    "The fusion has the part 'item', but the model has no item head. Fit a fusion for this model with "
                    "`fit_fusion`, or load the checkpoint that the fusion was saved with."
                )
            self._item_scorer = ItemScorer(model, processor)

    @property
    def title_temperature(self) -> float | None:
        """
        By what the logits of title tokens are divided before they are normalized over the catalog; `None` if they are
        normalized over the vocabulary, or the fusion has no part `"titles"`.
        """
        if "titles" not in self.fusion.parts:
            return None
        part = cast(TitlePart, self.fusion.parts["titles"])
        return part.temperature if part.normalizer == "catalog" else None

    def score(
        self,
        prompts: Sequence[PromptToRank],
        times: np.ndarray | None,
        batch_size: int,
        nest: bool = True,
    ) -> Iterator[ScoredRows]:
        """
        Scores all items behind each prompt.

        Args:
            prompts, batch_size, nest:
                See [`ItemScorer.score`]. Each prompt is made once.
            times (`numpy.ndarray` of shape `(B,)`, int64, *optional*):
                The moment of asking of each history, in seconds since 1970 UTC.

        Yields:
            [`ScoredRows`] of log-probabilities, float64, until all prompts are scored.

        Raises:
            TypeError, ValueError: As [`as_moments`] and [`ItemScorer.score`] do.
            FloatingPointError: If a part's log-probability is not a finite number.
        """
        for rows, log_probs in self.parts(prompts, times, batch_size, nest):
            yield ScoredRows(rows, self.fusion.mix(log_probs))

    def parts(
        self,
        prompts: Sequence[PromptToRank],
        times: np.ndarray | None,
        batch_size: int,
        nest: bool = True,
    ) -> Iterator[PartRows]:
        """
        Computes the log-probabilities of every part, before they are mixed.

        Args:
            prompts, times, batch_size, nest:
                See [`FusionScorer.score`].

        Yields:
            [`PartRows`], until all prompts are scored.

        Raises:
            TypeError, ValueError, FloatingPointError: As [`FusionScorer.score`] does.
        """
        if times is not None:
            times = as_moments(times, len(prompts))
        for first, block in prompt_blocks(prompts):
            for rows, item_scores in self._item_scores(block, batch_size, nest):
                asked = [block[row] for row in rows]
                moments = None if times is None else times[first + rows]
                log_probs = {
                    name: self._log_probs(name, part, asked, item_scores, moments)
                    for name, part in self.fusion.parts.items()
                }
                for name, array in log_probs.items():
                    check_finite(name, array)
                yield PartRows(first + rows, log_probs)

    def _item_scores(
        self, prompts: Sequence[PromptToRank], batch_size: int, nest: bool
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Yields numbers of prompts, and the item head's scores behind them if the fusion has this part."""
        if self._item_scorer is not None:
            part = cast(ItemHeadPart, self.fusion.parts["item"])
            score = self._item_scorer.score if part.with_features else self._item_scorer.products
            yield from score(prompts, batch_size, nest)
            return
        at_once = min(batch_size, rows_at_once(len(self.processor.catalog)))
        for start in range(0, len(prompts), at_once):
            yield np.arange(start, min(start + at_once, len(prompts))), None

    def _log_probs(
        self,
        name: str,
        part: Part,
        prompts: Sequence[PromptToRank],
        item_scores: np.ndarray | None,
        times: np.ndarray | None,
    ) -> np.ndarray:
        # By names: code that comes with a checkpoint may be loaded twice, and then has classes of its own.
        if name == "item":
            return log_softmax(cast(np.ndarray, item_scores))
        if name == "titles":
            return log_softmax(self._score_titles(prompts))
        part = NeighborPart(self.processor.title_neighbors) if name == "similar_titles" else part
        return cast(DataPart, part).log_probs([prompt.items for prompt in prompts], len(self.processor.catalog), times)


class PartRows(NamedTuple):
    """
    Log-probabilities of some prompts, by each part of a fusion.

    Args:
        rows (`numpy.ndarray` of shape `(n,)`, int64):
            The prompts' numbers.
        log_probs (`dict[str, numpy.ndarray]`):
            For each part, the log-probability of every item behind each of them; float64, shape `(n, num_items)`.
    """

    rows: np.ndarray
    log_probs: dict[str, np.ndarray]


def check_finite(part: str, log_probs: np.ndarray) -> None:
    """
    Checks the log-probabilities of a part.

    Raises:
        FloatingPointError: If one is not a finite number.
    """
    is_finite = np.isfinite(log_probs)
    if not is_finite.all():
        raise FloatingPointError(
            f"The fusion's part {part!r} gives the log-probability {log_probs[~is_finite][0]} to an item; each item "
            "needs a finite one. Weights of the model that are not finite, or a dtype that is too small (float16), "
            "cause this."
        )
