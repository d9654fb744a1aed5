"""Models with an item head, and processors that feed them."""

import copy
from functools import lru_cache

import numpy as np
import torch
from conftest import TITLES

from patchrec_hf import Catalog, ItemPatchLayout, PatchRecForCausalLM, PatchRecProcessor
from patchrec_hf.runtime.neighbors import NeighborTable
from patchrec_hf.runtime.title_similarity import log_shares
from patchrec_hf.tiny import build_tiny_backbone


@lru_cache
def _unchanged_model():
    backbone, tokenizer = build_tiny_backbone(Catalog.from_titles(TITLES), vocab_size=400, hidden_size=32)
    return PatchRecForCausalLM.from_backbone(backbone, tokenizer).eval()


def plain_model():
    """A copy of the tiny model of `conftest.py`, again and again with the same weights."""
    return copy.deepcopy(_unchanged_model())


def item_model(trained=True, **head):
    """The tiny model with an item head. A trained head has random weights."""
    model = plain_model()
    model.add_item_head(Catalog.from_titles(TITLES), **head)
    if trained:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for module in (model.item_head, model.model.item_residual):
                for parameter in module.parameters() if module is not None else ():
                    parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def item_processor(processor, layout=None, catalog=None, max_history=8, item_residuals=True, separate_patches=True):
    """A processor that writes residuals, and compresses every item unless a layout is given."""
    return PatchRecProcessor(
        processor.tokenizer, catalog or processor.catalog, processor.prompt, layout or ItemPatchLayout(0),
        max_history, separate_patches, item_residuals,
    )  # fmt: skip


@torch.no_grad()
def scores_by_hand(model, processor, prompt, titles=None):
    """The scores of the catalog behind one prompt, written out with NumPy from the weights and one forward."""
    titles = processor.title_tokens if titles is None else titles
    head, residual = model.item_head, model.model.item_residual
    table = model.get_input_embeddings().weight.double().numpy()
    patches = np.array([table[titles[item]].mean(axis=0) for item in range(len(processor.catalog))])
    num_known = len(head.item_ids)
    if residual is not None:
        rows = residual.weight.double().numpy()
        if residual.projection is not None:
            rows = rows @ residual.projection.double().numpy()
        patches[:num_known] += rows
    tensors = {
        "input_ids": prompt.input_ids,
        "patch_token_ids": prompt.patch_token_ids,
        "patch_positions": prompt.patch_positions,
        "patch_divisors": prompt.patch_divisors,
    }
    states = model.model(**{name: torch.from_numpy(array)[None] for name, array in tensors.items()}, use_cache=False)
    state = states.last_hidden_state[0, prompt.history_end].double().numpy()
    user = head.user_vectors.weight.double().numpy() @ state
    items = patches @ head.item_vectors.weight.double().numpy().T
    if head.user_vectors.is_cosine:
        similarities = items @ user / np.linalg.norm(items, axis=1) / np.linalg.norm(user)
    else:
        similarities = items @ user / len(user) ** 0.5
    scores = np.exp(head.user_vectors.log_scale.item()) * similarities
    scores[:num_known] += head.item_vectors.bias.numpy()
    seen = [item for item in set(prompt.items.tolist()) if item < len(scores)]
    seen_weight, title_weight = (10 * head.feature_weights.weight.double().numpy()).tolist()
    scores[seen] += seen_weight
    if model.config.item_head_config.title_similarity:
        scores += title_weight * log_shares(processor.title_neighbors.scores([prompt.items], len(scores)))[0]
    return scores


def table_of(dense, item_ids):
    """A table of neighbors, from a matrix. The latest two items of a history count, the older one half."""
    dense = np.array(dense, dtype=np.float32)
    sources, targets = np.nonzero(dense)
    offsets = np.searchsorted(sources, np.arange(len(dense) + 1))
    return NeighborTable(offsets, targets.astype(np.int32), dense[sources, targets], np.array(item_ids), 0.5, 2)
