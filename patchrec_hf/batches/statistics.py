"""Statistics of batches and of what a model makes of them, as sums, which add up over batches and processes."""

from __future__ import annotations

import torch

from ..runtime.encoding import IGNORED_LABEL


def count_fed(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """
    Counts what a batch feeds, without waiting for the device.

    Args:
        batch (`dict[str, torch.Tensor]`):
            A padded or packed one (see [`pad_examples`] and [`pack_examples`]).

    Returns:
        `torch.LongTensor` of shape `(5,)`: examples; tokens of their prompts; tokens of every other prompt from the
        first on (in pre-training, of the text twins); positions of the batch; and how many of those are padding.
    """
    supervised, labels = batch["supervised_positions"], batch["labels"]
    # An example's first supervised position is the last token of its prompt, and only that is no label itself.
    ends = (labels.take_along_dim(supervised, dim=1) == IGNORED_LABEL) & (batch["shift_labels"] != IGNORED_LABEL)
    depths = batch["position_ids"].take_along_dim(supervised, dim=1) if "position_ids" in batch else supervised
    lengths = torch.where(ends, depths + 1, 0).flatten()
    is_even = ends.flatten().cumsum(dim=0) % 2 == 1
    positions = labels.new_tensor(labels.numel())
    return torch.stack(
        [ends.sum(), lengths.sum(), (lengths * is_even).sum(), positions, positions - count_tokens(batch)]
    )


def count_tokens(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Positions of a batch that are not padding: all, if it is packed."""
    return (
        batch["attention_mask"].sum()
        if "attention_mask" in batch
        else batch["labels"].new_tensor(batch["labels"].numel())
    )


@torch.no_grad()
def score_labels(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    How sure a model is, and how often right.

    Args:
        logits (`torch.Tensor` of shape `(n, V)`):
            Of n positions.
        labels (`torch.LongTensor` of shape `(n,)`):
            Their next tokens.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: the sum of the entropies, in nats, and the number of labels that have the
        largest logit.
    """
    log_probs = logits.float().log_softmax(dim=-1)
    # As one dot product, no product of that size stands in memory.
    return -torch.dot(log_probs.exp().flatten(), log_probs.flatten()), (log_probs.argmax(dim=-1) == labels).sum()
