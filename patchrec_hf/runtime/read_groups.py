"""Groups of users who are read together: a group is joined where padding costs less than another forward."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .modeling import PatchRecForCausalLM


_POSITIONS_PER_FORWARD = 32
"""On a CPU, a forward of a model with 135M weights costs this many positions more, because it reads all weights."""
_POSITIONS_PER_FORWARD_ON_GPU = 256
_KEYS_PER_WIDTH = 3
"""The attention of a query to this many times the hidden size keys costs as much as all else that reads a position."""


@dataclass(frozen=True)
class ReadCost:
    """
    How much a forward costs: `positions_per_forward`, and for each position 1 + keys / `keys_per_position`.

    Args:
        positions_per_forward (`int`):
            Number of positions that cost as much as a forward costs besides its positions.
        keys_per_position (`int`):
            Number of keys to which attention costs as much as everything else that reads a position.
    """

    positions_per_forward: int
    keys_per_position: int

    @classmethod
    def of_model(cls, model: PatchRecForCausalLM) -> ReadCost:
        """Estimates the cost for a model on its device."""
        is_on_cpu = model.device.type == "cpu"
        return cls(
            _POSITIONS_PER_FORWARD if is_on_cpu else _POSITIONS_PER_FORWARD_ON_GPU,
            _KEYS_PER_WIDTH * model.config.decoder_config.hidden_size,
        )


def read_groups(num_queries: np.ndarray, num_keys: np.ndarray, cost: ReadCost) -> list[np.ndarray]:
    """
    Groups users for forwards. Each user of a group is padded to the group's largest numbers of queries and keys. Among
    all ways to cut the users, sorted by their queries, the groups cost least. To read each user alone is one of these
    ways, so that a batch never costs more than its users one by one.

    Args:
        num_queries (`numpy.ndarray` of shape `(n,)`, int64):
            Number of positions to read for each user.
        num_keys (`numpy.ndarray` of shape `(n,)`, int64):
            Number of keys that each user's positions see, with the new ones.
        cost ([`ReadCost`]):
            The cost of a forward.

    Returns:
        `list[numpy.ndarray]`: for each forward, the indices of its users, ascending.
    """
    order = np.lexsort((-num_keys, -num_queries))
    queries, keys = num_queries[order], num_keys[order]
    # The least cost of the first users, and the size of their last group.
    least, sizes = np.zeros(len(order) + 1), np.zeros(len(order) + 1, dtype=np.int64)
    for stop in range(1, len(order) + 1):
        # The last group holds 1, 2, …, `stop` users.
        widest = np.maximum.accumulate(queries[:stop][::-1])
        longest = np.maximum.accumulate(keys[:stop][::-1])
        positions = np.arange(1, stop + 1) * widest * (1 + longest / cost.keys_per_position)
        costs = least[:stop][::-1] + cost.positions_per_forward + positions
        sizes[stop] = 1 + np.argmin(costs)
        least[stop] = costs[sizes[stop] - 1]
    groups, stop = [], len(order)
    while stop > 0:
        groups.append(np.sort(order[stop - sizes[stop] : stop]))
        stop -= sizes[stop]
    return groups[::-1]
