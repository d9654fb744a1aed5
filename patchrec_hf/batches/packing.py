"""Prefix trees: the prompts of many examples as one sequence, in which what they share stands once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..runtime.catalog import ragged_arange
from ..runtime.encoding import IGNORED_LABEL, EncodedHistory


_CHUNK_SIZES = np.arange(16, 513, 16)
"""Positions that may attend together, as a chunk of the sequence."""
_CHUNK_OVERHEAD = 32
"""What it costs to gather a key for a chunk, as a number of queries that are scored with it."""


def pack_histories(examples: Sequence[EncodedHistory]) -> dict[str, torch.Tensor]:
    """
    Merges examples into one sequence, in which every prefix that prompts share, text and patches alike, stands once.

    The sequence is a forest in preorder: a position's children follow it, each with its whole subtree. Position `q`
    sees position `k` exactly if `k <= q < subtree_end[k]`: itself and its ancestors, which are the example it belongs
    to. With depths as positions, every example then has the hidden states, the loss and the gradients that it has
    alone. Each example keeps a last prompt token and a response of its own, so that none of its labels is merged with
    another's, even if the prompts are equal.

    Args:
        examples (`Sequence[EncodedHistory]`):
            E examples in any order, of any users and layouts. Those that share nothing just stand side by side.

    Returns:
        `dict[str, torch.Tensor]`, all int64, T being the sequence's length and S the number of response tokens:
            - `input_ids`, `labels` of shape `(1, T)`; labels are -100 outside the responses.
            - `position_ids` of shape `(1, T)`: depth, from 0.
            - `subtree_end` of shape `(1, T)`: one past the last descendant.
            - `chunk_ancestors` of shape `(C, A)`: the sequence is cut into C chunks of ⌈T / C⌉ positions, and these
              are the ancestors of each chunk's first position, by depth; padding is -1. What any position of a chunk
              sees is among them or in the chunk itself.
            - `patch_token_ids`, `patch_positions`, `patch_divisors` of shape `(1, N)`, as in [`pad_histories`].
            - `supervised_positions`, `shift_labels` of shape `(1, S)`: the positions whose next token is a label, and
              those tokens, example after example.

    Raises:
        ValueError: If there are no examples.
    """
    if not examples:
        raise ValueError("There is nothing to pack: the rows hold no history, or no target position.")
    keys = _prefix_keys(examples)
    # Sorted, whatever an example shares with any before it, it shares with the one just before it.
    order = sorted(range(len(examples)), key=lambda index: keys[index].tobytes())
    shared = _shared_lengths([keys[index] for index in order])
    ordered = [examples[index] for index in order]
    lengths = np.array([len(example.input_ids) for example in ordered])
    prompt_lengths = np.array([example.prompt_length for example in ordered])
    # An example adds one branch to the sequence: all of it that it does not share.
    branch_lengths = lengths - shared
    branch_starts = np.cumsum(branch_lengths) - branch_lengths

    depths = np.arange(lengths.max())
    is_own = (depths >= shared[:, None]) & (depths < lengths[:, None])
    # The position at each depth of each example: its own, or that of the last example above which has one there.
    paths = np.where(is_own, branch_starts[:, None] + depths - shared[:, None], -1)
    paths = np.maximum.accumulate(paths, axis=0)
    # A subtree ends where a later example leaves the path at this depth or above.
    total = branch_lengths.sum()
    leaves = np.where(depths >= shared[1:, None], branch_starts[1:, None], total)
    leaves = np.concatenate([leaves, np.full((1, len(depths)), total)])
    ends = np.minimum.accumulate(leaves[::-1], axis=0)[::-1]

    rows_of_position, depth_of_position = np.nonzero(is_own)
    tokens = np.zeros(is_own.shape, dtype=np.int64)
    tokens[depths < lengths[:, None]] = np.concatenate([example.input_ids for example in ordered])
    input_ids = tokens[is_own]
    is_response = depth_of_position >= prompt_lengths[rows_of_position]

    supervised, next_tokens = _supervised(np.argsort(order), lengths, prompt_lengths, paths, tokens)
    arrays = {
        # Trainer and accelerate read the batch size from the first entry.
        "input_ids": input_ids[None],
        "labels": np.where(is_response, input_ids, IGNORED_LABEL)[None],
        "position_ids": depth_of_position[None],
        "subtree_end": ends[is_own][None],
        "chunk_ancestors": _chunk_ancestors(rows_of_position, depth_of_position, paths),
        **_own_patches(ordered, shared, branch_starts),
        "supervised_positions": supervised[None],
        "shift_labels": next_tokens[None],
    }
    return {name: torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)) for name, array in arrays.items()}


def _prefix_keys(examples: Sequence[EncodedHistory]) -> list[np.ndarray]:
    """
    For each example, what stands at each position of its prompt but the last, as a number: the token, or a negative
    one that only patches of the same tokens and divisors have.
    """
    keys = [example.input_ids[: example.prompt_length - 1].copy() for example in examples]
    # A patch opens where the position that tokens are folded into changes, or the example.
    owners = np.repeat(np.arange(len(examples)), [len(example.patch_positions) for example in examples])
    if len(owners) == 0:
        return keys
    positions = np.concatenate([example.patch_positions for example in examples])
    opens = np.flatnonzero(np.append(True, (np.diff(positions) != 0) | (np.diff(owners) != 0)))
    sizes = np.diff(np.append(opens, len(positions)))
    tokens = np.concatenate([example.patch_token_ids for example in examples])
    divisors = np.concatenate([example.patch_divisors for example in examples])
    # A token and its divisor as one number; 0 fills up, as no divisor is 0.
    contents = np.zeros((len(opens), sizes.max()), dtype=np.int64)
    contents[np.repeat(np.arange(len(opens)), sizes), ragged_arange(sizes)] = (tokens << 32) | divisors
    order = np.lexsort(contents.T)
    is_new = (contents[order[1:]] != contents[order[:-1]]).any(axis=1)
    kinds = np.empty(len(opens), dtype=np.int64)
    kinds[order] = np.append(0, np.cumsum(is_new))
    cuts = np.searchsorted(owners[opens], np.arange(len(examples) + 1))
    for example, key in enumerate(keys):
        patches = slice(cuts[example], cuts[example + 1])
        key[positions[opens[patches]]] = -1 - kinds[patches]
    return keys


def _shared_lengths(keys: Sequence[np.ndarray]) -> np.ndarray:
    """How many leading entries each of the sorted `keys` shares with the one before it; 0 for the first."""
    lengths = np.array([len(key) for key in keys])
    rows = np.zeros((len(keys), lengths.max()), dtype=np.int64)
    rows[np.arange(rows.shape[1]) < lengths[:, None]] = np.concatenate(keys)
    equal = np.logical_and.accumulate(rows[1:] == rows[:-1], axis=1).sum(axis=1)
    return np.append(0, np.minimum(equal, np.minimum(lengths[1:], lengths[:-1])))


def _supervised(
    rows: np.ndarray, lengths: np.ndarray, prompt_lengths: np.ndarray, paths: np.ndarray, tokens: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where the next token is a label, and that token: for each of `rows`, from its last prompt token on."""
    counts = (lengths - prompt_lengths)[rows]
    flat_rows = np.repeat(rows, counts)
    depths = np.repeat(prompt_lengths[rows] - 1, counts) + ragged_arange(counts)
    return paths[flat_rows, depths], tokens[flat_rows, depths + 1]


