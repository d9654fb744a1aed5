"""Title states: what the first layers of a backbone make of titles, each read alone."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel


_TITLES_AT_ONCE = 4096
_EPSILON = 1e-12


class FoldedTitles(NamedTuple):
    """
    The titles that are folded into patches. All tensors are int64.

    Args:
        tokens (`torch.LongTensor` of shape `(U, W)`):
            The distinct titles, each once: rows of the table of embeddings; -1 is padding.
        kinds (`torch.LongTensor` of shape `(M,)`):
            For each folded title, its number among the distinct ones.
        patches (`torch.LongTensor` of shape `(M,)`):
            For each folded title, the number of its patch.
        sizes (`torch.LongTensor` of shape `(M,)`):
            For each folded title, the number of titles that share its patch.
    """

    tokens: torch.Tensor
    kinds: torch.Tensor
    patches: torch.Tensor
    sizes: torch.Tensor


def folded_titles(
    is_title: torch.Tensor,
    rows: torch.Tensor,
    starts: torch.Tensor,
    divisors: torch.Tensor,
    title_starts: torch.Tensor | None,
) -> FoldedTitles:
    """
    Finds the titles among folded tokens.

    Args:
        is_title (`torch.BoolTensor` of shape `(U,)`):
            Which rows of the table of embeddings are title tokens.
        rows, starts, divisors:
            See [`~patchrec_hf.runtime.patchers.fold_tokens`] and [`~patchrec_hf.runtime.patchers.mean_weights`].
        title_starts (`torch.LongTensor` of shape `(N,)`, *optional*):
            For each folded token, 1 if a title begins with it. If not given, each patch holds one title.

    Returns:
        [`FoldedTitles`]
    """
    device = rows.device
    patches = torch.searchsorted(starts, torch.arange(len(rows), device=device), right=True) - 1
    chosen = (is_title[rows] & (divisors > 0)).nonzero().squeeze(1)
    rows, patches, divisors = rows[chosen], patches[chosen], divisors[chosen]
    if title_starts is None:
        begins = patches.diff(prepend=patches.new_full((1,), -1)) != 0
    else:
        begins = title_starts[chosen] == 1
    firsts = begins.nonzero().squeeze(1)
    lengths = firsts.diff(append=firsts.new_full((1,), len(rows)))
    titles = begins.cumsum(0) - 1
    width = int(lengths.max()) if len(lengths) > 0 else 0
    padded = rows.new_full((len(firsts), width), -1)
    padded[titles, torch.arange(len(rows), device=device) - firsts[titles]] = rows
    if width == 0:
        return FoldedTitles(padded, firsts, firsts, firsts)
    tokens, kinds = padded.unique(dim=0, return_inverse=True)
    return FoldedTitles(tokens, kinds, patches[firsts], divisors[firsts] // lengths)


def title_differences(
    model: PreTrainedModel, num_layers: int, rows: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    """
    Computes by how much the states of titles differ from the means of their embeddings. A title's vector is the mean
    of its states after the first layers and the backbone's last norm, scaled to the length of the mean embedding.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The base model of a backbone.
        num_layers (`int`):
            Number of first layers that read the titles.
        rows (`torch.Tensor` of shape `(U, H)`):
            Embeddings, in the model's dtype.
        tokens (`torch.LongTensor` of shape `(n, W)`):
            Titles, as rows of `rows`; -1 is padding, which stands at the end.

    Returns:
        `torch.Tensor` of shape `(n, H)`, float32.
    """
    if len(tokens) == 0:
        return rows.new_zeros(0, rows.shape[1]).float()
    view = first_layers(model, num_layers)
    parts = []
    for titles in tokens.split(_TITLES_AT_ONCE):
        is_token = titles >= 0
        embeds = rows[titles.clamp(min=0)]
        states = view(inputs_embeds=embeds, attention_mask=is_token.long(), use_cache=False).last_hidden_state
        counts = is_token.sum(dim=1, keepdim=True)
        states, means = (
            values.float().masked_fill(~is_token[..., None], 0.0).sum(dim=1) / counts for values in (states, embeds)
        )
        sizes, lengths = (values.square().mean(dim=1, keepdim=True) + _EPSILON for values in (states, means))
        parts.append(states * torch.sqrt(lengths / sizes) - means)
    return torch.cat(parts)


def first_layers(model: PreTrainedModel, num_layers: int) -> Any:
    """
    Returns a view of a base model that runs its first layers only. The view shares all modules with the model, which
    is not changed.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The base model of a backbone.
        num_layers (`int`):
            Number of layers.

    Raises:
        ValueError: If the model's layers are no list of modules of its own, or are fewer.
    """
    total = model.config.get_text_config().num_hidden_layers
    names = [name for name, part in model.named_children() if isinstance(part, nn.ModuleList) and len(part) == total]
    if len(names) != 1 or num_layers > total:
        raise ValueError(
            f"`patcher='contextual'` reads titles by the first {num_layers} layers of the backbone, but "
            f"{type(model).__name__} has {total} layers, in {len(names)} lists of its own. Use `patcher='attention'`, "
            "or fewer `patcher_layers`."
        )
    view = copy.copy(model)
    view.__dict__.pop("forward", None)  # accelerate's hooks replace it by one that calls the whole model
    layers: Any = model.get_submodule(names[0])
    view._modules = {**model._modules, names[0]: layers[:num_layers]}
    return view
