"""Catalog growth: adds new items to a trained checkpoint, so that nothing that it has learned changes."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import nn

from ..runtime.catalog import Catalog, check_learned_items
from ..runtime.modeling import PatchRecForCausalLM
from ..runtime.processing import PatchRecProcessor


ChangedTitles = Literal["refuse", "keep", "take"]
CHANGED_TITLES = get_args(ChangedTitles)
_MAX_NAMED = 3


def merge_catalogs(known: Catalog, items: Catalog, changed_titles: ChangedTitles = "refuse") -> Catalog:
    """
    Returns a catalog that begins with the items of a checkpoint, at their places. New items follow. Items of the
    checkpoint that the shop no longer has stay.

    Args:
        known ([`Catalog`]):
            The checkpoint's catalog.
        items ([`Catalog`]):
            The items that the shop has now.
        changed_titles (`"refuse"`, `"keep"` or `"take"`, *optional*, defaults to `"refuse"`):
            If an item of the checkpoint has another title now, `"refuse"` raises an error that names it, `"keep"`
            keeps the checkpoint's title, and `"take"` takes the new one. The model reads an item as its title, so with
            a new title, an item keeps its residual, its bias and its counts, and its patch changes.

    Raises:
        TypeError: If one catalog has whole numbers for ids, and the other one has texts.
        ValueError: If no item is in both catalogs, a title has changed, or `changed_titles` is unknown.
    """
    if changed_titles not in CHANGED_TITLES:
        raise ValueError(
            f"`changed_titles` must be one of {', '.join(map(repr, CHANGED_TITLES))}, got {changed_titles!r}."
        )
    if known.has_text_ids != items.has_text_ids:
        kinds = ("whole numbers", "texts")
        raise TypeError(
            f"The item ids of the checkpoint are {kinds[known.has_text_ids]}, such as {known.item_ids.tolist()[0]!r}, "
            f"but the data have {kinds[items.has_text_ids]}, such as {items.item_ids.tolist()[0]!r}, so no "
            "item would be an old one. Read the data with the ids that the checkpoint was trained with."
        )
    titles = dict(zip(items.item_ids.tolist(), items.titles, strict=True))
    old = list(zip(known.item_ids.tolist(), known.titles, strict=True))
    if not any(item_id in titles for item_id, _ in old):
        raise ValueError(
            f"None of the {len(items)} items of the data is among the {len(known)} items of the checkpoint, whose "
            f"first is {old[0][0]!r} ({old[0][1]!r}). Give the data of the same shop, with the same ids."
        )
    changed = [(item_id, title, titles[item_id]) for item_id, title in old if titles.get(item_id, title) != title]
    if changed and changed_titles == "refuse":
        shown = "; ".join(f"{item_id}: {title!r} is now {new!r}" for item_id, title, new in changed[:_MAX_NAMED])
        more = f"; and {len(changed) - _MAX_NAMED} more" if len(changed) > _MAX_NAMED else ""
        raise ValueError(
            f"{len(changed)} of the {len(known)} items of the checkpoint have another title in the data ({shown}"
            f"{more}). Pass changed_titles 'take' if these are the same items with new titles, which the model then "
            "reads, or 'keep' to go on with the checkpoint's titles. If an id now stands for another item, give that "
            "item a new id."
        )
    kept = tuple(titles.get(item_id, title) if changed_titles == "take" else title for item_id, title in old)
    is_new = ~np.isin(items.id_numbers, known.id_numbers)
    new_titles = tuple(title for title, new in zip(items.titles, is_new, strict=True) if new)
    return Catalog(np.concatenate([known.item_ids, items.item_ids[is_new]]), (*kept, *new_titles))


def grow_catalog(model: PatchRecForCausalLM, processor: PatchRecProcessor, catalog: Catalog) -> PatchRecProcessor:
    """
    Adds new items to a trained model and its processor. Old items keep their places, and all that was learned of them.
    New items begin with a residual and a bias of zero, so that the model scores them by their titles until it is
    trained further (see [`update_checkpoint`]).

    Args:
        model ([`PatchRecForCausalLM`]):
            The model, changed in place. It may have no item head: then only the processor grows.
        processor ([`PatchRecProcessor`]):
            The model's processor.
        catalog ([`Catalog`]):
            All old items and the new ones, in any order.

    Returns:
        [`PatchRecProcessor`]: a copy with the grown catalog.

    Raises:
        TypeError: If the model is an adapter.
        ValueError: If the catalog lacks an item that the processor has, or model and processor do not belong together.

    Example:
    ```python
    >>> catalog = processor.catalog.with_items({9001: "A New Book"})
    >>> processor = grow_catalog(model, processor, catalog)
    >>> PatchRecommender(model, processor).recommend([3, 14, 9001])
    ```
    """
    if isinstance(model, PeftModel):
        raise TypeError("A catalog grows in a whole model, and this is an adapter. Merge it: `merge_and_unload()`.")
    model.check_processor(processor)
    known = processor.catalog
    check_learned_items(catalog, known.id_numbers, in_order=False, learned_ids=known.item_ids)
    grown = processor.with_catalog(catalog, grows_residuals=True)
    head, config = model.item_head, model.config.item_head_config
    if head is not None and config is not None:
        num_new = len(grown.catalog) - len(head.item_ids)
        head.item_vectors.bias = _grown(head.item_vectors.bias, num_new)
        residual: Any = model.model.item_residual
        if residual is not None:
            residual.weight = _grown(residual.weight, num_new)
        head.item_ids = torch.tensor(grown.catalog.id_numbers, device=head.item_ids.device)
        model.config.item_head = asdict(replace(config, num_items=len(grown.catalog)))
    return grown


def _grown(parameter: nn.Parameter, num_new: int) -> nn.Parameter:
    """Returns a parameter with `num_new` further rows of zeros."""
    padding = (*([0, 0] * (parameter.ndim - 1)), 0, num_new)
    return nn.Parameter(F.pad(parameter.detach(), padding), requires_grad=parameter.requires_grad)