def _chunk_ancestors(rows: np.ndarray, depths: np.ndarray, paths: np.ndarray) -> np.ndarray:
    """`chunk_ancestors`, of positions in the given rows of `paths` and at the given depths."""
    counts = -(-len(rows) // _CHUNK_SIZES)
    sizes = -(-len(rows) // counts)
    costs = counts * (depths.max() + sizes) * (sizes + _CHUNK_OVERHEAD)
    firsts = np.arange(0, len(rows), sizes[costs.argmin()])
    columns = np.arange(depths[firsts].max())
    return np.where(columns < depths[firsts, None], paths[rows[firsts, None], columns], -1)


def _own_patches(
    examples: Sequence[EncodedHistory], shared: np.ndarray, branch_starts: np.ndarray
) -> dict[str, np.ndarray]:
    """The patches of the sorted `examples` that none before them has, at their positions in the sequence."""
    counts = [len(example.patch_positions) for example in examples]
    depths = np.concatenate([example.patch_positions for example in examples])
    is_own = depths >= np.repeat(shared, counts)
    return {
        "patch_token_ids": np.concatenate([example.patch_token_ids for example in examples])[is_own][None],
        "patch_positions": (depths + np.repeat(branch_starts - shared, counts))[is_own][None],
        "patch_divisors": np.concatenate([example.patch_divisors for example in examples])[is_own][None],
    }
