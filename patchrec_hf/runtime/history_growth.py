"""History growth: how many items of a growing history remain, and the checks of its timestamps."""

from __future__ import annotations

import numpy as np

from .time_gaps import check_ascending


def checked_block_size(block_size: int | None, max_history: int) -> int:
    """
    Returns `block_size`, or half of `max_history` if it is not given.

    Raises:
        ValueError: If it is no whole number from 0 to `max_history - 1`.
    """
    if block_size is None:
        return max_history // 2
    if type(block_size) is not int or not 0 <= block_size < max_history:
        raise ValueError(
            f"`block_size` must be a whole number from 0 to {max_history - 1}, because the processor's `max_history` "
            f"is {max_history} and at least one item remains; got {block_size!r}."
        )
    return block_size


def num_held(length: int, num_new: int, max_history: int, block_size: int) -> int:
    """
    Returns the number of latest items that remain: as many as if the new ones were appended one by one. An item that
    would make the history longer than `max_history` lets the oldest ones leave, so that `max_history - block_size`
    remain with it.

    Args:
        length (`int`):
            Number of items so far, at most `max_history`.
        num_new (`int`):
            Number of new items.
        max_history, block_size (`int`):
            See [`PatchRecommender.start`].
    """
    if length + num_new <= max_history:
        return length + num_new
    num_after_first_block = length + num_new - max_history - 1
    return max_history - block_size + num_after_first_block % (block_size + 1)


def joined_times(before: np.ndarray | None, new: np.ndarray | None, row: int) -> np.ndarray | None:
    """
    Appends timestamps to the ones of a history.

    Args:
        before, new (`numpy.ndarray` of int64, *optional*):
            The times of the history's items, and of the new ones.
        row (`int`):
            Number of the history, for the error message.

    Raises:
        ValueError: If only one of the two is given, or a time is earlier than the one before it.
    """
    if before is None and new is None:
        return None
    if new is None:
        raise ValueError(
            f"The state was started with timestamps, and the new items of row {row} have none. Give them: "
            "`append(items, timestamps)`."
        )
    if before is None:
        raise ValueError(
            "The state was started without timestamps, so new items cannot have them. Leave them out, or start anew: "
            "`recommender.start(history, timestamps)`."
        )
    if len(before) > 0 and len(new) > 0 and new[0] < before[-1]:
        raise ValueError(
            f"The timestamps of row {row} go back: the newest item of the state has {before[-1]}, and the first new "
            f"one has {new[0]}. Append items in the order of their times, or start anew with the whole history."
        )
    check_ascending(new, row)
    return np.concatenate([before, new])
