"""Ranking: the k items of the catalog that the model finds most likely, by titles, by the item head or by a fusion."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import torch
from peft import PeftModel

from .adapters import without_wrapper
from .allowed_items import AllowedRows, ItemSet, keep_allowed
from .attention import maskable_attention
from .best_items import best_items, best_of_rows, rows_at_once
from .catalog import Catalog
from .diverse_search import search_diverse
from .fusion_scorer import FusionScorer, PartRows
from .item_scorer import BestRows, ItemScorer, ScoredRows
from .lazy_sequence import LazySequence
from .modeling import PatchRecForCausalLM
from .prefixes import length_divisors
from .processing import PatchRecProcessor
from .progress import progress_bar
from .ranking_config import ITEM_METHODS, Method, RankingConfig
from .read_histories import PromptToRank
from .score_ties import model_tie_width
from .search import FoundTitles, SearchRequest, score_all_titles, search_titles
from .sharding import gathered_root
from .tree_reader import TreeReader
from .trie import TitleTrie


_Rows = TypeVar("_Rows", ScoredRows, BestRows, PartRows)

_TOKENS_PER_FORWARD = {"exact": 64, "all": 512}  # beams read one token each


@dataclass(frozen=True, eq=False)
class CatalogRanking:
    """
    The best items for each of B histories.

    Args:
        items (`numpy.ndarray` of shape `(B, k)`, int64):
            Catalog indices, best first; each item at most once. Equal scores are in catalog order. By titles, items
            with the same title have the same score. -1 if fewer than k items may be recommended. For the method
            `"diverse"`, the first allowed item of each title; an item stands as often as its title.
        scores (`numpy.ndarray` of shape `(B, k)`, float64):
            Σ log p(title tokens + end of turn | prompt), over the whole vocabulary or the catalog, divided by the
            length if there is a `length_penalty` (see [`RankingConfig`]). For the method `"item"`, the scores of
            [`ItemScorer`]. For `"fusion"`, log-probabilities over the whole catalog (see [`FusionScorer`]). For
            `"diverse"`, the mean of the penalized log-probabilities (see [`search_diverse`]).
            -infinity where `items` is -1.
        is_exact (`numpy.ndarray` of shape `(B,)`, bool):
            Whether the list is proven to be the exact top k by these scores.
        ends_in_tie (`numpy.ndarray` of shape `(B,)`, bool):
            Whether the list leaves out an allowed item that ties with its last one (see [`model_tie_width`]). Other
            lists are then equally good, and the order of the catalog has chosen this one. Also true if a dropped
            prefix may lead to such an item. For the method `"diverse"`, always false.
        tokens_read (`numpy.ndarray` of shape `(B,)`, int64):
            Number of title tokens that the model read to find the list.
        kv_length (`numpy.ndarray` of shape `(B,)`, int64):
            Largest number of keys and values that a layer's head held at once, for the prompt and the titles. For the
            methods `"item"` and `"fusion"`, the length of the prompt.
    """

    items: np.ndarray
    scores: np.ndarray
    is_exact: np.ndarray
    ends_in_tie: np.ndarray
    tokens_read: np.ndarray
    kv_length: np.ndarray


class CatalogRanker:
    """
    Ranks the catalog for encoded histories by score(item) = Σ log p(title tokens + end of turn | prompt), by the
    model's item head, or by the processor's fusion.

    Args:
        model ([`PatchRecForCausalLM`] or [`~peft.PeftModel`]):
            The model, in evaluation mode. If it has an adapter, the two rank together.
        processor ([`PatchRecProcessor`]):
            The model's processor. All rankers use its title trie, which is built only once.
        config ([`RankingConfig`], *optional*):
            How to rank.
        item_scorer ([`ItemScorer`], *optional*):
            For the methods `"item"` and `"fusion"`: a scorer of this model and processor, which has computed its item
            vectors. A new one if not given.

    Raises:
        ValueError: If model and processor were not made for each other, if the method is `"item"` and the model has no
            item head, if the method is `"fusion"` and the processor has no fusion, if k is above the number of items
            whose titles can be spelled, if the titles were tokenized for another model, or if there is a temperature
            and titles are scored over the vocabulary.

    Example:
    ```python
    >>> ranker = CatalogRanker(model, processor, RankingConfig(k=10))
    >>> ranking = ranker.rank([processor.encode(processor.catalog.indices_of([3, 14]))])
    >>> processor.catalog.item_ids[ranking.items[0]]
    ```
    """

    _scorer: ItemScorer | FusionScorer | None = None
    _catalog: Catalog | None = None

    def __init__(
        self,
        model: PatchRecForCausalLM | PeftModel,
        processor: PatchRecProcessor,
        config: RankingConfig | None = None,
        item_scorer: ItemScorer | None = None,
    ) -> None:
        model = without_wrapper(model)
        model.check_processor(processor)
        self._prepare(model, processor.trie, processor.prompt.pad_id, config)
        self._catalog = processor.catalog
        if self.config.method == "item":
            self._scorer = ItemScorer(model, processor) if item_scorer is None else item_scorer
        elif self.config.method == "fusion":
            self._scorer = FusionScorer(model, processor, self._score_titles, item_scorer)
            self._temperature = self._scorer.title_temperature

    @classmethod
    def from_trie(
        cls, model: PatchRecForCausalLM, trie: TitleTrie, pad_id: int, config: RankingConfig | None = None
    ) -> CatalogRanker:
        """
        Makes a ranker for titles that do not come from a processor.

        Args:
            model ([`PatchRecForCausalLM`]):
                The model, in evaluation mode.
            trie ([`TitleTrie`]):
                The titles.
            pad_id (`int`):
                Token that pads short prompts.
            config ([`RankingConfig`], *optional*):
                How to rank, by titles.

        Raises:
            ValueError: If the method is `"item"` or `"fusion"`, or the titles were tokenized for another model.
        """
        if config is not None and config.method in ITEM_METHODS:
            raise ValueError(
                f"The method {config.method!r} needs the items of a processor: use `CatalogRanker(model, processor)`."
            )
        ranker = cls.__new__(cls)
        ranker._prepare(without_wrapper(model), trie, pad_id, config)
        return ranker

    def _prepare(self, model: PatchRecForCausalLM, trie: TitleTrie, pad_id: int, config: RankingConfig | None) -> None:
        config = RankingConfig() if config is None else config
        if not isinstance(config, RankingConfig):
            raise TypeError(f"`config` must be a `RankingConfig`, got {config!r}.")
        num_items, vocab_size = len(trie.items), model.config.decoder_config.vocab_size
        if config.k > num_items and config.method != "diverse":  # a diverse list may hold a title several times
            raise ValueError(f"`k` must lie between 1 and the catalog's {num_items} items, got {config.k}.")
        if trie.largest_token >= vocab_size:
            raise ValueError(
                f"The titles hold token {trie.largest_token}, but the model's vocabulary has {vocab_size} tokens: "
                "they were tokenized for another model."
            )
        length_divisors(trie, config.length_penalty)  # a penalty that is too large raises now
        self._temperature = config.title_temperature(model.config)
        self.model = model
        self.trie = trie
        self.config: RankingConfig = config
        self._pad_id = pad_id

    def rank(
        self,
        prompts: Sequence[PromptToRank],
        candidates: Sequence[np.ndarray | ItemSet] | None = None,
        excluded: Sequence[np.ndarray] | None = None,
        show_progress: bool = False,
        times: np.ndarray | None = None,
        on_tie: Callable[[int, np.ndarray], None] | None = None,
    ) -> CatalogRanking:
        """
        Finds the best items for each prompt.

        Args:
            prompts (`Sequence[PromptToRank]`):
                B histories, encoded or read; responses, if any, are ignored. A [`LazySequence`] makes each prompt
                once, when the model has room for it.
            candidates (`Sequence[numpy.ndarray | ItemSet]`, *optional*):
                For each prompt, the items that may be recommended, as catalog indices or as an [`ItemSet`]; all if not
                given.
            excluded (`Sequence[numpy.ndarray]`, *optional*):
                For each prompt, the catalog indices that may not be recommended.
            show_progress (`bool`, *optional*, defaults to `False`):
                Whether to show a progress bar.
            times (`numpy.ndarray` of shape `(B,)`, int64, *optional*):
                For the method `"fusion"`: the moment of asking of each history, in seconds since 1970 UTC. Parts that
                count by time read it; other methods do not.
            on_tie (`Callable[[int, numpy.ndarray], None]`, *optional*):
                Called for each prompt whose list ends in a tie, with its number and the catalog indices of the items
                that the list leaves out although they tie with its last one. Only methods that rank titles call it.

        Returns:
            [`CatalogRanking`]

        Raises:
            ValueError: If there is no prompt, if a prompt is longer than the model's context, if an index lies outside
                the catalog, or if a prompt has no item that may be recommended.
            TypeError: If the backbone cannot attend to a tree (recurrent or ALiBi models).
            FloatingPointError: If the model's scores are not numbers.
        """
        config, trie = self.config, self.trie
        allowed = AllowedRows(trie, len(prompts), candidates, excluded)
        allowed.check()  # a bad row raises before the model has ranked for hours
        if self._scorer is not None:
            return self._rank_items(prompts, allowed, show_progress, times)
        shape = (len(prompts), config.k)
        ranking = CatalogRanking(
            np.full(shape, -1),
            np.full(shape, -np.inf),
            *(np.zeros(len(prompts), dtype=dtype) for dtype in (bool, bool, np.int64, np.int64)),
        )

        def collect(found: FoundTitles) -> None:
            row, own = found.request.row, found.request.allowed
            if config.method == "diverse":
                best = _first_items(trie, found.leaves, own), found.scores
            else:
                items, scores, tied = _top_k(trie, found.leaves, found.scores, own, config.k)
                best, last = (items, scores), scores[-1]
                ranking.ends_in_tie[row] = len(tied) > 0 or -np.inf < last - model_tie_width(last) < found.dropped
                if len(tied) > 0 and on_tie is not None:
                    on_tie(row, tied)
            ranking.items[row], ranking.scores[row] = best
            ranking.is_exact[row] = found.dropped <= best[1][-1]
            ranking.tokens_read[row], ranking.kv_length[row] = found.tokens_read, found.kv_length

        self._search(prompts, allowed, config.method, show_progress, collect)
        return ranking

    def _rank_items(
        self,
        prompts: Sequence[PromptToRank],
        allowed: Sequence[ItemSet],
        show_progress: bool,
        times: np.ndarray | None,
    ) -> CatalogRanking:
        items = np.full((len(prompts), self.config.k), -1)
        scores = np.full(items.shape, -np.inf)
        lengths = np.zeros(len(prompts), dtype=np.int64)
        ends_in_tie = np.zeros(len(prompts), dtype=bool)

        def measured(row: int) -> PromptToRank:
            prompt = prompts[row]
            lengths[row] = prompt.history_end + 1
            return prompt

        k = self.config.k
        num_asked = min(k + 1, self.trie.num_items)  # the item after the last one shows whether the list ends in a tie
        asked = LazySequence(len(prompts), measured)
        for rows, best, best_scores in self._best_items(asked, allowed, num_asked, show_progress, times):
            items[rows], scores[rows] = best[:, :k], best_scores[:, :k]
            ends_in_tie[rows] = end_in_tie(best_scores, best_scores[:, :k])
        is_exact, tokens_read = np.ones(len(items), dtype=bool), np.zeros(len(items), np.int64)
        return CatalogRanking(items, scores, is_exact, ends_in_tie, tokens_read, lengths)

    def _best_items(
        self,
        prompts: Sequence[PromptToRank],
        allowed: Sequence[ItemSet],
        k: int,
        show_progress: bool,
        times: np.ndarray | None,
    ) -> Iterator[BestRows]:
        scorer, nest = self._scorer, not self.config.synchronize
        if isinstance(scorer, ItemScorer):
            found = scorer.best(prompts, k, allowed, self.config.batch_size, nest)
            yield from self._in_progress(found, len(prompts), show_progress)
            return
        # A fusion's scores are normalized over the catalog, so all of them are computed.
        for rows, scores in self._score_items(prompts, show_progress, times):
            for own, row in zip(scores, rows.tolist(), strict=True):
                keep_allowed(own, allowed[row])
            yield BestRows(rows, *best_items(scores, k))

    def _score_items(
        self, prompts: Sequence[PromptToRank], show_progress: bool, times: np.ndarray | None
    ) -> Iterator[ScoredRows]:
        scorer, batch_size = self._scorer, self.config.batch_size
        # Processes with sharded weights must run equally many forwards, so no prompt is read with another one.
        nest = not self.config.synchronize
        if isinstance(scorer, FusionScorer):
            yield from self._in_progress(scorer.score(prompts, times, batch_size, nest), len(prompts), show_progress)
        else:
            scored = cast(ItemScorer, scorer).score(prompts, batch_size, nest)
            yield from self._in_progress(scored, len(prompts), show_progress)

    def _in_progress(self, scored: Iterator[_Rows], num_prompts: int, show_progress: bool) -> Iterator[_Rows]:
        """Yields scores while the root's weights are gathered, and shows how many prompts are done."""
        if num_prompts == 0:
            raise ValueError("There is nothing to rank: no prompt was given.")
        with (
            gathered_root(self.model),
            progress_bar(show_progress, total=num_prompts, desc="Ranking", unit="history") as progress,
        ):
            for part in scored:
                yield part
                progress.update(len(part.rows))

    def score_in_parts(
        self, prompts: Sequence[PromptToRank], show_progress: bool = False, times: np.ndarray | None = None
    ) -> Iterator[ScoredRows]:
        """
        Scores every item of the catalog as [`CatalogRanker.score`] does, for a few prompts at a time, so that the
        scores of all prompts never stand in memory together.

        Args:
            prompts, show_progress, times:
                See [`CatalogRanker.rank`].

        Yields:
            [`ScoredRows`] in any order, until all prompts are scored.

        Raises:
            ValueError, TypeError, FloatingPointError: As [`CatalogRanker.rank`] does.
        """
        if self._scorer is not None:
            yield from self._score_items(prompts, show_progress, times)
            return
        at_once = max(rows_at_once(self.trie.num_items), self.config.batch_size)
        for start in range(0, max(len(prompts), 1), at_once):
            scores = self._score_titles(prompts[start : start + at_once], show_progress)
            yield ScoredRows(np.arange(start, start + len(scores)), scores)

    def score(
        self, prompts: Sequence[PromptToRank], show_progress: bool = False, times: np.ndarray | None = None
    ) -> np.ndarray:
        """
        Scores every item of the catalog for each prompt.

        Args:
            prompts, show_progress, times:
                See [`CatalogRanker.rank`].

        Returns:
            `numpy.ndarray` of shape `(B, num_items)`, float32, by catalog index: Σ log p(title tokens + end of turn |
            prompt), divided by the length if there is a `length_penalty`; -infinity for titles that the trie cannot
            spell. With `normalizer="catalog"` and without a penalty, the exponentials of a row sum to 1. For the
            method `"item"`, the scores of [`ItemScorer`]. For the method `"fusion"`, float64: log-probabilities over
            the whole catalog, so that the exponentials of a row sum to 1.

        Raises:
            ValueError, TypeError, FloatingPointError: As [`CatalogRanker.rank`] does.
        """
        if self._scorer is None:
            return self._score_titles(prompts, show_progress)
        dtype = np.float64 if self.config.method == "fusion" else np.float32
        scores = np.empty((len(prompts), self.trie.num_items), dtype=dtype)
        for rows, part in self._score_items(prompts, show_progress, times):
            scores[rows] = part
        return scores

    def score_parts(
        self, prompts: Sequence[PromptToRank], show_progress: bool = False, times: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """
        Scores every item of the catalog by each part of a fusion alone.

        Args:
            prompts, show_progress, times:
                See [`CatalogRanker.rank`].

        Returns:
            `dict[str, numpy.ndarray]`: for each part, log-probabilities over the catalog; float32, shape
            `(B, num_items)`.

        Raises:
            ValueError: If the method is not `"fusion"`, or as [`CatalogRanker.rank`] does.
            TypeError, FloatingPointError: As [`CatalogRanker.rank`] does.
        """
        scorer = self._scorer
        if not isinstance(scorer, FusionScorer):
            raise ValueError(f"`score_parts` needs a ranker with `method='fusion'`, got {self.config.method!r}.")
        shape = (len(prompts), self.trie.num_items)
        scores = {name: np.empty(shape, dtype=np.float32) for name in scorer.fusion.parts}
        parts = scorer.parts(prompts, times, self.config.batch_size, nest=not self.config.synchronize)
        for rows, log_probs in self._in_progress(parts, len(prompts), show_progress):
            for name, array in log_probs.items():
                scores[name][rows] = array
        return scores

    def _score_titles(self, prompts: Sequence[PromptToRank], show_progress: bool = False) -> np.ndarray:
        trie = self.trie
        scores = np.full((len(prompts), trie.num_items), -np.inf, dtype=np.float32)

        def collect(found: FoundTitles) -> None:
            leaves, items = trie.items_at(found.leaves)
            scores[found.request.row, items] = found.scores[leaves]

        self._search(prompts, AllowedRows(trie, len(prompts)), "all", show_progress, collect)
        return scores

    def check_backbone(self) -> None:
        """
        Checks that the backbone can rank by this method, before histories are read.

        Raises:
            TypeError: If the method scores titles, and the backbone cannot attend to a tree (recurrent or ALiBi
                models).
        """
        by_titles = self.config.method not in ITEM_METHODS
        if by_titles or (isinstance(self._scorer, FusionScorer) and "titles" in self._scorer.fusion.parts):
            with gathered_root(self.model):
                self._check_backbone()

    def _check_backbone(self) -> None:
        if not self.model.supports_tree_attention():
            raise TypeError(
                f"{type(self.model.model.language_model).__name__} cannot attend to a tree of titles: its state or "
                "its positions do not follow the attention mask. Use a backbone with attention and position ids."
            )

    @torch.no_grad()
    def _search(
        self,
        prompts: Sequence[PromptToRank],
        allowed: Sequence[ItemSet],
        method: Method,
        show_progress: bool,
        collect: Callable[[FoundTitles], None],
    ) -> None:
        """Searches titles for each prompt, and calls `collect` with the result, in any order of the prompts."""
        if not prompts:
            raise ValueError("There is nothing to rank: no prompt was given.")
        config, model = self.config, self.model
        if not isinstance(prompts, LazySequence):  # a bad row raises before the model has ranked for hours
            for row, prompt in enumerate(prompts):
                self._check_length(row, prompt)

        def requests() -> Iterator[SearchRequest]:
            for row in range(len(prompts)):
                prompt = prompts[row]
                self._check_length(row, prompt)
                yield SearchRequest(row, prompt, allowed[row])

        with (
            gathered_root(model),
            maskable_attention(model, model.model.language_model),
            progress_bar(show_progress, total=len(prompts), desc="Ranking", unit="history") as progress,
        ):
            self._check_backbone()
            reader = TreeReader(model, self.trie, self._pad_id, config.synchronize, self._temperature)
            if method == "all":
                results = score_all_titles(
                    reader, requests(), config.batch_size, _TOKENS_PER_FORWARD["all"], config.length_penalty
                )
            elif method == "diverse":
                results = search_diverse(
                    reader,
                    requests(),
                    config.batch_size,
                    num_groups=config.k,
                    diversity_penalty=config.diversity_penalty,
                    ended_token_id=config.ended_token_id,
                )
            else:
                results = search_titles(
                    reader,
                    requests(),
                    config.batch_size,
                    config.k,
                    num_beams=config.beam_width,
                    max_title_tokens=config.max_title_tokens,
                    tokens_per_wave=_TOKENS_PER_FORWARD["exact"],
                    length_penalty=config.length_penalty,
                )
            for found in results:
                collect(found)
                progress.update()

    def _check_length(self, row: int, prompt: PromptToRank) -> None:
        length, limit = prompt.prompt_length + self.trie.max_depth, self.model.max_length
        if limit is None or length <= limit:
            return
        remedy = "Lower the processor's `max_history`, or choose a layout that compresses more."
        if self.trie.max_depth > prompt.prompt_length:
            remedy = f"Most of them are the longest title{self._longest_title}. Shorten it, or leave its item out."
        raise ValueError(
            f"The prompt of row {row} takes {length} tokens with a title, but the model reads at most {limit}. "
            f"{remedy}"
        )

    @property
    def _longest_title(self) -> str:
        """The item with the longest title, for an error message; empty if only tokens of titles are known."""
        if self._catalog is None:
            return ""
        _, (item, *_) = self.trie.items_at(np.array([self.trie.depths.argmax()]))
        return f" ({self._catalog.name_item(item)})"


def default_method(model: PatchRecForCausalLM, processor: PatchRecProcessor) -> Method:
    """
    Returns the method by which a checkpoint ranks if none is chosen: `"fusion"` if it holds one, else `"item"` if the
    model has an item head, else `"exact"`.
    """
    if processor.fusion is not None:
        return "fusion"
    return "exact" if model.item_head is None else "item"


def end_in_tie(scores: np.ndarray, best_scores: np.ndarray) -> np.ndarray:
    """
    Finds the lists that leave out an item which ties with their last one.

    Args:
        scores (`numpy.ndarray` of shape `(B, n)`):
            A model's scores of all items, or of more than k of the best; -infinity for those that may not be
            recommended.
        best_scores (`numpy.ndarray` of shape `(B, k)`):
            The k best of them, best first; -infinity after the end of a shorter list.

    Returns:
        `numpy.ndarray` of shape `(B,)`, bool.
    """
    last = best_scores[:, -1]
    num_good = (scores >= (last - model_tie_width(last))[:, None]).sum(axis=1)
    return np.isfinite(last) & (num_good > best_scores.shape[1])


def _top_k(
    trie: TitleTrie, leaves: np.ndarray, scores: np.ndarray, allowed: ItemSet, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Returns the k best allowed items of one user, and their scores, each of shape `(k,)`, and the allowed items that
    tie with the last of them, but are not among them.
    """
    numbers, items = trie.items_at(leaves)
    scores = scores[numbers]
    is_allowed = allowed.holds(items)
    items, scores = items[is_allowed], scores[is_allowed]
    (best,), (best_scores,) = best_of_rows(np.zeros(len(items), dtype=np.int64), items, scores, 1, k)
    last = best_scores[-1]
    if len(items) <= k:
        return best, best_scores, items[:0]
    return best, best_scores, np.setdiff1d(items[scores >= last - model_tie_width(last)], best)


def _first_items(trie: TitleTrie, leaves: np.ndarray, allowed: ItemSet) -> np.ndarray:
    """Returns the first allowed item of each leaf, shape `(n,)`."""
    numbers, items = trie.items_at(leaves)
    is_allowed = allowed.holds(items)
    numbers, items = numbers[is_allowed], items[is_allowed]
    return items[np.unique(numbers, return_index=True)[1]]
