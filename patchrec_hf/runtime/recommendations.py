"""Recommendations: the best items behind prompts, with their ids and titles, by any method of a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers.processing_utils import ProcessorMixin

from .adapters import without_wrapper
from .catalog import Catalog
from .configuration import Normalizer
from .fingerprints import checkpoint_fingerprint
from .index_methods import index_method, rank_by_index
from .index_settings import IndexKind, index_settings
from .item_index import ItemIndex
from .item_scorer import ItemScorer
from .modeling import PatchRecForCausalLM
from .moments import as_moments
from .processing import PatchRecProcessor
from .ranking import CatalogRanker, default_method
from .ranking_config import ITEM_METHODS, Method, RankingConfig, check_k
from .read_histories import PromptToRank
from .score_ties import model_tie_width
from .user_histories import candidate_indices


@dataclass(frozen=True)
class Recommendation:
    """
    A recommended item.

    Args:
        item_id (`int` or `str`):
            The item's id in the data set.
        title (`str`):
            The item's title.
        score (`float`):
            Log-probability of the title after the history, at most 0 (see [`RankingConfig`] for its normalizer). For
            the method `"item"`, the item's score (see [`ItemScorer`]). For the method `"fusion"`, log-probability of
            the item among the whole catalog.
        is_exact (`bool`):
            Whether the list of recommendations is proven to be the best one.
        ends_in_tie (`bool`, *optional*, defaults to `False`):
            Whether the list leaves out what ties with its last item (see [`CatalogRanking`]), so that other lists are
            equally good.
    """

    item_id: int | str
    title: str
    score: float
    is_exact: bool
    ends_in_tie: bool = False


class PromptRecommender:
    """
    Recommends items behind prompts. A [`PatchRecommender`] makes the prompts from histories, and a [`UserState`] keeps
    them as they were read.

    Args:
        model ([`PatchRecForCausalLM`] or [`~peft.PeftModel`]):
            The model. If it has an adapter, the two recommend together.
        processor ([`PatchRecProcessor`]):
            The processor that the model was trained with.
    """

    def __init__(self, model: PatchRecForCausalLM | PeftModel, processor: PatchRecProcessor) -> None:
        # Code that comes with a checkpoint may be loaded twice, and then has classes of its own.
        if not isinstance(model, torch.nn.Module) or not isinstance(processor, ProcessorMixin):
            raise TypeError(
                f"`PatchRecommender` takes a model and its processor, got `{type(model).__name__}` and "
                f"`{type(processor).__name__}`. `PatchRecommender.from_pretrained(directory)` loads both."
            )
        model = without_wrapper(model)
        model.check_processor(processor)
        self.model = model.eval()
        self.processor = processor
        self._checked_index: ItemIndex | None = None

    @property
    def catalog(self) -> Catalog:
        """The items that can be recommended."""
        return self.processor.catalog

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """The fingerprint of model and processor (see [`checkpoint_fingerprint`])."""
        return checkpoint_fingerprint(self.model, self.processor)

    def recommend_behind(
        self,
        prompts: Sequence[PromptToRank],
        seen: Sequence[np.ndarray] | None,
        k: int,
        *,
        unique_titles: bool,
        candidates: Collection[int | str] | Sequence[Collection[int | str]] | None,
        method: Method | None,
        num_beams: int | None,
        max_title_tokens: int | None,
        normalizer: Normalizer | None,
        times: int | Sequence[int] | np.ndarray | None,
        batch_size: int = 8,
        show_progress: bool = False,
        index: ItemIndex | None = None,
        num_candidates: int | None = None,
    ) -> list[list[Recommendation]]:
        """
        Recommends the k most likely next items behind prompts.

        Args:
            prompts (`Sequence[PromptToRank]`):
                B histories, encoded or read.
            seen (`Sequence[numpy.ndarray]`, *optional*):
                For each prompt, catalog indices of items that are left out, with all other items of their titles.
            k, unique_titles, candidates, method, num_beams, max_title_tokens, normalizer, times, batch_size, index,
            num_candidates:
                See [`PatchRecommender.recommend`].
            show_progress (`bool`, *optional*, defaults to `False`):
                Whether to show a progress bar.

        Returns:
            `list[list[Recommendation]]`: B lists, best first.

        Raises:
            ValueError, TypeError, KeyError, FloatingPointError: As [`PatchRecommender.recommend`] does.
        """
        ranker = self.ranker_for(
            k, unique_titles, method, num_beams, max_title_tokens, normalizer, batch_size, index, num_candidates
        )
        trie, by_item = self.processor.trie, ranker.config.method in ITEM_METHODS
        excluded = None if seen is None else [trie.items_spelled_like(items) for items in seen]
        if index is None:
            ranking = ranker.rank(
                prompts,
                candidates=self._candidates(candidates, len(prompts), unique_titles and not by_item),
                excluded=excluded,
                show_progress=show_progress,
                times=None if times is None else as_moments(times, len(prompts)),
            )
        else:
            ranking = rank_by_index(
                self.item_scorer,
                index,
                ranker.config,
                prompts,
                candidate_indices(candidates, len(prompts), self.processor.catalog),
                excluded,
                unique_titles=unique_titles,
                num_candidates=num_candidates,
                show_progress=show_progress,
            )
        results = []
        lists = (ranking.items, ranking.scores, ranking.is_exact, ranking.ends_in_tie)
        for items, scores, is_exact, ends_in_tie in zip(*lists, strict=True):
            kept = np.flatnonzero(items >= 0)
            if by_item and unique_titles and len(kept) > 0:
                last_item = kept[-1]
                _, first = np.unique(trie.leaf_of_item[items[kept]], return_index=True)
                kept = kept[np.sort(first)]
                last = scores[kept[min(k, len(kept)) - 1]]
                if len(kept) > k:
                    ends_in_tie, kept = scores[kept[k]] >= last - model_tie_width(last), kept[:k]
                else:  # what ties with the last item that was ranked also has to tie with the last title
                    ends_in_tie &= scores[last_item] >= last - model_tie_width(last)
            results.append(
                [
                    self.recommendation(item, score, is_exact, ends_in_tie)
                    for item, score in zip(items[kept], scores[kept], strict=True)
                ]
            )
        return results

    def ranker_for(
        self,
        k: int,
        unique_titles: bool,
        method: Method | None,
        num_beams: int | None,
        max_title_tokens: int | None,
        normalizer: Normalizer | None,
        batch_size: int = 8,
        index: ItemIndex | None = None,
        num_candidates: int | None = None,
    ) -> CatalogRanker:
        """
        Makes the ranker of recommendations, which checks how they are to be ranked.

        Args:
            k, unique_titles, method, num_beams, max_title_tokens, normalizer, batch_size, index, num_candidates:
                See [`PatchRecommender.recommend`].

        Returns:
            [`CatalogRanker`]

        Raises:
            ValueError, TypeError: If a setting is out of range, or does not fit the checkpoint.
        """
        check_k(k)
        if method == "diverse":
            raise ValueError(
                "The method 'diverse' reproduces the released code's lists, which may hold a title several times: use "
                "it in `evaluate_model` or `CatalogRanker`, and 'exact' or 'beam' here."
            )
        processor, trie = self.processor, self.processor.trie
        if index is not None:
            method = index_method(method)
            self.check_index(index)
        elif num_candidates is not None:
            raise ValueError(f"`num_candidates` belongs to an `index`, and there is none; got {num_candidates}.")
        elif method is None:
            method = default_method(self.model, processor)
        # The items of one title have scores of their own. So more are ranked, and the best of each title stays.
        shares_titles = method in ITEM_METHODS and unique_titles and index is None
        config = RankingConfig(
            k=min(k * (trie.most_items_of_a_title if shares_titles else 1), len(trie.items)),
            method=method,
            num_beams=num_beams,
            max_title_tokens=max_title_tokens,
            normalizer=normalizer,
            batch_size=batch_size,
        )
        return CatalogRanker(self.model, processor, config, self.scorer_for(method))

    def build_index(self, kind: IndexKind = "flat", *, show_progress: bool = False, **settings: int) -> ItemIndex:
        """
        Builds an index of the item vectors, by which [`PatchRecommender.recommend`] finds items in a large catalog. It
        needs the extra `index`: `pip install "patchrec-hf[index]"`.

        Args:
            kind (`"flat"`, `"ivf"`, `"ivfpq"` or `"hnsw"`, *optional*, defaults to `"flat"`):
                See [`IndexSettings`].
            show_progress (`bool`, *optional*, defaults to `False`):
                Whether to show a progress bar.
            **settings (`int`):
                `m`, `ef_construction` and `ef_search` of `"hnsw"`; `nlist` and `nprobe` of `"ivf"` and `"ivfpq"`;
                `k_factor` of `"ivfpq"`: see [`IndexSettings`].

        Returns:
            [`ItemIndex`]: [`ItemIndex.save_pretrained`] saves it beside the checkpoint.

        Raises:
            ImportError: If FAISS is not installed.
            ValueError: If the kind is unknown, a setting is out of range or does not belong to the kind, or the model
                has no item head.
            TypeError: If there is no such setting, or one is no whole number.

        Example:
        ```python
        >>> index = recommender.build_index("hnsw", ef_search=128)
        >>> recommender.recommend([3, 14], k=3, index=index)
        >>> index.save_pretrained("outputs/final")
        ```
        """
        chosen, scorer = index_settings(kind, settings), self.item_scorer
        index = ItemIndex.build(scorer.vectors_in_memory, chosen, scorer.user_scale, show_progress)
        self._checked_index = index
        return index

    def load_index(
        self,
        pretrained_model_name_or_path: str | os.PathLike,
        ef_search: int | None = None,
        nprobe: int | None = None,
        k_factor: int | None = None,
        **kwargs: Any,
    ) -> ItemIndex:
        """
        Loads an index that [`ItemIndex.save_pretrained`] saved, and checks that it belongs to this checkpoint.

        Args:
            pretrained_model_name_or_path, ef_search, nprobe, k_factor, **kwargs:
                See [`ItemIndex.from_pretrained`].

        Returns:
            [`ItemIndex`]

        Raises:
            ImportError, FileNotFoundError: As [`ItemIndex.from_pretrained`] does.
            ValueError: If the checkpoint or its catalog has changed since the index was built, or as
                [`ItemIndex.from_pretrained`] does.

        Example:
        ```python
        >>> recommender.build_index("hnsw").save_pretrained("outputs/final")
        >>> index = recommender.load_index("outputs/final")
        ```
        """
        index = ItemIndex.from_pretrained(pretrained_model_name_or_path, ef_search, nprobe, k_factor, **kwargs)
        self.check_index(index)
        return index

    def check_index(self, index: ItemIndex) -> None:
        """
        Checks that an index holds this checkpoint's item vectors.

        Raises:
            TypeError: If it is no index.
            ValueError: If it holds others. The message says what differs.
        """
        if not isinstance(index, ItemIndex):
            raise TypeError(
                f"`index` must be an `ItemIndex`, got {index!r}. `recommender.build_index('hnsw')` builds one, and "
                "`recommender.load_index(directory)` loads one."
            )
        if index is not self._checked_index:  # the vectors of a large catalog take a while
            index.check_vectors(self.item_scorer.vectors_in_memory)
            self._checked_index = index

    def scorer_for(self, method: Method) -> ItemScorer | None:
        """Returns the item scorer, whose vectors are computed once, if a method can use it."""
        return self.item_scorer if method in ITEM_METHODS and self.model.item_head is not None else None

    @cached_property
    def item_scorer(self) -> ItemScorer:
        """Scores items by the item head."""
        return ItemScorer(self.model, self.processor)

    def recommendation(self, index: int, score: float, is_exact: bool, ends_in_tie: bool = False) -> Recommendation:
        """Returns the recommendation of an item, by its catalog index."""
        catalog = self.processor.catalog
        item_id = catalog.item_ids[index]
        return Recommendation(
            item_id if catalog.has_text_ids else int(item_id),
            catalog.titles[index],
            float(score),
            bool(is_exact),
            bool(ends_in_tie),
        )

    def _candidates(
        self,
        candidates: Collection[int | str] | Sequence[Collection[int | str]] | None,
        num_histories: int,
        unique_titles: bool,
    ) -> list[np.ndarray] | None:
        trie = self.processor.trie
        arrays = candidate_indices(candidates, num_histories, self.processor.catalog)
        if arrays is None:
            return [trie.all_titles[1]] * num_histories if unique_titles else None
        if not unique_titles:
            return arrays
        distinct = {id(indices): indices for indices in arrays}  # histories may share an array
        firsts = {number: trie.titles_of(indices)[1] for number, indices in distinct.items()}
        return [firsts[id(indices)] for indices in arrays]
