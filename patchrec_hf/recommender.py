"""The recommender: histories in, titles out, from nothing but a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .catalog import tokenize_titles
from .layouts import Layout
from .modeling import PatchRecForCausalLM
from .processing import PatchRecProcessor
from .ranking import rank_catalog
from .trie import TitleTrie, build_trie


@dataclass(frozen=True)
class Recommendation:
    """
    A recommended item.

    Args:
        item_id (`int`):
            The data set's id.
        title (`str`):
            The item's title.
        score (`float`):
            Log-probability of the title after the history; at most 0.
    """

    item_id: int
    title: str
    score: float


class PatchRecommender:
    """
    Recommends items of the catalog for new histories.

    Args:
        model ([`PatchRecForCausalLM`]):
            The model.
        processor ([`PatchRecProcessor`]):
            The processor that it was trained with.

    Example:
    ```python
    >>> recommender = PatchRecommender.from_pretrained("outputs/finetune")
    >>> recommender.recommend([3, 14, "A Study in Scarlet"], k=3)
    ```
    """

    def __init__(self, model: PatchRecForCausalLM, processor: PatchRecProcessor) -> None:
        self.model = model.eval()
        self.processor = processor

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> PatchRecommender:
        """
        Loads model and processor from one checkpoint.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                A directory or a repository of the Hub.
            **kwargs:
                Passed to [`PatchRecForCausalLM.from_pretrained`]: `device_map`, `dtype`, `revision` and so on.
        """
        model = PatchRecForCausalLM.from_pretrained(pretrained_model_name_or_path, **kwargs)
        return cls(model, PatchRecProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs))

    @cached_property
    def _trie(self) -> TitleTrie:
        return build_trie(self.processor.title_tokens, self.processor.prompt.end_of_turn_id)

    def recommend(
        self,
        histories: Sequence[int | str] | Sequence[Sequence[int | str]],
        k: int = 10,
        exclude_seen: bool = True,
        num_beams: int | None = None,
        layout: Layout | None = None,
        batch_size: int = 8,
        show_progress: bool = False,
    ) -> list[Recommendation] | list[list[Recommendation]]:
        """
        Recommends the k most likely next items.

        Args:
            histories (`Sequence[int | str]`, or a sequence of them):
                One history or a batch, oldest item first. An item is an id of the catalog or a title, which the
                catalog need not know.
            k (`int`, *optional*, defaults to `10`):
                How many items to return; fewer where fewer are left.
            exclude_seen (`bool`, *optional*, defaults to `True`):
                Whether items of the history are left out.
            num_beams (`int`, *optional*):
                See [`rank_catalog`].
            layout ([`Layout`], *optional*):
                Overrides the processor's.
            batch_size (`int`, *optional*, defaults to `8`):
                Histories per forward.
            show_progress (`bool`, *optional*, defaults to `False`):
                Whether to show a progress bar.

        Returns:
            `list[Recommendation]` for one history, a list of them for a batch; best first.

        Raises:
            ValueError: If a history is empty, a title holds markup, or k is out of range.
            KeyError: If an item id is not in the catalog.
        """
        if len(histories) == 0:
            raise ValueError("The history is empty; a recommendation needs at least one earlier item.")
        is_single = isinstance(histories[0], (int, np.integer, str))
        batch: list[Sequence[int | str]] = [histories] if is_single else list(histories)  # type: ignore[list-item, arg-type]
        catalog = self.processor.catalog
        prompts, seen = [], []
        for history in batch:
            known = [self._indices(item) for item in history]
            titles = [
                item if isinstance(item, str) else catalog.titles[indices[0]]
                for item, indices in zip(history, known, strict=True)
            ]
            tokens = tokenize_titles(titles, self.processor.tokenizer)
            prompts.append(self.processor.encode(tokens, np.arange(len(titles)), layout=layout))
            seen.append(np.array([index for indices in known for index in indices], dtype=np.int64))
        ranking = rank_catalog(
            self.model,
            self._trie,
            prompts,
            self.processor.prompt.pad_id,
            k=k,
            num_beams=num_beams,
            excluded=seen if exclude_seen else None,
            batch_size=batch_size,
            show_progress=show_progress,
        )
        results = [
            [
                Recommendation(int(catalog.item_ids[item]), catalog.titles[item], float(score))
                for item, score in zip(items, scores, strict=True)
                if item >= 0
            ]
            for items, scores in zip(ranking.items, ranking.scores, strict=True)
        ]
        return results[0] if is_single else results

    def _indices(self, item: int | str) -> list[int]:
        catalog = self.processor.catalog
        return catalog.indices_of_title(item) if isinstance(item, str) else catalog.indices_of([item]).tolist()
