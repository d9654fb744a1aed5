"""The item loss: cross-entropy of the next item among the catalog, or among a sample of it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch


FIXED_POINT = 1_000_000
"""A batch holds whole numbers only, so it holds logarithms and features in millionths."""
NOT_DRAWN = torch.iinfo(torch.int64).max
"""Stands in a batch for an infinite logarithm."""
_CELLS_PER_BLOCK = 2**21
"""Scores that are held at once: 8 MiB."""


class Features(NamedTuple):
    """
    Features of pairs of a user and a candidate, as a sparse list of m values.

    Args:
        weights (`torch.FloatTensor` of shape `(K,)`):
            Weight of each kind of feature.
        rows (`torch.LongTensor` of shape `(m,)`):
            The user of each value, ascending.
        columns (`torch.LongTensor` of shape `(m,)`):
            The candidate of each value.
        kinds (`torch.LongTensor` of shape `(m,)`):
            The kind of each value.
        values (`torch.FloatTensor` of shape `(m,)`):
            The values. Each pair has at most one of each kind.
    """

    weights: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    kinds: torch.Tensor
    values: torch.Tensor


def item_loss(
    users: torch.Tensor,
    items: torch.Tensor,
    targets: torch.Tensor,
    features: Features,
    log_inclusion: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Sums the cross-entropy of each target among the candidates. The score of a candidate is the product of its vector
    and the user's, plus its weighted features.

    If the candidates are a sample of the catalog, each score is corrected by the probability that the item was drawn
    (Bengio and Senécal, "Adaptive Importance Sampling to Accelerate Training of a Neural Probabilistic Language
    Model", 2008). So the sum over the sample is an unbiased estimate of the sum over the catalog. If all items are
    drawn, the loss is the full softmax.

    The scores are computed block by block, each with its gradients, and are never held together. So the memory is a
    few arrays of the vectors' shapes, and a few blocks of about 8 MiB (one row of C scores, if that is more).

    Args:
        users (`torch.FloatTensor` of shape `(n, D)`):
            User vectors.
        items (`torch.FloatTensor` of shape `(C, D)`):
            Vectors of the candidates.
        targets (`torch.LongTensor` of shape `(n,)`):
            The candidate that each user chose.
        features ([`Features`]):
            Features of users and candidates.
        log_inclusion (`torch.FloatTensor` of shape `(C,)`, *optional*):
            Logarithm of the probability with which each candidate was drawn. Infinity for an item that was not drawn,
            and is there only because another user chose it. Without it, the candidates are the catalog.

    Returns:
        `torch.Tensor` of shape `()`, float32.
    """
    with torch.autocast(users.device.type, enabled=False):
        return _ItemLoss.apply(users, items, features.weights, targets, *features[1:], log_inclusion)


class _ItemLoss(torch.autograd.Function):
    """Computes the gradients together with the loss, while a block of scores is at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        users: torch.Tensor,
        items: torch.Tensor,
        weights: torch.Tensor,
        targets: torch.Tensor,
        feature_rows: torch.Tensor,
        feature_columns: torch.Tensor,
        feature_kinds: torch.Tensor,
        feature_values: torch.Tensor,
        log_inclusion: torch.Tensor | None,
    ) -> torch.Tensor:
        num_users, num_items = len(users), len(items)
        needs_gradients = any(ctx.needs_input_grad)
        total = users.new_zeros(())
        if needs_gradients:
            user_gradients, item_gradients = torch.zeros_like(users), torch.zeros_like(items)
            weight_gradients = torch.zeros_like(weights)
        size = max(_CELLS_PER_BLOCK // num_items, 1)
        edges = torch.arange(0, num_users + size, size, device=users.device).clamp(max=num_users)
        feature_edges = torch.searchsorted(feature_rows, edges).tolist()
        additions = weights[feature_kinds] * feature_values
        transposed = items.T.contiguous()
        for (start, stop), (first, last) in zip(pairwise(edges.tolist()), pairwise(feature_edges), strict=True):
            rows = torch.arange(stop - start, device=users.device)
            columns = targets[start:stop]
            scores = users[start:stop] @ transposed
            cells = (feature_rows[first:last] - start) * num_items + feature_columns[first:last]
            scores.view(-1).index_add_(0, cells, additions[first:last])
            if log_inclusion is not None:
                of_targets = scores[rows, columns]
                scores -= log_inclusion
                scores[rows, columns] = of_targets
            largest = scores.amax(dim=1, keepdim=True)
            scores.sub_(largest)
            of_targets = scores[rows, columns]
            sums = scores.exp_().sum(dim=1, keepdim=True)
            total += (sums.log().squeeze(1) - of_targets).sum()
            if needs_gradients:
                gradients = scores.div_(sums)  # the probabilities, minus 1 for the target
                gradients[rows, columns] -= 1
                user_gradients[start:stop] = gradients @ items
                item_gradients.addmm_(gradients.T, users[start:stop])
                of_features = gradients.view(-1)[cells] * feature_values[first:last]
                weight_gradients.index_add_(0, feature_kinds[first:last], of_features)
        if needs_gradients:
            ctx.save_for_backward(user_gradients, item_gradients, weight_gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients = [gradient * grad_outputs[0] for gradient in ctx.saved_tensors]
        return *gradients, None, None, None, None, None, None
