"""Fits the fusion of a checkpoint: counts what its parts need, and weighs all parts on validation targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import cast

import numpy as np
from datasets import Dataset
from peft import PeftModel

from ..baselines.co_visitation import CoVisitation
from ..baselines.fusion_weights import MAX_STEPS, fit_weights, max_rows_to_fit
from ..baselines.popularity import Popularity
from ..baselines.transitions import MAX_NEIGHBORS, Transitions
from ..data.rows import TIMES_COLUMN
from ..evaluation.scorers import missing_times
from ..evaluation.targets import Targets, find_targets
from ..runtime.adapters import without_wrapper
from ..runtime.attention import maskable_attention
from ..runtime.encoding import EncodedHistory
from ..runtime.fusion import Fusion
from ..runtime.fusion_parts import (
    PART_NAMES,
    ItemHeadPart,
    NeighborPart,
    Part,
    PopularityPart,
    SeenPart,
    SimilarTitlesPart,
    TitlePart,
    check_part_names,
)
from ..runtime.lazy_sequence import LazySequence
from ..runtime.modeling import PatchRecForCausalLM
from ..runtime.processing import PatchRecProcessor
from ..runtime.ranking import CatalogRanker
from ..runtime.ranking_config import RankingConfig
from ..runtime.sharding import gathered_root


_WINDOW = 7
"""Days that the part `"popularity"` counts unless it is given."""


def fit_fusion(
    model: PatchRecForCausalLM | PeftModel,
    processor: PatchRecProcessor,
    train_dataset: Dataset,
    validation: Dataset,
    parts: Sequence[str] | None = None,
    *,
    co_visitation: CoVisitation | None = None,
    transitions: Transitions | None = None,
    popularity: Popularity | None = None,
    max_neighbors: int | None = None,
    max_rows: int | None = None,
    max_steps: int = MAX_STEPS,
    batch_size: int = 64,
    show_progress: bool = True,
) -> PatchRecProcessor:
    """
    Makes a fusion of the model and of what training rows and titles say, and fits its weights on validation rows.
    Neither the model nor the counts have seen these. The weights maximize the likelihood of the validation targets,
    which is a convex problem.

    The counts join after training, not within the softmax while training: they are then as complete for validation
    targets as they will be for later ones, while counts of the training rows hold the targets' own time.

    Args:
        model ([`PatchRecForCausalLM`] or [`~peft.PeftModel`]):
            A trained model.
        processor ([`PatchRecProcessor`]):
            The model's processor.
        train_dataset ([`~datasets.Dataset`]):
            The rows that the model learned from.
        validation ([`~datasets.Dataset`]):
            Validation rows. For a large catalog, evenly spaced rows are read, so that an array of log-probabilities
            holds at most 2²⁵ numbers, or 200 rows if that is more.
        parts (`Sequence[str]`, *optional*):
            Names of the parts (see [`~patchrec_hf.runtime.fusion_parts.PART_NAMES`]):
                - `"titles"`: the likelihood of titles, normalized over the catalog;
                - `"item"`: the item head;
                - `"co_visits"`: co-visitation;
                - `"transitions"`: few hops from item to item, re-ranked by similar titles;
                - `"similar_titles"`: titles that share rare tokens with the history's;
                - `"seen"`: whether the history holds the item;
                - `"popularity"`: how often the item was chosen in the days before the moment of asking.

            If not given, all parts that the model and the data allow: `"titles"` only if the model was last trained on
            titles and its backbone can read a tree of them, `"item"` only if it has an item head, `"popularity"` only
            if it is given or the rows have timestamps.
        co_visitation ([`~patchrec_hf.baselines.CoVisitation`], *optional*):
            Fitted counts. If not given, they are counted here, and their weighting is chosen on `validation`.
        transitions ([`~patchrec_hf.baselines.Transitions`], *optional*):
            Fitted transitions. If not given, they are counted here, and their weighting is chosen on `validation`.
        popularity ([`~patchrec_hf.baselines.Popularity`], *optional*):
            A fitted baseline with a `window`. If not given, the interactions of both data sets are counted, with a
            window of 7 days. A recommender in use should count up to its own time: fit `Popularity` on all rows until
            then, and pass it here.
        max_neighbors (`int`, *optional*):
            Number of items that are kept for each item of a table that is counted here. It bounds the size for large
            catalogs. If not given, all co-visited items, and 200 by transitions.
        max_rows (`int`, *optional*):
            Number of validation rows to read, evenly spaced, if this is fewer.
        max_steps (`int`, *optional*, defaults to `100`):
            Number of steps of the search for weights, at most.
        batch_size (`int`, *optional*, defaults to `64`):
            Histories per forward.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars.

    Returns:
        [`PatchRecProcessor`]: a copy with the fusion. Save it with the model; a checkpoint with it recommends by the
        fusion, from nothing else. `processor.fusion.fit_result` says which likelihoods the parts alone and the
        fusion reach.

    Raises:
        ValueError: If a part is unknown, the model has no item head for the part `"item"`, counts were made for
            another catalog, `popularity` has no `window` or the validation rows have no timestamps for it, or the
            weights do not converge.
        TypeError: If `parts` is a single text, or the backbone cannot attend to a tree, for the part `"titles"`.
        FloatingPointError: If a part's log-probability is not a finite number.

    Example:
    ```python
    >>> processor = fit_fusion(trainer.model, processor, splits["train"], splits["validation"])
    >>> processor.fusion.weights
    mappingproxy({'item': 0.62, 'co_visits': 0.54, 'similar_titles': 0.08, 'seen': -3.1})
    >>> processor.save_pretrained("outputs/final")
    ```
    """
    if isinstance(parts, str):
        raise TypeError(f"`parts` must be a list of names, such as {[parts]}, got {parts!r}.")
    model = without_wrapper(model)
    model.check_processor(processor)
    has_times = all(TIMES_COLUMN in rows.column_names for rows in (train_dataset, validation))
    names = _default_parts(model, popularity is not None or has_times) if parts is None else list(parts)
    check_part_names(names)
    _check_model(model, names)
    if popularity is not None and popularity.window is None:
        raise ValueError(
            "`popularity` must be a `Popularity` with a `window`, such as `Popularity(catalog, window=7)`: the part "
            "'popularity' counts the days before the moment of asking."
        )
    targets = find_targets(validation, processor.catalog, max_rows_to_fit(len(processor.catalog), max_rows))
    if "popularity" in names and popularity is not None and targets.times is None:
        # Counts up to the end of the counted days would know of the targets.
        raise missing_times("The fusion's part 'popularity'")
    if "co_visits" in names and co_visitation is None:
        co_visitation = CoVisitation(processor.catalog)
        co_visitation.fit(train_dataset, validation, max_neighbors=max_neighbors, show_progress=show_progress)
    if "transitions" in names and transitions is None:
        transitions = Transitions(processor.catalog)
        transitions.fit(
            train_dataset,
            validation,
            show_progress=show_progress,
            max_neighbors=MAX_NEIGHBORS if max_neighbors is None else max_neighbors,
        )
    if "popularity" in names and popularity is None:
        popularity = Popularity(processor.catalog, window=_WINDOW)
        popularity.fit({"train": train_dataset, "validation": validation})
    made: dict[str, Part] = {
        name: _make_part(name, model, co_visitation, transitions) for name in names if name != "popularity"
    }
    if "popularity" in names and popularity is not None:
        made["popularity"] = PopularityPart(popularity.recent, cast(int, popularity.window))
    unfitted = processor.with_fusion(Fusion(made, dict.fromkeys(names, 1.0)))

    was_training = model.training
    model.eval()
    try:
        log_probs = _log_probs(model, unfitted, targets, batch_size, show_progress)
    finally:
        model.train(was_training)
    weights, fit = fit_weights(log_probs, targets.items, max_steps)
    return processor.with_fusion(Fusion(made, weights, fit))


def _default_parts(model: PatchRecForCausalLM, has_popularity: bool) -> list[str]:
    is_left_out = {
        "titles": not _knows_titles(model) or not _reads_trees(model),
        "item": model.item_head is None,
        "popularity": not has_popularity,
    }
    return [name for name in PART_NAMES if not is_left_out.get(name, False)]


def _knows_titles(model: PatchRecForCausalLM) -> bool:
    """Whether the model was last trained on titles. A model from before this was recorded has no item head if so."""
    if model.config.objective is None:
        return model.item_head is None
    return model.config.objective != "item"


def _reads_trees(model: PatchRecForCausalLM) -> bool:
    with gathered_root(model), maskable_attention(model, model.model.language_model):
        return model.supports_tree_attention()


def _check_model(model: PatchRecForCausalLM, names: Sequence[str]) -> None:
    if "item" in names and model.item_head is None:
        raise ValueError(
            "The part 'item' needs a model with an item head, and this one has none. Train one with "
            "`objective='item'`, or leave 'item' out of `parts`."
        )
    if "titles" in names and not _reads_trees(model):
        raise TypeError(
            f"The part 'titles' reads titles as a tree, and {type(model.model.language_model).__name__} cannot attend "
            "to one: its state or its positions do not follow the attention mask. Leave 'titles' out of `parts`."
        )


def _make_part(
    name: str,
    model: PatchRecForCausalLM,
    co_visitation: CoVisitation | None,
    transitions: Transitions | None,
) -> Part:
    if name == "titles":
        return TitlePart(temperature=model.config.title_temperature)
    if name == "item":
        return ItemHeadPart()
    if name == "similar_titles":
        return SimilarTitlesPart()
    if name == "seen":
        return SeenPart()
    counted = cast(CoVisitation | Transitions, co_visitation if name == "co_visits" else transitions)
    return NeighborPart(counted.table, asdict(counted.weighting))


def _log_probs(
    model: PatchRecForCausalLM, processor: PatchRecProcessor, targets: Targets, batch_size: int, show_progress: bool
) -> dict[str, np.ndarray]:
    """Returns the log-probabilities of each part before each target, float32, shape `(n, num_items)`."""
    histories = targets.history_items(np.arange(len(targets)))
    timestamps = targets.history_times(np.arange(len(targets))) if processor.reads_timestamps() else None

    def encode(row: int) -> EncodedHistory:
        return processor.encode(histories[row], timestamps=None if timestamps is None else timestamps[row])

    prompts = LazySequence(len(histories), encode)
    ranker = CatalogRanker(model, processor, RankingConfig(k=1, method="fusion", batch_size=batch_size))
    return ranker.score_parts(prompts, show_progress, targets.times)
