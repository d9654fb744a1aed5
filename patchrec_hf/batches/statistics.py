"""Statistics of a model's batches and predictions, as sums over micro-batches and processes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from accelerate import Accelerator

from ..runtime.encoding import IGNORED_LABEL


class BatchSums(NamedTuple):
    """
    Sums over micro-batches and processes.

    Args:
        histories (`float`):
            Encoded histories.
        prompt_tokens (`float`):
            Tokens of their prompts.
        text_tokens (`float`):
            Tokens of the first prompt and every second one after it. In pre-training, these are the text twins.
        positions (`float`):
            Positions of the batches.
        padding (`float`):
            Positions that are padding.
        labels (`float`):
            Tokens that the model learns to predict.
        item_targets (`float`):
            Items that the model learns to predict.
        loss (`float`):
            Summed loss of all labels.
        item_loss (`float`):
            Summed loss of all item targets.
        scored_labels (`float`):
            Labels whose logits are known; 0 if TRL's fused head computed the loss.
        entropy (`float`):
            Summed entropy of the predictions of the scored labels, in nats.
        correct (`float`):
            Number of scored labels that have the largest logit.
        divergence (`float`, *optional*, defaults to `0.0`):
            Summed divergence of twins, in nats (see [`twin_divergence`]); 0 without distillation.
    """

    histories: float
    prompt_tokens: float
    text_tokens: float
    positions: float
    padding: float
    labels: float
    item_targets: float
    loss: float
    item_loss: float
    scored_labels: float
    entropy: float
    correct: float
    divergence: float = 0.0

    @property
    def mean_loss(self) -> float:
        """Mean loss of the labels, plus mean loss of the item targets."""
        parts = [(self.loss, self.labels), (self.item_loss, self.item_targets)]
        return sum(total / count for total, count in parts if count > 0)

    def batch_metrics(self) -> dict[str, float]:
        """Describes the batches: mean prompt tokens and positions per history, and the share of padding."""
        return {
            "prompt_tokens": self.prompt_tokens / self.histories,
            "positions_per_example": self.positions / self.histories,
            "padding_share": self.padding / self.positions,
        }

    def prediction_metrics(self) -> dict[str, float]:
        """Mean entropy in nats and accuracy of the scored labels; empty if there are none."""
        if self.scored_labels == 0:
            return {}
        return {
            "entropy": self.entropy / self.scored_labels,
            "mean_token_accuracy": self.correct / self.scored_labels,
        }


class StepStatistics:
    """
    Sums over the micro-batches since the last [`StepStatistics.reduce`]. The sums stay on the device. Adding a
    batch waits for it only where labels are selected from its logits.
    """

    def __init__(self) -> None:
        self._counts: torch.Tensor | None = None
        self._values: torch.Tensor | None = None
        self._first_bad: torch.Tensor | None = None
        self._num_tokens: torch.Tensor | None = None

    def add(
        self,
        batch: dict[str, torch.Tensor],
        loss: torch.Tensor,
        step: int,
        logits: torch.Tensor | None = None,
        item_loss: torch.Tensor | None = None,
        choice_predictions: tuple[torch.Tensor, torch.Tensor] | None = None,
        divergence: torch.Tensor | None = None,
    ) -> None:
        """
        Adds a batch.

        Args:
            batch (`dict[str, torch.Tensor]`):
                A padded or packed batch (see [`pad_histories`] and [`pack_histories`]).
            loss (`torch.Tensor` of shape `()`):
                The batch's mean loss. In evaluation, it may be NaN for a batch without labels.
            step (`int`):
                The optimizer step that learns from it.
            logits (`torch.Tensor` of shape `(n, V)`, *optional*):
                Logits of the n labeled positions. Not given if TRL's fused head computed the loss; SFTTrainer then
                counts tokens and predictions itself. Not given with `choice_predictions` either.
            item_loss (`torch.Tensor` of shape `()`, *optional*):
                The part of `loss` that is the mean loss of the item targets.
            choice_predictions (`tuple[torch.Tensor, torch.Tensor]`, *optional*):
                `choice_entropy` and `choice_hits` of [`PatchRecOutput`], if labels are predicted among choices.
            divergence (`torch.Tensor` of shape `()`, *optional*):
                `divergence` of [`PatchRecOutput`], whose weighted mean is a part of `loss`.
        """
        loss = loss.detach().float()
        counts = batch_token_counts(batch)
        num_labels, num_targets = counts[-2:]
        item_loss = torch.zeros_like(loss) if item_loss is None else item_loss.detach().float()
        loss_sums = torch.stack(
            [
                torch.where(num_labels > 0, (loss - item_loss) * num_labels, 0.0),
                torch.where(num_targets > 0, item_loss * num_targets, 0.0),
            ]
        )
        predictions = torch.zeros(3, device=loss.device)
        divergence = torch.zeros_like(loss) if divergence is None else divergence.float()
        if logits is not None:
            choice_predictions = score_labels(logits, batch["shift_labels"][batch["shift_labels"] != IGNORED_LABEL])
        if choice_predictions is not None:
            entropy, correct = choice_predictions
            predictions = torch.stack([num_labels.to(entropy), entropy, correct.to(entropy)])
        if choice_predictions is not None or "item_targets" in batch:
            self._num_tokens = _plus(self._num_tokens, counts[3] - counts[4])
        self._counts = _plus(self._counts, counts)
        self._values = _plus(self._values, torch.cat([loss_sums, predictions, divergence[None]]))
        bad = torch.stack([torch.where(torch.isfinite(loss), -1.0, float(step)), loss])
        if self._first_bad is None:
            self._first_bad = bad
        else:
            self._first_bad = torch.where(self._first_bad[0] < 0, bad, self._first_bad)

    def first_bad_loss(self) -> tuple[int, float] | None:
        """Returns the first step whose loss was not finite on this process, and the loss. Waits for the device."""
        if self._first_bad is None:
            return None
        step, loss = self._first_bad.tolist()
        return None if step < 0 else (int(step), loss)

    def take_tokens(self, accelerator: Accelerator) -> int:
        """
        Counts the positions without padding, over all processes and since the last call, of batches that came with
        their logits. All processes must call this method.
        """
        if self._num_tokens is None:
            return 0
        num_tokens = accelerator.reduce(self._num_tokens, reduction="sum")
        self._num_tokens = None
        return int(num_tokens)

    def reduce(self, accelerator: Accelerator) -> BatchSums | None:
        """
        Sums over all processes, and resets the statistics, except the tokens, which `take_tokens` resets.

        Args:
            accelerator ([`~accelerate.Accelerator`]):
                The trainer's accelerator. All of its processes must call this method.

        Returns:
            [`BatchSums`], or `None` if no batch was added.
        """
        if self._counts is None or self._values is None:
            return None
        counts = accelerator.reduce(self._counts, reduction="sum")  # as integers: they outgrow what float32 can count
        values = accelerator.reduce(self._values, reduction="sum")
        self._counts = self._values = self._first_bad = None
        return BatchSums(*counts.tolist(), *values.tolist())


def _plus(total: torch.Tensor | None, values: torch.Tensor) -> torch.Tensor:
    return values if total is None else total + values


def batch_token_counts(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """
    Counts the histories, tokens, positions and labels of a batch.

    Args:
        batch (`dict[str, torch.Tensor]`):
            A padded or packed batch (see [`pad_histories`] and [`pack_histories`]).

    Returns:
        `torch.LongTensor` of shape `(7,)`: the first seven fields of [`BatchSums`]. If only items are predicted, each
        item target counts as a history, which ends where the target is predicted.
    """
    supervised, labels = batch["supervised_positions"], batch["labels"]
    has_label = batch["shift_labels"] != IGNORED_LABEL
    # The first supervised position of a history is the last token of its prompt. It is the only supervised position
    # that is no label itself.
    ends = (labels.take_along_dim(supervised, dim=1) == IGNORED_LABEL) & has_label
    num_item_targets = labels.new_zeros(())
    if "item_targets" in batch:
        has_target = batch["item_targets"] != IGNORED_LABEL
        num_item_targets = has_target.sum()
        if supervised.shape[1] == 0:
            supervised, ends = batch["item_positions"], has_target
    depths = batch["position_ids"].take_along_dim(supervised, dim=1) if "position_ids" in batch else supervised
    lengths = torch.where(ends, depths + 1, 0).flatten()
    is_even = ends.flatten().cumsum(dim=0) % 2 == 1
    positions = labels.new_full((), labels.numel())
    num_tokens = batch["attention_mask"].sum() if "attention_mask" in batch else positions  # no padding where packed
    return torch.stack(
        [
            ends.sum(),
            lengths.sum(),
            (lengths * is_even).sum(),
            positions,
            positions - num_tokens,
            has_label.sum(),
            num_item_targets,
        ]
    )


@torch.no_grad()
def score_labels(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Sums the entropy of predictions, and counts the correct ones.

    Args:
        logits (`torch.Tensor` of shape `(n, V)`):
            Logits of n positions.
        labels (`torch.LongTensor` of shape `(n,)`):
            Their next tokens.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: the sum of the entropies, in nats, and the number of labels that have the
        largest logit.
    """
    log_probs = logits.float().log_softmax(dim=-1)
    # One dot product allocates no further array of shape (n, V).
    return -torch.dot(log_probs.exp().flatten(), log_probs.flatten()), (log_probs.argmax(dim=-1) == labels).sum()
