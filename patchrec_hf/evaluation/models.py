"""Evaluation of models: ranks each target among the whole catalog."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
from accelerate import PartialState
from datasets import Dataset

from ..data.row_facts import warn_of_other_max_history
from ..data.rows import TIMES_COLUMN
from ..runtime.best_items import best_items
from ..runtime.catalog import Catalog
from ..runtime.configuration import Normalizer
from ..runtime.encoding import EncodedHistory
from ..runtime.layouts import Layout, check_layout
from ..runtime.lazy_sequence import LazySequence
from ..runtime.log_probs import log_softmax
from ..runtime.modeling import PatchRecForCausalLM
from ..runtime.processing import PatchRecProcessor
from ..runtime.ranking import CatalogRanker, default_method
from ..runtime.ranking_config import ITEM_METHODS, Method, RankingConfig
from ..runtime.sharding import is_sharded
from ..runtime.trie import TitleTrie, build_trie
from .parts import run_in_parts
from .protocol import PROTOCOLS, RELEASE_MATCHING, STRICT_PROTOCOL, EvaluationProtocol, find_protocol
from .report import COUNT_COLUMNS, RESULT_SCHEMA, EvaluationReport, result_dtype
from .score_ranks import TitleGroups
from .scorers import missing_times
from .targets import find_targets, seen_items
from .title_lists import TitleLists
from .top_lists import LIST_LENGTH, fill_top, log_probs_of, places_of


def evaluate_model(
    model: PatchRecForCausalLM,
    processor: PatchRecProcessor,
    dataset: Dataset,
    layout: Layout | None = None,
    seed: int = 0,
    k: int | None = 20,
    method: Method | None = None,
    num_beams: int | None = None,
    length_penalty: float = 0.0,
    max_title_tokens: int | None = None,
    normalizer: Normalizer | None = None,
    temperature: float | None = None,
    protocol: EvaluationProtocol | Literal["strict", "release", "release-matching"] = "strict",
    exclude_seen: bool = False,
    max_rows: int | None = None,
    train_dataset: Dataset | None = None,
    keep_rankings: bool = False,
    batch_size: int = 8,
    resume_dir: str | Path | None = None,
    show_progress: bool = True,
    max_tokens: int | None = None,
) -> EvaluationReport:
    """
    Ranks the catalog for each target of a data set, and looks up the target's rank. Under a launcher, every process
    ranks a share of the targets and returns all results.

    Args:
        model ([`PatchRecForCausalLM`]):
            The model.
        processor ([`PatchRecProcessor`]):
            The model's processor.
        dataset ([`~datasets.Dataset`]):
            Rows (see [`Row`]).
        layout ([`Layout`], *optional*):
            Overrides the processor's layout.
        seed (`int`, *optional*, defaults to `0`):
            Seed of a random layout.
        k (`int`, *optional*, defaults to `20`):
            Number of titles to rank; several items can share a title. `None` ranks the whole catalog, for which the
            model reads every title (method `"all"`). The methods `"item"` and `"fusion"` always rank the whole
            catalog. For the method `"diverse"`, the number of groups. Its report has metrics at the cut-off k only.
        method (`str`, *optional*):
            See [`RankingConfig`]. If not given, `"diverse"` if the protocol is `"release"`. If the protocol is strict,
            `"fusion"` if the processor has one, or `"item"` if the model has an item head. Otherwise `"exact"`.
        num_beams, length_penalty, max_title_tokens, normalizer, temperature:
            See [`RankingConfig`].
        protocol ([`EvaluationProtocol`] or one of these names, *optional*, defaults to `"strict"`):
            Decides when a ranked title counts as the target: `"strict"` ([`STRICT_PROTOCOL`]), or
            `"release-matching"` ([`RELEASE_MATCHING`]), the rules of the released code. `"release"` is the release's
            whole evaluation: the same rules, and its decoding (the method `"diverse"`).
        exclude_seen (`bool`, *optional*, defaults to `False`):
            Whether to leave out items of the history. The target itself is never left out.
        max_rows (`int`, *optional*):
            Number of rows to rank, evenly spaced over the data set. All if not given.
        train_dataset ([`~datasets.Dataset`], *optional*):
            The rows that the model learned from. If given, the report has separate slices for warm and cold targets.
        keep_rankings (`bool`, *optional*, defaults to `False`):
            Whether the report's `targets` also hold the ranked item ids, in the column `ranked_ids`.
        batch_size (`int`, *optional*, defaults to `8`):
            Histories per forward; bounds the memory.
        resume_dir (`str` or `pathlib.Path`, *optional*):
            Directory for finished parts. An interrupted evaluation resumes when it gets the same directory. Use one
            directory per model, and delete it after saving the report.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar, on the main process.
        max_tokens (`int`, *optional*):
            Most positions of a history, if the processor's layout is a [`BudgetLayout`]: another budget than the
            layout's own.

    Returns:
        [`EvaluationReport`]

    Raises:
        ValueError: If the data set is empty, a number is out of range, model and processor were not made for each
            other, the layout has no budget for `max_tokens`, rows have no timestamps that are read, or
            [`CatalogRanker`] raises it.
        FileExistsError: If `resume_dir` holds parts of an evaluation of other targets, or with other arguments.
        KeyError: If the catalog lacks an item.
        TypeError: If the backbone cannot attend to a tree, or `layout` is no layout.
        FloatingPointError: If a score of the model is not a number.
        RuntimeError: If a launcher started several processes, but they do not know of each other.
    """
    if not isinstance(processor, PatchRecProcessor):
        raise TypeError(f"`processor` must be a `PatchRecProcessor`, got `{type(processor).__name__}`.")
    check_layout(layout)
    if max_tokens is not None:
        layout = processor.layout_within(max_tokens, layout)
    if protocol == "release":
        if method not in (None, "diverse"):
            raise ValueError(
                f"`protocol='release'` decodes by the method 'diverse', got `method={method!r}`. Leave out `method`, "
                "or use `protocol='release-matching'`, which goes with any method that ranks titles."
            )
        method, protocol = "diverse", RELEASE_MATCHING
    elif isinstance(protocol, str) and protocol not in PROTOCOLS:
        names = ", ".join(map(repr, ["release", *PROTOCOLS]))
        raise ValueError(f"`protocol` must be one of {names}, got {protocol!r}.")
    protocol = find_protocol(protocol)
    model.check_processor(processor)
    if method is None:  # other protocols compare titles
        method = default_method(model, processor) if protocol == STRICT_PROTOCOL else "exact"
    if method == "diverse" and protocol.credit_items:
        raise ValueError(
            "The method 'diverse' can list a title several times, so it needs a protocol that matches titles: "
            "`protocol='release'`."
        )
    if method == "diverse" and k is None:
        raise ValueError("The method 'diverse' decodes k titles, so `k` must be a number, got None.")
    if method in ITEM_METHODS and protocol != STRICT_PROTOCOL:
        raise ValueError(
            f"The method {method!r} ranks items, so it needs `protocol='strict'`; other ones compare titles."
        )
    targets = find_targets(dataset, processor.catalog, max_rows, train_dataset)
    if method == "fusion" and processor.fusion is not None and processor.fusion.reads_times and targets.times is None:
        raise missing_times("The fusion's part 'popularity'")
    if processor.reads_timestamps(layout) and targets.times is None:
        raise processor.missing_timestamps(f"the data set to rank has no column `{TIMES_COLUMN}`", layout)
    warn_of_other_max_history(dataset, processor.max_history)
    synchronize = PartialState().num_processes > 1 and is_sharded(model)

    def config_of(method: Method, k: int) -> RankingConfig:
        return RankingConfig(
            k,
            method,
            num_beams,
            length_penalty,
            max_title_tokens,
            batch_size,
            synchronize,
            normalizer=normalizer,
            temperature=temperature,
        )

    title_temperature: float | None = None
    if method in ITEM_METHODS:
        k = len(processor.catalog) if k is None else min(k, len(processor.catalog))
        config = config_of(method, k)
        ranks: _RanksByItem | _RanksByTitle
        ranks = _RanksByItem(CatalogRanker(model, processor, config), processor.catalog)
        depth: float = math.inf
    else:
        titles = TitleLists(_trie_of(processor, protocol), processor.catalog.titles, protocol)
        method = "all" if k is None and method == "exact" else method
        if k is None:
            k = titles.num_titles
        elif method != "diverse":
            k = min(k, titles.num_titles)
        config = config_of(method, k)
        ranker = CatalogRanker.from_trie(model, titles.trie, processor.prompt.pad_id, config)
        title_temperature = config.title_temperature(model.config)
        ranks = _RanksByTitle(ranker, titles, shares_probability=title_temperature is not None)
        depth = k if method == "diverse" or k < titles.num_titles else math.inf
    # Nothing can be proven about the method's lists, so `is_exact` stays null.
    columns = [name for name in RESULT_SCHEMA if name != "is_exact" or method != "diverse"]
    # Title lists hold the logarithms of probabilities, unless they are divided by lengths or matched by other rules.
    has_log_probs = method == "item" or (method != "diverse" and length_penalty == 0 and protocol == STRICT_PROTOCOL)
    list_length = min(k, LIST_LENGTH)
    dtype = result_dtype(
        *columns, ranking_length=k if keep_rankings else 0, list_length=list_length, has_log_probs=has_log_probs
    )

    def rank(numbers: np.ndarray) -> np.ndarray:
        histories, items = targets.history_items(numbers), targets.items[numbers]
        timestamps = targets.history_times(numbers) if processor.reads_timestamps(layout) else None
        results = np.empty(len(items), dtype)

        def counted_prompt(row: int) -> EncodedHistory:
            times = None if timestamps is None else timestamps[row]
            prompt = _encode(processor, histories[row], layout, seed, times)
            for name, count, text_count in zip(COUNT_COLUMNS, prompt.counts, prompt.text_counts, strict=True):
                results[name][row], results[f"text_{name}"][row] = count, text_count
            return prompt

        if targets.item_users is not None:
            results["history_users"] = targets.item_users.means(histories)
        prompts = LazySequence(len(items), counted_prompt)
        times = None if targets.times is None else targets.times[numbers]
        ranks.fill(results, prompts, items, seen_items(histories, items) if exclude_seen else None, times)
        return results

    settings = {
        "ranker": "PatchRec",
        "k": k,
        "method": method,
        "num_beams": config.beam_width,
        "length_penalty": length_penalty,
        "max_title_tokens": max_title_tokens,
        "normalizer": None if method in ITEM_METHODS else "vocabulary" if title_temperature is None else "catalog",
        "temperature": title_temperature,
        "protocol": asdict(protocol),
        "exclude_seen": exclude_seen,
        "layout": str(layout or processor.layout),
        "max_history": processor.max_history,
        "max_rows": max_rows,
        "seed": seed,
    }
    if method == "fusion" and processor.fusion is not None:
        settings["fusion"] = processor.fusion.to_dict()["parts"]
    if method == "diverse":
        settings |= {"length_penalty": 1.0, "diversity_penalty": config.diversity_penalty}
        settings |= {"ended_token_id": config.ended_token_id}
    identity = {**settings, **targets.checksum(), "keep_rankings": keep_rankings, "list_length": list_length}
    was_training = model.training
    model.eval()
    try:
        results = run_in_parts(rank, len(targets), batch_size, resume_dir, identity, show_progress)
    finally:
        model.train(was_training)
    return targets.report(results, settings, depth, only_at_depth=method == "diverse")


class _RanksByTitle:
    """
    Finds targets among the titles that a model finds most likely. With `shares_probability`, the score of an item is
    the logarithm of its share of the title's probability, and otherwise of the title's whole probability.
    """

    def __init__(self, ranker: CatalogRanker, titles: TitleLists, shares_probability: bool) -> None:
        self._ranker = ranker
        self._titles = titles
        self._shares_probability = shares_probability

    def fill(
        self,
        results: np.ndarray,
        prompts: Sequence[EncodedHistory],
        items: np.ndarray,
        seen: list[np.ndarray] | None,
        times: np.ndarray | None,
    ) -> None:
        """Writes the ranks of the targets `items`, and how they were found. `seen` items are left out."""
        titles = self._titles
        lists = titles.all(len(items)) if seen is None else titles.without(seen, items)
        ranking = self._ranker.rank(prompts, candidates=[allowed.representatives for allowed in lists])
        results["item_rank"], results["title_rank"], results["num_ties"] = titles.find(lists, ranking.items, items)
        results["tokens_read"] = ranking.tokens_read
        names = results.dtype.names or ()
        if "is_exact" in names:
            results["is_exact"] = ranking.is_exact
        if "ranked_items" in names:
            results["ranked_items"] = ranking.items
        places = results["title_rank"]
        if "top_log_probs" in names:
            # Items of one title share its probability, also those that are left out of the list.
            trie = titles.trie
            log_num_sharers = np.log(trie.num_items_at(trie.leaf_of_item[ranking.items]))
            of_titles = ranking.scores + (log_num_sharers if self._shares_probability else 0)
            own = np.full(len(items), np.nan)
            rows = np.flatnonzero(np.isfinite(places))
            columns = places[rows].astype(np.int64) - 1
            own[rows] = (of_titles - log_num_sharers)[rows, columns]
            fill_top(results, ranking.items, places, of_titles, own)
        else:
            fill_top(results, ranking.items, places)


class _RanksByItem:
    """Finds targets among the items that a model's item head, or a fusion, scores best."""

    def __init__(self, ranker: CatalogRanker, catalog: Catalog) -> None:
        self._ranker = ranker
        self._titles = TitleGroups.from_catalog(catalog)

    def fill(
        self,
        results: np.ndarray,
        prompts: Sequence[EncodedHistory],
        items: np.ndarray,
        seen: list[np.ndarray] | None,
        times: np.ndarray | None,
    ) -> None:
        """As [`_RanksByTitle.fill`] does."""
        # A few targets at a time, because every item of the catalog has a score.
        for rows, scores in self._ranker.score_in_parts(prompts, times=times):
            part, own = results[rows], items[rows]  # a copy, which holds what the prompts have counted
            allowed = np.ones(scores.shape, dtype=bool)
            if seen is not None:
                for place, row in enumerate(rows.tolist()):
                    allowed[place, seen[row]] = False
            part["item_rank"], part["title_rank"], part["num_ties"] = self._titles.ranks(scores, own, allowed)
            part["is_exact"], part["tokens_read"] = True, 0
            best, _ = best_items(np.where(allowed, scores, -np.inf), self._ranker.config.k)
            if "ranked_items" in (results.dtype.names or ()):
                part["ranked_items"] = best
            fill_top(part, best, places_of(best, own), *log_probs_of(log_softmax(scores), best, own))
            results[rows] = part


def _trie_of(processor: PatchRecProcessor, protocol: EvaluationProtocol) -> TitleTrie:
    if protocol.complete_prefixes:
        return processor.trie
    return build_trie(processor.title_tokens, processor.prompt.end_of_turn_id, complete_prefixes=False)


def _encode(
    processor: PatchRecProcessor, history: np.ndarray, layout: Layout | None, seed: int, timestamps: np.ndarray | None
) -> EncodedHistory:
    # A random layout draws as in a collator outside training, where the step is 0.
    read = history[-processor.max_history :]
    return processor.encode(
        history, layout=layout, seed=(seed, 0, processor.title_tokens.checksum(read)), timestamps=timestamps
    )
