"""Item vectors: the vectors and patches of any number of items, computed in blocks that bound the memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .modeling import PatchRecForCausalLM
from .processing import PatchRecProcessor
from .progress import long_work_bar
from .title_tokens import TitleTokens


_MOST_ITEMS_AT_ONCE = 2**16
_NUMBERS_AT_ONCE = 2**23
"""Entries of the vectors that are computed at once: 32 MiB in float32, of which a few copies are made."""


def item_vectors_of(
    model: PatchRecForCausalLM, processor: PatchRecProcessor, items: np.ndarray, titles: TitleTokens | None = None
) -> torch.Tensor:
    """
    Computes the vectors with which the item head scores items. Many items show a progress bar (see
    [`long_work_bar`]).

    Args:
        model ([`PatchRecForCausalLM`]):
            A model with an item head.
        processor ([`PatchRecProcessor`]):
            The model's processor.
        items (`numpy.ndarray` of shape `(n,)`, int64):
            Catalog indices.
        titles ([`TitleTokens`], *optional*):
            The titles that `items` index. If not given, the titles of the catalog.

    Returns:
        `torch.Tensor` of shape `(n, H + 1)`, float32, on the model's device. The last entry is the item's bias.

    Raises:
        FloatingPointError: If a vector is not finite.
    """
    return padded_item_vectors(model, processor, items, titles=titles)[: len(items)]


def padded_item_vectors(
    model: PatchRecForCausalLM,
    processor: PatchRecProcessor,
    items: np.ndarray,
    multiple: int = 1,
    titles: TitleTokens | None = None,
) -> torch.Tensor:
    """
    Computes vectors as [`item_vectors_of`] does, followed by rows of zeros.

    Args:
        model, processor, items, titles:
            See [`item_vectors_of`].
        multiple (`int`, *optional*, defaults to `1`):
            The number of rows is the lowest multiple of this number that holds all items.

    Returns:
        `torch.Tensor` of shape `(rows, H + 1)`, float32, on the model's device.

    Raises:
        FloatingPointError: If a vector is not finite.
    """

    def compute(some: np.ndarray) -> torch.Tensor:
        patches = _patches(model, processor, some, titles)
        vectors = model.item_head.item_vectors(patches, torch.from_numpy(some).to(patches.device))
        is_bad = ~vectors.isfinite().all(dim=1).cpu().numpy()
        if is_bad.any():
            raise FloatingPointError(
                f"The vector of the item with catalog index {some[is_bad][0]} is not finite: its residual, its bias "
                "or an embedding of its title is NaN or infinite. Load an earlier checkpoint."
            )
        return vectors

    return _in_blocks(compute, items, -len(items) % multiple, _items_at_once(model))


def item_patches(
    model: PatchRecForCausalLM, processor: PatchRecProcessor, items: np.ndarray, titles: TitleTokens | None = None
) -> torch.Tensor:
    """
    Computes the patches of items: what the model's patcher makes of a title, and the item's residual if it has one.

    Args:
        model, processor, items, titles:
            See [`item_vectors_of`].

    Returns:
        `torch.Tensor` of shape `(n, H)`, in the model's dtype, on the model's device.
    """
    return _in_blocks(lambda some: _patches(model, processor, some, titles), items, 0, _items_at_once(model))


def _items_at_once(model: PatchRecForCausalLM) -> int:
    return max(1, min(_MOST_ITEMS_AT_ONCE, _NUMBERS_AT_ONCE // int(model.config.decoder_config.hidden_size)))


def _patches(
    model: PatchRecForCausalLM, processor: PatchRecProcessor, items: np.ndarray, titles: TitleTokens | None
) -> torch.Tensor:
    folded, device = processor.fold_items(items, titles=titles), model.device
    # One row of patch placeholders, one for each item.
    return model.prepare_inputs_embeds(
        torch.full((1, len(items)), processor.prompt.patch_id, device=device),
        *(torch.from_numpy(array)[None].to(device) for array in folded),
    )[0]


def _in_blocks(
    compute: Callable[[np.ndarray], torch.Tensor], items: np.ndarray, num_padding: int, at_once: int
) -> torch.Tensor:
    """Computes one row for each item, block by block, and appends `num_padding` rows of zeros."""
    # Blocks of nearly one size: in a very small block, matrix products could round in another way.
    blocks = np.array_split(items, max(1, -(-len(items) // at_once)))
    first = compute(blocks[0])
    if len(blocks) == 1 and num_padding == 0:
        return first
    rows, start = first.new_zeros(len(items) + num_padding, first.shape[1]), 0
    with long_work_bar(len(items), at_once, desc="Computing item vectors", unit="item") as progress:
        for block in blocks:
            rows[start : start + len(block)] = first if start == 0 else compute(block)
            start += len(block)
            progress.update(len(block))
    return rows
