"""The recommender: recommends titles for histories, with nothing but a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from .adapters import is_adapter, load_adapted
from .best_items import best_items
from .configuration import Normalizer
from .encoding import EncodedHistory
from .item_index import ItemIndex
from .item_vectors import item_vectors_of
from .layouts import Layout, check_layout
from .lazy_sequence import LazySequence
from .log_probs import log_softmax
from .modeling import PatchRecForCausalLM
from .moments import as_moments
from .processing import PatchRecProcessor
from .ranking import CatalogRanker, default_method
from .ranking_config import Method, RankingConfig, check_k
from .recommendations import PromptRecommender, Recommendation
from .skipped_histories import OnError, check_on_error, recommend_or_skip
from .user_histories import CatalogHistories, Item, as_batch, as_timestamps, find_items, match_item
from .user_state import UserState


class PatchRecommender(PromptRecommender):
    """
    Recommends items of the catalog for new histories.

    Args:
        model ([`PatchRecForCausalLM`] or [`~peft.PeftModel`]):
            The model. If it has an adapter, the two recommend together.
        processor ([`PatchRecProcessor`]):
            The processor that the model was trained with.

    Example:
    ```python
    >>> recommender = PatchRecommender.from_pretrained("outputs/final")
    >>> recommender.recommend([3, 14, "A Study in Scarlet"], k=3)
    ```
    """

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        layout: Layout | None = None,
        trust_layout_code: bool = False,
        **kwargs: Any,
    ) -> PatchRecommender:
        """
        Loads model and processor from one checkpoint.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                A directory or a repository of the Hub, with a model or an adapter. An adapter is merged into the model
                that it was trained on.
            layout, trust_layout_code:
                See [`PatchRecProcessor.from_pretrained`].
            **kwargs:
                Passed to [`PatchRecForCausalLM.from_pretrained`]: `device_map`, `dtype`, `revision` and so on. For an
                adapter, `base_model` is the path of the model that it was trained on, if that model was moved.

        Raises:
            ValueError: If the checkpoint is a bare backbone, or an adapter of another model.
        """
        load = (
            load_adapted
            if is_adapter(pretrained_model_name_or_path, **kwargs)
            else PatchRecForCausalLM.from_pretrained
        )
        model = load(pretrained_model_name_or_path, **kwargs)
        processor = PatchRecProcessor.from_pretrained(
            pretrained_model_name_or_path, layout, trust_layout_code, **kwargs
        )
        return cls(model, processor)

    def recommend(
        self,
        histories: Sequence[Item] | Sequence[Sequence[Item]],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        unique_titles: bool = True,
        candidates: Collection[int | str] | Sequence[Collection[int | str]] | None = None,
        method: Method | None = None,
        num_beams: int | None = None,
        max_title_tokens: int | None = None,
        normalizer: Normalizer | None = None,
        layout: Layout | None = None,
        batch_size: int = 8,
        show_progress: bool = False,
        times: int | Sequence[int] | np.ndarray | None = None,
        timestamps: Sequence[int] | Sequence[Sequence[int]] | np.ndarray | None = None,
        max_tokens: int | None = None,
        index: ItemIndex | None = None,
        num_candidates: int | None = None,
        on_error: OnError = "raise",
    ) -> Sequence[Recommendation] | Sequence[Sequence[Recommendation]]:
        """
        Recommends the k most likely next items.

        Args:
            histories (`Sequence[int | str | Title]`, or a sequence of them):
                One history or a batch of them, oldest item first: lists, arrays of NumPy, tensors, or a frame with
                the column `item_ids`. An item is an id of the catalog, or a title of the catalog. A [`Title`] may be
                new. If the catalog's ids are whole numbers, any text is read as a title, and a warning names new ones.
            k (`int`, *optional*, defaults to `10`):
                Number of items to return; fewer if fewer are left.
            exclude_seen (`bool`, *optional*, defaults to `True`):
                Whether to leave out the items of the history, and all other items with the same titles.
            unique_titles (`bool`, *optional*, defaults to `True`):
                Whether to recommend each title once: as its best item by the item head or the fusion, and otherwise as
                the first item with this title, because titles alone cannot tell such items apart.
            candidates (`Collection[int | str]`, or a sequence of them, *optional*):
                Ids of the items that may be recommended: one collection for all histories, or one for each. The whole
                catalog if not given.
            method, num_beams, max_title_tokens, normalizer:
                See [`RankingConfig`]. By default, the method is `"fusion"` if the checkpoint holds a fusion, else
                `"item"` if the model has an item head, else `"exact"`. The method `"diverse"` is refused, because its
                lists may repeat a title.
            layout ([`Layout`], *optional*):
                Replaces the processor's layout.
            batch_size (`int`, *optional*, defaults to `8`):
                Histories per forward.
            show_progress (`bool`, *optional*, defaults to `False`):
                Whether to show a progress bar.
            times (`int` or `numpy.ndarray` of shape `(B,)`, int64, *optional*):
                The moment of asking, in whole seconds since 1970 UTC: one for all histories, or one for each. Parts of
                a fusion that count by time read it. If not given, they count up to the end of their days.
            timestamps (`Sequence[int]`, or a sequence of them, *optional*):
                When each item of the histories was chosen, in whole seconds since 1970 UTC, in the form of
                `histories`. A model whose patches hold time gaps needs them, and so does a layout that asks for
                them, such as [`TimeWindowLayout`]. Others do not read them.
            max_tokens (`int`, *optional*):
                Most positions of a history, if the processor's layout is a [`BudgetLayout`]: another budget than the
                layout's own.
            index ([`ItemIndex`], *optional*):
                An index of this checkpoint's item vectors, for large catalogs (see
                [`~PatchRecommender.build_index`]). The method is then `"item"` by default, or `"exact"`, by which the
                item head proposes items and their titles rank them. `is_exact` is true where the list certainly
                holds the best items: by the item head with a flat index, or among `candidates`.
            num_candidates (`int`, *optional*):
                With an index: number of items that it proposes, at least k. For the method `"exact"` 200 if not given;
                for `"item"` as many as k and the exclusions need.
            on_error (`"raise"` or `"skip"`, *optional*, defaults to `"raise"`):
                A history has no recommendations if it is empty or too long, holds an unknown item, or leaves no item
                to recommend. `"raise"` makes this an error. `"skip"` returns a [`SkippedHistory`] with the reason in
                the place of its list, and recommends for the others. Wrong settings are always errors.

        Returns:
            `list[Recommendation]` for one history, a list of them for a batch; best first.

        Raises:
            ValueError: If a history is empty or longer than the model's context, if a title holds an added token, if k
                is out of range, if `max_tokens` is too small or the layout has no budget, if timestamps that are read
                are missing or descend, or if nothing is left to recommend for a history.
            TypeError: If an item is neither an id nor a title, `k` is no whole number, or the backbone cannot attend
                to a tree.
            KeyError: If an id is not in the catalog, or a text is neither an id nor a title of it. The message names
                the nearest ones.
            FloatingPointError: If the model's scores are not numbers.
        """
        processor = self.processor
        if max_tokens is not None:
            layout = processor.layout_within(max_tokens, layout)
        if check_on_error(on_error):
            settings: dict[str, Any] = {
                "k": k,
                "unique_titles": unique_titles,
                "method": method,
                "num_beams": num_beams,
                "max_title_tokens": max_title_tokens,
                "normalizer": normalizer,
                "batch_size": batch_size,
                "index": index,
                "num_candidates": num_candidates,
            }
            # A wrong setting is no fault of a history.
            self.ranker_for(**settings).check_backbone()
            if layout is not None:
                check_layout(layout)
            if timestamps is None and processor.reads_timestamps(layout):
                raise processor.missing_timestamps("the histories have no `timestamps`", layout)
            recommend = partial(
                self.recommend, exclude_seen=exclude_seen, layout=layout, show_progress=show_progress, **settings
            )
            return recommend_or_skip(
                recommend,
                lambda history: [match_item(item, processor.catalog) for item in history],
                processor.catalog,
                histories,
                candidates=candidates,
                times=times,
                timestamps=timestamps,
            )
        is_single, batch = as_batch(histories)
        found = find_items(batch, processor.catalog, processor.title_tokens, processor.tokenizer)
        results = self.recommend_behind(
            self._prompts(found, as_timestamps(timestamps, batch, is_single), layout),
            found.matches if exclude_seen else None,
            k,
            unique_titles=unique_titles,
            candidates=candidates,
            method=method,
            num_beams=num_beams,
            max_title_tokens=max_title_tokens,
            normalizer=normalizer,
            times=times,
            batch_size=batch_size,
            show_progress=show_progress,
            index=index,
            num_candidates=num_candidates,
        )
        return results[0] if is_single else results

    def index_recall(
        self,
        index: ItemIndex,
        histories: Sequence[Sequence[Item]],
        k: int = 20,
        *,
        exclude_seen: bool = True,
        timestamps: Sequence[Sequence[int]] | np.ndarray | None = None,
        batch_size: int = 8,
    ) -> float:
        """
        Measures the recall of an index: which share of the k best items by the item head, among the whole catalog, it
        finds.

        Args:
            index ([`ItemIndex`]):
                An index of this checkpoint's item vectors.
            histories, exclude_seen, timestamps, batch_size:
                See [`~PatchRecommender.recommend`]; a batch of some hundred histories.
            k (`int`, *optional*, defaults to `20`):
                Number of best items.

        Returns:
            `float`: the mean over the histories, from 0 to 1.

        Raises:
            ValueError, TypeError, KeyError, FloatingPointError: As [`~PatchRecommender.recommend`] does.

        Example:
        ```python
        >>> index = recommender.build_index("hnsw")
        >>> recommender.index_recall(index, histories, k=20)
        ```
        """
        is_single, batch = as_batch(histories)
        if is_single:
            raise TypeError(
                f"`index_recall` takes a batch of histories: `index_recall(index, [history])`, got {histories!r}."
            )
        processor = self.processor
        read = find_items(batch, processor.catalog, processor.title_tokens, processor.tokenizer)
        prompts = self._prompts(read, as_timestamps(timestamps, batch, is_single), layout=None)

        def best_ids(index: ItemIndex | None) -> list[set[int | str]]:
            lists = self.recommend_behind(
                prompts,
                read.matches if exclude_seen else None,
                k,
                unique_titles=False,
                candidates=None,
                method="item",
                num_beams=None,
                max_title_tokens=None,
                normalizer=None,
                times=None,
                batch_size=batch_size,
                index=index,
            )
            return [{item.item_id for item in items} for items in lists]

        pairs = zip(best_ids(index), best_ids(None), strict=True)
        return float(np.mean([len(found & best) / len(best) for found, best in pairs]))

    @property
    def reads_times(self) -> bool:
        """Whether recommendations depend on the moment of asking, by a part of the checkpoint's fusion."""
        return self.processor.fusion is not None and self.processor.fusion.reads_times

    @property
    def next_moment(self) -> int | None:
        """
        The moment of asking if none is given, in whole seconds since 1970 UTC; `None` if recommendations do not depend
        on it.
        """
        return None if self.processor.fusion is None else self.processor.fusion.next_moment

    def start(
        self,
        histories: Sequence[Item] | Sequence[Sequence[Item]],
        timestamps: Sequence[int] | Sequence[Sequence[int]] | np.ndarray | None = None,
        layout: Layout | None = None,
        block_size: int | None = None,
    ) -> UserState:
        """
        Reads histories, and keeps what the model has read. A click then costs only the positions that are new.

        Args:
            histories, timestamps, layout:
                See [`~PatchRecommender.recommend`]. Only items of the catalog can be read. As there, the latest
                `max_history` items are read.
            block_size (`int`, *optional*):
                When a history would become longer than `processor.max_history`, its oldest items leave, so that
                `max_history - block_size` remain. By default half of `max_history`. With 0, one item leaves for each
                new one, and every click reads the whole history again.

        Returns:
            [`UserState`]

        Raises:
            ValueError: If a history is empty or its prompt is longer than the model's context, if timestamps are
                missing, descend or are no seconds, if `block_size` is out of range, or if the weights are sharded.
            TypeError: If an item is neither an id nor a title, or the backbone cannot attend to a tree.
            KeyError: If the catalog lacks an item. The message names the nearest ones.

        Example:
        ```python
        >>> state = recommender.start([3, 14])
        >>> state.append(15)
        >>> state.recommend(k=3)
        ```
        """
        return UserState.start(self, histories, timestamps, layout, block_size)

    def load_state(self, path: str | os.PathLike) -> UserState:
        """
        Loads what [`UserState.save`] wrote.

        Args:
            path (`str` or `os.PathLike`):
                The file.

        Raises:
            ValueError: If another checkpoint or another dtype read the histories, if the catalog lacks one of their
                items or has another title for it, or if a newer version of the library wrote the file. The message
                says what differs, and how to start anew.
        """
        return UserState.load(self, path)

    def log_probs(
        self,
        histories: Sequence[Sequence[Item]],
        times: int | Sequence[int] | np.ndarray | None = None,
        *,
        method: Literal["fusion", "item", "all"] | None = None,
        batch_size: int = 8,
        timestamps: Sequence[Sequence[int]] | np.ndarray | None = None,
    ) -> np.ndarray:
        """
        Computes the log-probability of every item after each history.

        Args:
            histories, times, batch_size, timestamps:
                See [`~PatchRecommender.recommend`]; a batch of histories.
            method (`str`, *optional*):
                The scores: of the checkpoint's fusion, of the item head, or the likelihood of titles, normalized
                over the catalog (`"all"`). If not given, the first of these that the checkpoint has.

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, float64, in catalog order; `exp` of each row sums to 1.

        Raises:
            ValueError, TypeError, KeyError, FloatingPointError: As [`~PatchRecommender.recommend`] does.
        """
        if method is None:
            default = default_method(self.model, self.processor)
            chosen: Method = "all" if default == "exact" else default
        elif method not in ("fusion", "item", "all"):
            raise ValueError(f"`method` must be 'fusion', 'item' or 'all', which score every item, got {method!r}.")
        else:
            chosen = method
        is_single, batch = as_batch(histories)
        if is_single:
            raise TypeError(f"`log_probs` takes a batch of histories: `log_probs([history])`, got {histories!r}.")
        processor = self.processor
        found = find_items(batch, processor.catalog, processor.title_tokens, processor.tokenizer)
        prompts = self._prompts(found, as_timestamps(timestamps, batch, is_single=False), layout=None)
        normalizer: Normalizer | None = "catalog" if chosen == "all" else None
        config = RankingConfig(k=1, method=chosen, batch_size=batch_size, normalizer=normalizer)
        ranker = CatalogRanker(self.model, processor, config, self.scorer_for(chosen))
        return log_softmax(ranker.score(prompts, times=None if times is None else as_moments(times, len(batch))))

    def _prompts(
        self, found: CatalogHistories, timestamps: list[np.ndarray] | None, layout: Layout | None
    ) -> LazySequence[EncodedHistory]:
        def encode(row: int) -> EncodedHistory:
            times = None if timestamps is None else timestamps[row]
            return self.processor.encode(found.items[row], layout=layout, titles=found.titles, timestamps=times)

        return LazySequence(len(found.items), encode)

    @torch.no_grad()
    def similar_items(self, item: Item, k: int = 10) -> list[Recommendation]:
        """
        Finds the items whose vectors are most similar to an item's, by cosine. The vectors are the item head's. They
        are computed once.

        Args:
            item (`int`, `str` or [`Title`]):
                An item, as in the histories of [`~PatchRecommender.recommend`].
            k (`int`, *optional*, defaults to `10`):
                Number of items; the item itself is left out.

        Returns:
            `list[Recommendation]`: most similar first; the score is the cosine.

        Raises:
            ValueError: If the model has no item head, or `k` is less than 1.
            KeyError: If the catalog lacks the id, or has no such title.

        Example:
        ```python
        >>> recommender.similar_items("A Study in Scarlet", k=3)
        ```
        """
        check_k(k)
        catalog, scorer = self.processor.catalog, self.item_scorer
        _, batch = as_batch([item])
        if len(batch[0]) != 1:
            raise TypeError(f"`similar_items` takes one item, got {item!r}.")
        found = find_items(batch, catalog, self.processor.title_tokens, self.processor.tokenizer)
        (index,), (indices,) = found.items[0], found.matches
        if index < len(catalog):
            vector = scorer.item_vectors[index]
        else:
            vector = item_vectors_of(self.model, self.processor, found.items[0], found.titles)[0]
        cosines = scorer.cosines(vector)
        cosines[indices] = -np.inf
        (items,), (scores,) = best_items(cosines[None], min(k, len(catalog)))
        return [
            self.recommendation(index, score, True) for index, score in zip(items, scores, strict=True) if index >= 0
        ]
