"""Choices: where the title of a target could go on otherwise, and the tokens that titles of the catalog have there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from ..runtime.encoding import IGNORED_LABEL, EncodedHistory
from ..runtime.trie import TitleTrie


def choices_of(trie: TitleTrie, items: np.ndarray) -> list[np.ndarray]:
    """
    Lists the choices of titles, which are the nodes on their paths that have several children. The root counts as a
    choice even if all titles begin alike, so that each title has a label; the loss of such a label is 0.

    Args:
        trie ([`TitleTrie`]):
            The titles of the catalog.
        items (`numpy.ndarray` of shape `(n,)`, int64):
            Catalog indices.

    Returns:
        `list[numpy.ndarray]`: for each item, nodes of the trie, by depth.
    """
    numbers, choices = trie.choices_on_paths(trie.leaf_of_item[items])
    if not trie.is_choice[0]:
        numbers = np.concatenate([np.arange(len(items)), numbers])
        choices = np.concatenate([np.zeros(len(items), dtype=np.int64), choices])[np.argsort(numbers, kind="stable")]
        numbers = np.sort(numbers)
    return np.split(choices, np.searchsorted(numbers, np.arange(1, len(items))))


def with_choices(history: EncodedHistory, trie: TitleTrie, choices: np.ndarray) -> EncodedHistory:
    """
    Makes the tokens after choices the only labels of a history. Its response is cut after the last token that a label
    depends on: the tokens after the last choice are certain.

    Args:
        history ([`EncodedHistory`]):
            A history with its whole response.
        trie ([`TitleTrie`]):
            The titles of the catalog.
        choices (`numpy.ndarray` of shape `(L,)`, int64):
            The choices of the target's title (see [`choices_of`]), at least one.
    """
    depths = trie.depths[choices]
    return replace(
        history,
        input_ids=history.input_ids[: history.prompt_length + depths[-1]],
        choices=choices,
        choice_labels=history.input_ids[history.prompt_length + depths],
        choice_depths=depths,
    )


def choice_tensors(
    trie: TitleTrie, histories: Sequence[EncodedHistory], shift_labels: torch.Tensor
) -> dict[str, torch.Tensor]:
    """
    Lists the tokens among which the labels of a batch are predicted, in the form that [`PatchRecForCausalLM`] takes.

    Args:
        trie ([`TitleTrie`]):
            The titles of the catalog.
        histories (`Sequence[EncodedHistory]`):
            Histories with their choices; fillers have no choices.
        shift_labels (`torch.LongTensor` of shape `(B, S)`):
            The labels, history after history.

    Returns:
        `dict[str, torch.Tensor]`, all int64, with K distinct nodes of the trie, P children and U distinct tokens:
            - `shift_choices` of shape `(B, S)`: the number of each label's node among the K; -100 is padding.
            - `choice_starts` of shape `(1, K + 1)`, `choice_columns` of shape `(1, P)`, `choice_token_ids` of shape
              `(1, U)`: the tokens of these nodes (see [`Choices`]).
    """
    nodes, of_labels = np.unique(np.concatenate([history.choices for history in histories]), return_inverse=True)
    parents, children = trie.children_of(nodes)
    token_ids, columns = np.unique(trie.tokens[children], return_inverse=True)
    columns = columns[np.lexsort((columns, parents))]  # in the trie, the end of a title precedes smaller tokens
    shift_choices = np.full(shift_labels.shape, IGNORED_LABEL, dtype=np.int64)
    shift_choices[shift_labels.numpy() != IGNORED_LABEL] = of_labels
    arrays = {
        "shift_choices": shift_choices,
        "choice_starts": np.concatenate([[0], np.cumsum(trie.num_children[nodes])])[None],
        "choice_columns": columns[None],
        "choice_token_ids": token_ids[None],
    }
    return {name: torch.from_numpy(array.astype(np.int64)) for name, array in arrays.items()}
