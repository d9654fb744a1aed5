"""The item loss: cross-entropy of the next item among the catalog, or among a sample of it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch


LOG_INCLUSION_UNITS = 1_000_000
"""A batch holds whole numbers only, so it holds logarithms of probabilities in millionths."""
NOT_DRAWN = torch.iinfo(torch.int64).max
"""Stands in a batch for an infinite logarithm."""
_CELLS_PER_BLOCK = 2**21
"""Scores that are held at once: 8 MiB."""


def item_loss(
    users: torch.Tensor,
    items: torch.Tensor,
    targets: torch.Tensor,
    seen_weight: torch.Tensor,
    seen_rows: torch.Tensor,
    seen_columns: torch.Tensor,
    log_inclusion: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Sums the cross-entropy of each target among the candidates. The score of a candidate is the product of its vector
    and the user's, plus the weight of seen items if the history holds it.

    If the candidates are a sample of the catalog, each score is corrected by the probability that the item was drawn
    (Bengio and Senécal, "Adaptive Importance Sampling to Accelerate Training of a Neural Probabilistic Language
    Model", 2008). So the sum over the sample is an unbiased estimate of the sum over the catalog. If all items are
    drawn, the loss is that of the full softmax.

    The scores are computed block by block, each with its gradients, and are never held together. So the memory is a
    few arrays of the vectors' shapes, and a few blocks of about 8 MiB (one row of C scores, if that is more).

    Args:
        users (`torch.FloatTensor` of shape `(n, D)`):
            User vectors.
        items (`torch.FloatTensor` of shape `(C, D)`):
            Vectors of the candidates.
        targets (`torch.LongTensor` of shape `(n,)`):
            The candidate that each user chose.
        seen_weight (`torch.FloatTensor` of shape `(1,)`):
            What is added to the score of a seen candidate.
        seen_rows, seen_columns (`torch.LongTensor` of shape `(m,)`):
            Numbers of a user and of a candidate that the user's history holds, each pair once; `seen_rows` ascends.
        log_inclusion (`torch.FloatTensor` of shape `(C,)`, *optional*):
            Logarithm of the probability with which each candidate was drawn. Infinity for an item that was not drawn,
            and is there only because another user chose it. Without it, the candidates are the catalog.

    Returns:
        `torch.Tensor` of shape `()`, float32.
    """
    if log_inclusion is None:
        log_inclusion = items.new_zeros(len(items))
    with torch.autocast(users.device.type, enabled=False):
        return _ItemLoss.apply(users, items, seen_weight, targets, seen_rows, seen_columns, log_inclusion)


class _ItemLoss(torch.autograd.Function):
    """Computes the gradients together with the loss, while a block of scores is at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        users: torch.Tensor,
        items: torch.Tensor,
        seen_weight: torch.Tensor,
        targets: torch.Tensor,
        seen_rows: torch.Tensor,
        seen_columns: torch.Tensor,
        log_inclusion: torch.Tensor,
    ) -> torch.Tensor:
        num_users, num_items = len(users), len(items)
        needs_gradients = any(ctx.needs_input_grad)
        user_gradients, item_gradients = torch.zeros_like(users), torch.zeros_like(items)
        seen_gradient, total = torch.zeros_like(seen_weight), users.new_zeros(())
        size = max(_CELLS_PER_BLOCK // num_items, 1)
        edges = torch.arange(0, num_users + size, size, device=users.device).clamp(max=num_users)
        seen_edges = torch.searchsorted(seen_rows, edges).tolist()
        transposed = items.T.contiguous()
        for (start, stop), (first, last) in zip(pairwise(edges.tolist()), pairwise(seen_edges), strict=True):
            rows = torch.arange(stop - start, device=users.device)
            columns = targets[start:stop]
            scores = users[start:stop] @ transposed
            seen = (seen_rows[first:last] - start) * num_items + seen_columns[first:last]
            scores.view(-1).index_add_(0, seen, seen_weight.expand(len(seen)))
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
                seen_gradient += gradients.view(-1)[seen].sum()
        ctx.save_for_backward(user_gradients, item_gradients, seen_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients = [gradient * grad_outputs[0] for gradient in ctx.saved_tensors]
        return *gradients, None, None, None, None
