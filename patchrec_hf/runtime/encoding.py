"""Encoded examples: one history as arrays, and many of them as padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch


IGNORED_LABEL = -100


class TokenCounts(NamedTuple):
    """
    Positions that an input takes, counted in three ways.

    Args:
        titles (`int`):
            Title tokens and patches; separators ignored (the paper's count).
        history (`int`):
            The history as fed, with its separators.
        prompt (`int`):
            The whole prompt as fed.
    """

    titles: int
    history: int
    prompt: int


@dataclass(frozen=True, eq=False)
class EncodedHistory:
    """
    One history, and its target if it has one, as arrays. All arrays are int64.

    Args:
        input_ids (`numpy.ndarray` of shape `(T,)`):
            Prompt, then response; `<|patch|>` where a patch stands.
        prompt_length (`int`):
            How many of `input_ids` are prompt.
        patch_token_ids (`numpy.ndarray` of shape `(N,)`):
            The title tokens that are folded into patches, in the order of `patch_positions`.
        patch_positions (`numpy.ndarray` of shape `(N,)`):
            The position in `input_ids` of the patch that each token is folded into, ascending.
        patch_divisors (`numpy.ndarray` of shape `(N,)`):
            What each token's embedding is divided by: the title's length, times the number of items for a session
            patch.
        counts ([`TokenCounts`]):
            What the prompt takes.
        text_counts ([`TokenCounts`]):
            What it would take with every item as text.
    """

    input_ids: np.ndarray
    prompt_length: int
    patch_token_ids: np.ndarray
    patch_positions: np.ndarray
    patch_divisors: np.ndarray
    counts: TokenCounts
    text_counts: TokenCounts


def pad_histories(
    examples: Sequence[EncodedHistory], pad_id: int, padding_side: Literal["left", "right"] = "right"
) -> dict[str, torch.Tensor]:
    """
    Fills examples up to one shape. All tensors are int64, batch first.

    Args:
        examples (`Sequence[EncodedHistory]`):
            B examples; T is the longest one's length, N the largest number of folded tokens and S the longest
            response's length.
        pad_id (`int`):
            Fills `input_ids`.
        padding_side (`"left"` or `"right"`, *optional*, defaults to `"right"`):
            Where `input_ids` are filled up; the other tensors are always filled up on the right.

    Returns:
        `dict[str, torch.Tensor]`:
            - `input_ids`, `attention_mask`, `labels` of shape `(B, T)`; labels are -100 outside the response.
            - `patch_token_ids`, `patch_positions`, `patch_divisors` of shape `(B, N)`; the divisor of padding is 0.
            - `supervised_positions`, `shift_labels` of shape `(B, S)`: the positions whose next token is a label, and
              those tokens; padding is 0 and -100.

    Raises:
        ValueError: If there are no examples.
    """
    if not examples:
        raise ValueError("There is nothing to pad: the rows hold no history, or no target position.")
    lengths = [len(example.input_ids) for example in examples]
    longest = max(lengths)
    shifts = [longest - length if padding_side == "left" else 0 for length in lengths]
    responses = [example.input_ids[example.prompt_length :] for example in examples]

    def stack(arrays: Sequence[np.ndarray], fill: int, offsets: Sequence[int] | None = None) -> torch.Tensor:
        stacked = np.full((len(arrays), max(map(len, arrays))), fill, dtype=np.int64)
        for row, array in enumerate(arrays):
            offset = offsets[row] if offsets else 0
            stacked[row, offset : offset + len(array)] = array
        return torch.from_numpy(stacked)

    input_ids = stack([example.input_ids for example in examples], pad_id, shifts)
    response_starts = [shift + example.prompt_length for shift, example in zip(shifts, examples, strict=True)]
    labels = np.full(input_ids.shape, IGNORED_LABEL, dtype=np.int64)
    for row, (start, response) in enumerate(zip(response_starts, responses, strict=True)):
        labels[row, start : start + len(response)] = response
    return {
        # Trainer and accelerate read the batch size from the first entry.
        "input_ids": input_ids,
        "attention_mask": stack([np.ones(length, dtype=np.int64) for length in lengths], 0, shifts),
        "labels": torch.from_numpy(labels),
        "patch_token_ids": stack([example.patch_token_ids for example in examples], pad_id),
        "patch_positions": stack(
            [example.patch_positions + shift for example, shift in zip(examples, shifts, strict=True)], 0
        ),
        "patch_divisors": stack([example.patch_divisors for example in examples], 0),
        "supervised_positions": stack(
            [start - 1 + np.arange(len(response)) for start, response in zip(response_starts, responses, strict=True)],
            0,
        ),
        "shift_labels": stack(responses, IGNORED_LABEL),
    }
