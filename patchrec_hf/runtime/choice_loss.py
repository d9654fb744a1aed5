"""The choice loss: cross-entropy of title tokens among those with which a title of the catalog can go on."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .catalog_softmax import catalog_log_softmax


class Choices(NamedTuple):
    """
    The tokens among which labels are predicted. A choice is a node of the title trie, and its tokens lead to its
    children. Labels at the same node share a choice. All tensors are int64.

    Args:
        of_labels (`torch.LongTensor` of shape `(n,)`):
            For each label, the number of its choice.
        starts (`torch.LongTensor` of shape `(K + 1,)`):
            Choice k has the tokens `columns[starts[k] : starts[k + 1]]`.
        columns (`torch.LongTensor` of shape `(P,)`):
            Indices into `token_ids`, ascending within each choice.
        token_ids (`torch.LongTensor` of shape `(U,)`):
            The tokens of all choices, each once, ascending.
    """

    of_labels: torch.Tensor
    starts: torch.Tensor
    columns: torch.Tensor
    token_ids: torch.Tensor


class ChoiceScores(NamedTuple):
    """
    The loss and the statistics of labels that are predicted at choices.

    Args:
        loss (`torch.FloatTensor` of shape `()`):
            Summed loss of the labels, in nats. Only this tensor has a gradient.
        entropy (`torch.FloatTensor` of shape `()`):
            Summed entropy of the predictions, in nats.
        num_correct (`torch.LongTensor` of shape `()`):
            Number of labels that are the most probable token of their choice.
    """

    loss: torch.Tensor
    entropy: torch.Tensor
    num_correct: torch.Tensor


def choice_cells(choices: Choices) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Lists the tokens that compete with labels.

    Args:
        choices ([`Choices`]):
            The choices of n labels.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: the number of a label and an index into `token_ids`, int64, for each token
        that the label can be; ascending by label and token.
    """
    device = choices.of_labels.device
    counts = choices.starts.diff()[choices.of_labels]
    rows = torch.arange(len(counts), device=device).repeat_interleave(counts)
    # The tokens of a label's choice stand together, so that the cells ascend by row and column.
    shifts = choices.starts[choices.of_labels] - (counts.cumsum(0) - counts)
    return rows, choices.columns[shifts[rows] + torch.arange(len(rows), device=device)]


def choice_loss(
    logits: torch.Tensor, labels: torch.Tensor, choices: Choices, temperature: float = 1.0
) -> ChoiceScores:
    """
    Computes the loss of labels, each among the tokens of its choice. The losses of a title's labels add up to the
    logarithm of one over its probability, and the probabilities of all titles sum to 1 ("Masked Softmax Loss",
    SIGIR'25).

    Args:
        logits (`torch.Tensor` of shape `(n, U)`):
            Logits of `choices.token_ids` where n labels are predicted.
        labels (`torch.LongTensor` of shape `(n,)`):
            Token ids. Each is a token of its choice.
        choices ([`Choices`]):
            The tokens that compete.
        temperature (`float`, *optional*, defaults to `1.0`):
            By what logits are divided.

    Returns:
        [`ChoiceScores`]. Without labels, all of them are 0.
    """
    numbers = torch.arange(len(labels), device=logits.device)
    rows, columns = choice_cells(choices)
    log_probs = catalog_log_softmax(logits, rows, columns, temperature)
    width = logits.shape[1]
    of_labels = torch.searchsorted(choices.token_ids, labels)
    own = log_probs[torch.searchsorted(rows * width + columns, numbers * width + of_labels)]
    with torch.no_grad():
        entropy = -torch.dot(log_probs.exp(), log_probs)
        largest = torch.full_like(own, -torch.inf).scatter_reduce(0, rows, log_probs, "amax")
    return ChoiceScores(-own.sum(), entropy, (own >= largest).sum())
