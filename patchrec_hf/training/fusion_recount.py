"""Recounts the parts of a fusion that count interactions, on a longer log, without any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from datasets import Dataset, concatenate_datasets

from ..baselines.co_visitation import CoVisitation, CoVisitationWeighting
from ..baselines.popularity import Popularity
from ..baselines.transitions import MAX_NEIGHBORS, Transitions, TransitionWeighting
from ..data.rows import select_spaced
from ..runtime.catalog import Catalog
from ..runtime.fusion import Fusion
from ..runtime.fusion_parts import NeighborPart, Part, PopularityPart
from ..runtime.modeling import PatchRecForCausalLM
from ..runtime.processing import PatchRecProcessor
from .fusion_fit import fit_fusion


_MAX_ROWS_TO_CHOOSE = 500


def recount_fusion(
    processor: PatchRecProcessor,
    rows: Sequence[Dataset],
    max_neighbors: int | None = None,
    show_progress: bool = True,
) -> PatchRecProcessor:
    """
    Counts the parts `"co_visits"`, `"transitions"` and `"popularity"` of a fusion anew. Their settings, the other
    parts and all weights stay as they are.

    Args:
        processor ([`PatchRecProcessor`]):
            A processor with a fusion. Its catalog may have grown since the fusion was made.
        rows (`Sequence[Dataset]`):
            Rows of all interactions that count, from the oldest data set to the newest. Each interaction should be a
            target once. If the fusion does not know with which settings its pairs became scores, because an earlier
            version made it, they are chosen as [`fit_fusion`] does: on the newest rows, by counts of the others.
        max_neighbors (`int`, *optional*):
            See [`fit_fusion`].
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars.

    Returns:
        [`PatchRecProcessor`]: a copy with the recounted fusion.

    Raises:
        ValueError: If the processor has no fusion, no rows are given, the rows have no timestamps for the part
            `"popularity"`, or settings must be chosen and all rows are in one data set.
        KeyError: If the catalog lacks an item.

    Example:
    ```python
    >>> old, new = splits["train"], splits["validation"]
    >>> processor = fit_fusion(model, processor, old, new)
    >>> recounted = recount_fusion(processor, [old, new])
    >>> recounted.fusion.weights == processor.fusion.weights
    True
    ```
    """
    fusion = _fusion_of(processor, rows)
    parts: dict[str, Part] = dict(fusion.parts)
    for name, counted in _count_parts(fusion, processor.catalog, rows, max_neighbors, show_progress).items():
        if isinstance(counted, Popularity):
            parts[name] = PopularityPart(counted.recent, counted.window or 0)
        else:
            parts[name] = NeighborPart(counted.table, asdict(counted.weighting))
    return processor.with_fusion(Fusion(parts, fusion.weights, fusion.fit_result))


def refit_fusion(
    model: PatchRecForCausalLM,
    processor: PatchRecProcessor,
    rows: Sequence[Dataset],
    validation: Dataset,
    max_neighbors: int | None = None,
    show_progress: bool = True,
    max_rows: int | None = None,
) -> PatchRecProcessor:
    """
    Counts the parts of a fusion anew, and fits the weights of the same parts on validation rows. Then it counts the
    interactions of the validation rows too, because a recommender in use knows them.

    Args:
        model ([`PatchRecForCausalLM`]):
            The model.
        processor, rows, max_neighbors, show_progress:
            See [`recount_fusion`].
        validation ([`~datasets.Dataset`]):
            Rows of later interactions, on which nothing was trained. All of them are counted.
        max_rows (`int`, *optional*):
            Number of validation rows on which the weights are fitted, evenly spaced. See [`fit_fusion`].

    Returns:
        [`PatchRecProcessor`]: a copy with the fusion.

    Raises:
        ValueError, TypeError, FloatingPointError: As [`recount_fusion`] and [`fit_fusion`] do.
    """
    fusion = _fusion_of(processor, rows)
    counted: dict[str, Any] = dict(_count_parts(fusion, processor.catalog, rows, max_neighbors, show_progress))
    if "popularity" in counted:  # it never counts what is later than the moment of asking
        counted["popularity"].fit({str(number): part for number, part in enumerate([*rows, validation])})
    named = {"co_visits": "co_visitation"}
    given = {named.get(name, name): baseline for name, baseline in counted.items()}
    fitted = fit_fusion(
        model,
        processor,
        concatenate_datasets(list(rows)),
        validation,
        list(fusion.parts),
        max_neighbors=max_neighbors,
        max_rows=max_rows,
        show_progress=show_progress,
        **given,
    )
    return recount_fusion(fitted, [*rows, validation], max_neighbors, show_progress)


def _fusion_of(processor: PatchRecProcessor, rows: Sequence[Dataset]) -> Fusion:
    if processor.fusion is None:
        raise ValueError("The processor has no fusion to count anew. `fit_fusion` makes one.")
    if len(rows) == 0:
        raise ValueError("`rows` holds no data set of which interactions could be counted.")
    return processor.fusion


def _count_parts(
    fusion: Fusion, catalog: Catalog, rows: Sequence[Dataset], max_neighbors: int | None, show_progress: bool
) -> dict[str, CoVisitation | Transitions | Popularity]:
    """Counts what the parts of a fusion count, with the settings that they have."""
    counted: dict[str, CoVisitation | Transitions | Popularity] = {}
    for name, part in fusion.parts.items():
        if isinstance(part, PopularityPart):
            popularity = Popularity(catalog, window=part.window)
            counted[name] = popularity.fit({str(number): dataset for number, dataset in enumerate(rows)})
        elif isinstance(part, NeighborPart):
            counted[name] = _count_pairs(name, part, catalog, rows, max_neighbors, show_progress)
    return counted


def _count_pairs(
    name: str,
    part: NeighborPart,
    catalog: Catalog,
    rows: Sequence[Dataset],
    max_neighbors: int | None,
    show_progress: bool,
) -> CoVisitation | Transitions:
    weighting = dict(part.weighting)
    model: CoVisitation | Transitions
    limit: dict[str, Any] = {} if max_neighbors is None else {"max_neighbors": max_neighbors}
    if name == "co_visits":
        model = CoVisitation(catalog, CoVisitationWeighting(**weighting) if weighting else None)
    else:
        model = Transitions(catalog, TransitionWeighting(**weighting) if weighting else None)
        limit = limit or {"max_neighbors": MAX_NEIGHBORS}
    if not weighting:
        *earlier, newest = rows
        if not earlier:
            raise ValueError(
                f"The fusion does not know with which settings its part {name!r} was counted, because an earlier "
                "version of the library made it. Give old and new rows as two data sets, so that the settings can be "
                "chosen on the new ones, or fit the fusion anew (`fit_fusion`)."
            )
        chosen = select_spaced(newest, _MAX_ROWS_TO_CHOOSE)
        model.fit(concatenate_datasets(earlier), chosen, show_progress=show_progress, **limit)
    return model.fit(concatenate_datasets(list(rows)), show_progress=show_progress, **limit)
