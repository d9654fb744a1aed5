"""Encoded histories: one history as arrays, and a batch of histories as padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch


IGNORED_LABEL = -100


class TokenCounts(NamedTuple):
    """
    Number of positions that an input takes, counted in three ways.

    Args:
        titles (`int`):
            Title tokens and patches, without separators (the paper's count).
        history (`int`):
            The history as the model reads it, with its separators.
        prompt (`int`):
            The whole prompt as the model reads it.
    """

    titles: int
    history: int
    prompt: int


class FoldedItems(NamedTuple):
    """
    The tokens, residuals and time gaps that are folded into patches, as flat int64 arrays of one length.

    Args:
        token_ids (`numpy.ndarray`):
            Title tokens; -1 - i is the residual of the item with catalog index i, and -1 - r - b is the vector of the
            time gap b, where r items have residuals.
        positions (`numpy.ndarray`):
            The position of the patch that each is folded into; ascending if the items' positions are.
        divisors (`numpy.ndarray`):
            The divisor of each embedding.
        title_starts (`numpy.ndarray`):
            1 for the first token of a title, else 0.
    """

    token_ids: np.ndarray
    positions: np.ndarray
    divisors: np.ndarray
    title_starts: np.ndarray


def _no_numbers() -> np.ndarray:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class EncodedHistory:
    """
    One history as arrays, with its target if it has one. All arrays are int64.

    Args:
        input_ids (`numpy.ndarray` of shape `(T,)`):
            The prompt, then the response. Each patch is one `<|patch|>`.
        prompt_length (`int`):
            Number of prompt tokens in `input_ids`.
        patch_token_ids (`numpy.ndarray` of shape `(N,)`):
            The title tokens that are folded into patches, in the order of `patch_positions`. Negative numbers are
            learned residuals and time gaps (see [`FoldedItems`]).
        patch_positions (`numpy.ndarray` of shape `(N,)`):
            For each folded token, the position of its patch in `input_ids`; ascending.
        patch_divisors (`numpy.ndarray` of shape `(N,)`):
            For each folded token, the divisor of its embedding: the length of its title (1 for a residual), times the
            number of items for a session patch.
        patch_title_starts (`numpy.ndarray` of shape `(N,)`):
            For each folded token, 1 if a title begins with it, else 0.
        counts ([`TokenCounts`]):
            Counts of the prompt.
        text_counts ([`TokenCounts`]):
            Counts of the same prompt with every item as text.
        items (`numpy.ndarray` of shape `(n,)`, *optional*):
            Catalog indices of the history's items, oldest first. Titles outside the catalog have larger numbers.
        item_ends (`numpy.ndarray` of shape `(n,)`, *optional*):
            For each item, the position in `input_ids` where it ends: its patch, or the last token of its title. The
            items of a session share their patch. -1 for an item that the layout leaves out.
        item_targets (`numpy.ndarray` of shape `(P,)`, *optional*):
            Catalog indices of the items to predict, each where the item before it ends; -100 for a filler.
        items_before (`numpy.ndarray` of shape `(P,)`, *optional*):
            For each of them, the number of items of the history that are before it, ascending.
        choices (`numpy.ndarray` of shape `(L,)`, *optional*):
            The nodes of the title trie whose children the labels are chosen from, by depth. Without choices, each
            token of the response is a label. With them, the response holds only the tokens before the last label.
        choice_labels (`numpy.ndarray` of shape `(L,)`, *optional*):
            For each choice, the token of the target's title after it.
        choice_depths (`numpy.ndarray` of shape `(L,)`, *optional*):
            For each choice, the number of response tokens before its label.
    """

    input_ids: np.ndarray
    prompt_length: int
    patch_token_ids: np.ndarray
    patch_positions: np.ndarray
    patch_divisors: np.ndarray
    patch_title_starts: np.ndarray
    counts: TokenCounts
    text_counts: TokenCounts
    items: np.ndarray = field(default_factory=_no_numbers)
    item_ends: np.ndarray = field(default_factory=_no_numbers)
    item_targets: np.ndarray = field(default_factory=_no_numbers)
    items_before: np.ndarray = field(default_factory=_no_numbers)
    choices: np.ndarray = field(default_factory=_no_numbers)
    choice_labels: np.ndarray = field(default_factory=_no_numbers)
    choice_depths: np.ndarray = field(default_factory=_no_numbers)

    @property
    def history_end(self) -> int:
        """Position where the newest item ends; -1 if the layout leaves it out."""
        return int(self.item_ends[-1]) if len(self.item_ends) else -1

    @property
    def item_positions(self) -> np.ndarray:
        """Positions in `input_ids` whose states predict the item targets, int64, shape `(P,)`."""
        return self.item_ends[self.items_before - 1]

    @property
    def supervised_positions(self) -> np.ndarray:
        """Positions in `input_ids` whose states predict the labels, int64, ascending."""
        depths = self.choice_depths if len(self.choices) else np.arange(len(self.input_ids) - self.prompt_length)
        return self.prompt_length - 1 + depths

    @property
    def next_tokens(self) -> np.ndarray:
        """The labels, int64: the token that is predicted at each of `supervised_positions`."""
        return self.choice_labels if len(self.choices) else self.input_ids[self.prompt_length :]


def pad_histories(
    histories: Sequence[EncodedHistory], pad_id: int, padding_side: Literal["left", "right"] = "right"
) -> dict[str, torch.Tensor]:
    """
    Pads encoded histories to one shape. All tensors are int64, batch first.

    Args:
        histories (`Sequence[EncodedHistory]`):
            B encoded histories. T is the length of the longest one, N the largest number of folded tokens, and S the
            largest number of labels.
        pad_id (`int`):
            Token that pads `input_ids`.
        padding_side (`"left"` or `"right"`, *optional*, defaults to `"right"`):
            Side on which `input_ids`, `attention_mask` and `labels` are padded. The other tensors are always padded on
            the right.

    Returns:
        `dict[str, torch.Tensor]`:
            - `input_ids`, `attention_mask`, `labels` of shape `(B, T)`. Labels are -100 outside the response.
            - `patch_token_ids`, `patch_positions`, `patch_divisors`, `patch_title_starts` of shape `(B, N)`. Padding
              has the divisor 0.
            - `supervised_positions`, `shift_labels` of shape `(B, S)`: each position whose next token is a label, and
              that token. Padding is 0 in the first tensor and -100 in the second.
            - `item_positions`, `item_targets` of shape `(B, P)`, only if a history has such positions: each position
              whose state predicts the next item, and that item's catalog index. Padding is 0 and -100.

    Raises:
        ValueError: If there are no histories.
    """
    if not histories:
        raise ValueError("There is nothing to pad: the rows hold no history, or no target position.")
    lengths = [len(history.input_ids) for history in histories]
    longest = max(lengths)
    shifts = [longest - length if padding_side == "left" else 0 for length in lengths]
    responses = [history.input_ids[history.prompt_length :] for history in histories]

    input_ids = stack_padded([history.input_ids for history in histories], pad_id, shifts)
    response_starts = [shift + history.prompt_length for shift, history in zip(shifts, histories, strict=True)]
    labels = np.full(input_ids.shape, IGNORED_LABEL, dtype=np.int64)
    for row, (start, response) in enumerate(zip(response_starts, responses, strict=True)):
        labels[row, start : start + len(response)] = response
    batch = {
        # Trainer and accelerate read the batch size from the first entry.
        "input_ids": input_ids,
        "attention_mask": stack_padded([np.ones(length, dtype=np.int64) for length in lengths], 0, shifts),
        "labels": torch.from_numpy(labels),
        "patch_token_ids": stack_padded([history.patch_token_ids for history in histories], pad_id),
        "patch_positions": stack_padded(
            [history.patch_positions + shift for history, shift in zip(histories, shifts, strict=True)], 0
        ),
        "patch_divisors": stack_padded([history.patch_divisors for history in histories], 0),
        "patch_title_starts": stack_padded([history.patch_title_starts for history in histories], 0),
        "supervised_positions": stack_padded(
            [history.supervised_positions + shift for history, shift in zip(histories, shifts, strict=True)], 0
        ),
        "shift_labels": stack_padded([history.next_tokens for history in histories], IGNORED_LABEL),
    }
    if any(len(history.item_targets) for history in histories):
        shifted = [history.item_positions + shift for history, shift in zip(histories, shifts, strict=True)]
        batch["item_positions"] = stack_padded(shifted, 0)
        batch["item_targets"] = stack_padded([history.item_targets for history in histories], IGNORED_LABEL)
    return batch


def stack_padded(arrays: Sequence[np.ndarray], fill: int, offsets: Sequence[int] | None = None) -> torch.Tensor:
    """
    Stacks arrays of different lengths.

    Args:
        arrays (`Sequence[numpy.ndarray]`):
            B arrays of one dimension.
        fill (`int`):
            Value of the entries that no array fills.
        offsets (`Sequence[int]`, *optional*):
            For each array, the column of its first entry; 0 if not given.

    Returns:
        `torch.LongTensor` of shape `(B, longest)`.
    """
    stacked = np.full((len(arrays), max(map(len, arrays))), fill, dtype=np.int64)
    for row, array in enumerate(arrays):
        offset = offsets[row] if offsets else 0
        stacked[row, offset : offset + len(array)] = array
    return torch.from_numpy(stacked)
