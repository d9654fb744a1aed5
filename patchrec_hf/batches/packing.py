"""Packed batches: many prompts as one sequence, which holds each prefix that prompts share once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..runtime.encoding import IGNORED_LABEL, EncodedHistory


_CHUNK_SIZES = np.arange(16, 513, 16)
"""Candidate chunk sizes. The positions of one chunk attend together."""
_CHUNK_OVERHEAD = 32
"""Cost of gathering one key for a chunk, as the number of queries that could be scored with it instead."""


def pack_histories(histories: Sequence[EncodedHistory]) -> dict[str, torch.Tensor]:
    """
    Merges encoded histories into one sequence, which holds every prefix that prompts share once, text and patches
    alike.

    The sequence is a forest in preorder: a position's children follow it, each with its whole subtree. Position `q`
    sees position `k` exactly if `k <= q < subtree_end[k]`, so it sees itself and its ancestors, which are the history
    that it belongs to. Position ids are depths, so every history has the hidden states, the loss and the gradients
    that it has alone. Each history keeps its own last prompt token and response, so labels of different histories are
    never merged, even if the prompts are equal.

    Args:
        histories (`Sequence[EncodedHistory]`):
            H encoded histories in any order, of any users and layouts. Histories that share nothing stand side by
            side.

    Returns:
        `dict[str, torch.Tensor]`, all int64, T being the sequence's length and S the number of labels:
            - `input_ids`, `labels` of shape `(1, T)`; labels are -100 outside the responses.
            - `position_ids` of shape `(1, T)`: depth, from 0.
            - `subtree_end` of shape `(1, T)`: one past the last descendant.
            - `chunk_ancestors` of shape `(C, A)`: the sequence is cut into C chunks of ⌈T / C⌉ positions. Row c holds
              the ancestors of the first position of chunk c, by depth; padding is -1. A position sees only these
              ancestors and positions of its own chunk.
            - `patch_token_ids`, `patch_positions`, `patch_divisors`, `patch_title_starts` of shape `(1, N)`, as in
              [`pad_histories`].
            - `supervised_positions`, `shift_labels` of shape `(1, S)`: the positions whose next token is a label, and
              those tokens, history after history.
            - `item_positions`, `item_targets` of shape `(1, P)`, only if a history has such positions: the positions
              whose state predicts the next item, and those items' catalog indices, history after history.

    Raises:
        ValueError: If there are no histories.
    """
    if not histories:
        raise ValueError("There is nothing to pack: the rows hold no history, or no target position.")
    keys = _prefix_keys(histories)
    # In sorted order, a history shares its longest prefix with the history just before it.
    order = sorted(range(len(histories)), key=lambda index: keys[index].tobytes())
    shared = _shared_lengths([keys[index] for index in order])
    ordered = [histories[index] for index in order]
    lengths = np.array([len(history.input_ids) for history in ordered])
    prompt_lengths = np.array([history.prompt_length for history in ordered])
    # Each history adds one branch to the sequence: the part that it does not share.
    branch_lengths = lengths - shared
    branch_starts = np.cumsum(branch_lengths) - branch_lengths

    depths = np.arange(lengths.max())
    is_own = (depths >= shared[:, None]) & (depths < lengths[:, None])
    # `paths[i, d]`: where history i's token at depth d stands in the sequence. A shared prefix points to the earlier
    # history that owns it.
    paths = np.where(is_own, branch_starts[:, None] + depths - shared[:, None], -1)
    paths = np.maximum.accumulate(paths, axis=0)
    # A subtree ends where a later history leaves the path at this depth or above.
    total = branch_lengths.sum()
    leaves = np.where(depths >= shared[1:, None], branch_starts[1:, None], total)
    leaves = np.concatenate([leaves, np.full((1, len(depths)), total)])
    ends = np.minimum.accumulate(leaves[::-1], axis=0)[::-1]

    history_of_position, depth_of_position = np.nonzero(is_own)
    tokens = np.zeros(is_own.shape, dtype=np.int64)
    tokens[depths < lengths[:, None]] = np.concatenate([history.input_ids for history in ordered])
    input_ids = tokens[is_own]
    is_response = depth_of_position >= prompt_lengths[history_of_position]

    rows = np.argsort(order)
    supervised = [history.supervised_positions for history in histories]
    arrays = {
        # Trainer and accelerate read the batch size from the first entry.
        "input_ids": input_ids[None],
        "labels": np.where(is_response, input_ids, IGNORED_LABEL)[None],
        "position_ids": depth_of_position[None],
        "subtree_end": ends[is_own][None],
        "chunk_ancestors": _chunk_ancestors(history_of_position, depth_of_position, paths),
        **_own_patches(ordered, shared, branch_starts),
        "supervised_positions": paths[np.repeat(rows, [*map(len, supervised)]), np.concatenate(supervised)][None],
        "shift_labels": np.concatenate([history.next_tokens for history in histories])[None],
    }
    counts = [len(history.item_targets) for history in histories]
    if any(counts):
        positions = np.concatenate([history.item_positions for history in histories])
        arrays["item_positions"] = paths[np.repeat(rows, counts), positions][None]
        arrays["item_targets"] = np.concatenate([history.item_targets for history in histories])[None]
    return {name: torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)) for name, array in arrays.items()}


def _prefix_keys(histories: Sequence[EncodedHistory]) -> list[np.ndarray]:
    """
    For each history, one number per position of its prompt, without the last position. The number is the token, or a
    negative number that stands for a patch: patches have the same one exactly if their titles and divisors are equal.
    """
    keys = [history.input_ids[: history.prompt_length].copy() for history in histories]
    # A new patch opens where the position that tokens are folded into changes, or the history does.
    owners = np.repeat(np.arange(len(histories)), [len(history.patch_positions) for history in histories])
    if len(owners) == 0:
        return [key[:-1] for key in keys]
    positions = np.concatenate([history.patch_positions for history in histories])
    opens = np.flatnonzero(np.append(True, (np.diff(positions) != 0) | (np.diff(owners) != 0)))
    sizes = np.diff(np.append(opens, len(positions)))
    tokens = np.concatenate([history.patch_token_ids for history in histories])
    divisors = np.concatenate([history.patch_divisors for history in histories])
    starts = np.concatenate([history.patch_title_starts for history in histories])
    # A token, its divisor and whether a title begins with it, as one number.
    contents = (tokens << 32) | (divisors << 1) | starts
    kinds = np.empty(len(opens), dtype=np.int64)
    num_kinds = 0
    # Size by size, because the patch of a long session holds thousands of tokens, and the others need no such width.
    for size in np.unique(sizes):
        is_of_size = sizes == size
        rows = contents[opens[is_of_size, None] + np.arange(size)]
        _, kinds_of_size = np.unique(rows.view(np.dtype((np.void, rows.itemsize * size))), return_inverse=True)
        kinds[is_of_size] = num_kinds + kinds_of_size.ravel()
        num_kinds += len(rows)
    cuts = np.searchsorted(owners[opens], np.arange(len(histories) + 1))
    for index, key in enumerate(keys):
        patches = slice(cuts[index], cuts[index + 1])
        key[positions[opens[patches]]] = -1 - kinds[patches]
    return [key[:-1] for key in keys]


def _shared_lengths(keys: Sequence[np.ndarray]) -> np.ndarray:
    """For each of the sorted `keys`, the number of leading entries that it shares with the key before it; first 0."""
    lengths = np.array([len(key) for key in keys])
    rows = np.zeros((len(keys), lengths.max()), dtype=np.int64)
    rows[np.arange(rows.shape[1]) < lengths[:, None]] = np.concatenate(keys)
    equal = np.logical_and.accumulate(rows[1:] == rows[:-1], axis=1).sum(axis=1)
    return np.append(0, np.minimum(equal, np.minimum(lengths[1:], lengths[:-1])))


def _chunk_ancestors(rows: np.ndarray, depths: np.ndarray, paths: np.ndarray) -> np.ndarray:
    """Computes `chunk_ancestors`. Position p of the sequence stands in row `rows[p]` of `paths`, at `depths[p]`."""
    counts = -(-len(rows) // _CHUNK_SIZES)
    sizes = -(-len(rows) // counts)
    costs = counts * (depths.max() + sizes) * (sizes + _CHUNK_OVERHEAD)
    firsts = np.arange(0, len(rows), sizes[costs.argmin()])
    columns = np.arange(depths[firsts].max())
    return np.where(columns < depths[firsts, None], paths[rows[firsts, None], columns], -1)


def _own_patches(
    histories: Sequence[EncodedHistory], shared: np.ndarray, branch_starts: np.ndarray
) -> dict[str, np.ndarray]:
    """The patches in the branches of the sorted `histories`, at their positions in the sequence."""
    counts = [len(history.patch_positions) for history in histories]
    depths = np.concatenate([history.patch_positions for history in histories])
    is_own = depths >= np.repeat(shared, counts)
    return {
        "patch_token_ids": np.concatenate([history.patch_token_ids for history in histories])[is_own][None],
        "patch_positions": (depths + np.repeat(branch_starts - shared, counts))[is_own][None],
        "patch_divisors": np.concatenate([history.patch_divisors for history in histories])[is_own][None],
        "patch_title_starts": np.concatenate([history.patch_title_starts for history in histories])[is_own][None],
    }
