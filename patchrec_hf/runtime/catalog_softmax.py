"""The catalog softmax: log-probabilities of tokens among those with which a title of the catalog can go on."""

from __future__ import annotations

import torch


def catalog_log_softmax(
    logits: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """
    Normalizes each row's logits over some of its columns, which may be others in each row. With the children of a node
    of the title trie as columns, it is the trie-normalized likelihood ("Masked Softmax Loss", SIGIR'25).

    Args:
        logits (`torch.Tensor` of shape `(n, m)`):
            Logits.
        rows, columns (`torch.LongTensor` of shape `(P,)`):
            The cells that count, each once. They may stand in any order.
        temperature (`float`, *optional*, defaults to `1.0`):
            By what logits are divided.

    Returns:
        `torch.Tensor` of shape `(P,)`, float32: log-probabilities of the cells. In each row they sum to 1.
    """
    values = logits[rows, columns].float() / temperature
    largest = values.new_full((len(logits),), -torch.inf).scatter_reduce(0, rows, values.detach(), "amax")[rows]
    shifted = values - largest
    sums = values.new_zeros(len(logits)).index_add(0, rows, shifted.exp())
    return shifted - sums.log()[rows]
