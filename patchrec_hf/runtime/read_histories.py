"""Read histories: prompts that a model has read up to their newest items, and reads further when items are added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .attention import maskable_attention, tree_attention_mask
from .encoding import EncodedHistory, stack_padded
from .history_cache import HistoryCache, join_histories
from .history_plans import HistoryPlan, PositionsToRead, encode_from
from .modeling import PatchRecForCausalLM
from .processing import PatchRecProcessor
from .read_groups import ReadCost, read_groups


_POSITIONS_PER_FORWARD = 1024
"""Longer prompts are read in several forwards, which bounds the size of the mask."""


@dataclass(frozen=True, eq=False)
class ReadPrompt:
    """
    A prompt that a model has read up to its newest item.

    Args:
        items (`numpy.ndarray` of shape `(n,)`, int64):
            Catalog indices of the history's items, oldest first.
        history_end (`int`):
            Position where the newest item ends; -1 if the layout leaves it out.
        num_read (`int`):
            Number of positions that were read.
        rest_ids (`numpy.ndarray` of shape `(R,)`, int64):
            The tokens of the prompt that follow.
        state (`torch.Tensor` of shape `(H,)`):
            The hidden state of the last position that was read.
        cache ([`HistoryCache`]):
            Holds the keys and values of the positions that were read.
        user (`int`):
            The number of the user in `cache`.
    """

    items: np.ndarray
    history_end: int
    num_read: int
    rest_ids: np.ndarray
    state: torch.Tensor
    cache: HistoryCache
    user: int

    @property
    def prompt_length(self) -> int:
        """Number of tokens of the whole prompt."""
        return self.num_read + len(self.rest_ids)


PromptToRank = EncodedHistory | ReadPrompt
"""A prompt behind which the catalog is ranked: one to read, or one that was read up to its newest item."""


@dataclass(frozen=True)
class PositionsRead:
    """
    Number of positions that the model read for a user, to start a state or to append items to it.

    Args:
        total (`int`):
            All of them, with separators, and with the beginning of the prompt if it was read.
        again (`int`):
            How many of them hold items that the state held before, because the layout moved these items, or because
            the oldest items left. 0 for an append-only layout while no items leave.
    """

    total: int
    again: int


class ReadHistories:
    """
    The histories of B users, read by a model up to their newest items.

    Args:
        model ([`PatchRecForCausalLM`]):
            The model, in evaluation mode.
        processor ([`PatchRecProcessor`]):
            The model's processor.
        cache ([`HistoryCache`]):
            The keys and values of what was read.
        plans (`Sequence[HistoryPlan | None]`):
            Each user's history; `None` if nothing was read.
        states (`torch.Tensor` of shape `(B, H)`):
            The hidden state at the last position of each user.
    """

    def __init__(
        self,
        model: PatchRecForCausalLM,
        processor: PatchRecProcessor,
        cache: HistoryCache,
        plans: Sequence[HistoryPlan | None],
        states: torch.Tensor,
    ) -> None:
        self.model, self.processor, self.cache, self.states = model, processor, cache, states
        self._plans = list(plans)
        # Number of units and of positions of each user whose keys and values are right. While a user is read, these
        # are fewer than the plan's. So a forward that fails leaves nothing wrong behind.
        self._num_units = [0 if plan is None else len(plan.ends) for plan in plans]
        self._num_read = [0 if plan is None else plan.length for plan in plans]

    @classmethod
    def empty(cls, model: PatchRecForCausalLM, processor: PatchRecProcessor, num_users: int) -> ReadHistories:
        """Makes users of whom nothing was read."""
        config = model.config.decoder_config
        cache = HistoryCache(num_users, [None] * config.num_hidden_layers)
        states = torch.zeros(num_users, config.hidden_size, dtype=model.dtype, device=model.device)
        return cls(model, processor, cache, [None] * num_users, states)

    def __len__(self) -> int:
        return len(self._plans)

    @property
    def plans(self) -> list[HistoryPlan]:
        """The history of each user."""
        return [plan for plan in self._plans if plan is not None]

    @property
    def num_bytes(self) -> int:
        """Size of keys, values and states in memory."""
        return self.cache.num_bytes + self.states.numel() * self.states.element_size()

    def read(self, plans: Sequence[HistoryPlan], num_new: Sequence[int]) -> tuple[PositionsRead, ...]:
        """
        Reads what is new in histories: everything from the first unit on that differs from what was read.

        Args:
            plans (`Sequence[HistoryPlan]`):
                The history of each user.
            num_new (`Sequence[int]`):
                How many of each user's latest items are new.

        Raises:
            ValueError: If a prompt is longer than the model's context, or timestamps that are read descend. Nothing
                was read then.
        """
        limit = self.model.max_length
        for row, plan in enumerate(plans):
            if limit is not None and plan.length > limit:
                raise ValueError(
                    f"The prompt of row {row} takes {plan.length} tokens up to its newest item, but the model reads "
                    f"at most {limit}. Lower the processor's `max_history`, or choose a layout that compresses more."
                )
        readings, num_kept, read = {}, {}, []
        for user, (plan, new) in enumerate(zip(plans, num_new, strict=True)):
            kept = self._num_kept(user, plan)
            if kept is None:
                read.append(PositionsRead(0, 0))
                continue
            readings[user] = reading = encode_from(self.processor, plan, kept, self._num_read[user])
            num_kept[user] = kept
            again = max(0, plan.num_positions_before(len(plan.items) - new) - reading.start)
            read.append(PositionsRead(len(reading.input_ids), again))
        if readings:
            for user, reading in readings.items():
                self._num_units[user], self._num_read[user] = num_kept[user], reading.start
            self.states = self._read(readings)
            for user in readings:
                self._num_units[user], self._num_read[user] = len(plans[user].ends), plans[user].length
        self._plans = list(plans)
        return tuple(read)

    def _num_kept(self, user: int, plan: HistoryPlan) -> int | None:
        """Returns the number of units that need not be read again; `None` if nothing must be read."""
        before = self._plans[user]
        if before is None:
            return 0
        with_timestamps = self.processor.num_time_gaps > 0
        shared = min(plan.num_shared(before, with_timestamps), self._num_units[user])
        if shared == len(plan.ends) and self._num_read[user] == plan.length:
            return None
        # The state of the last position is needed, so the last unit is read again if it was not the last before.
        return min(shared, len(plan.ends) - 1)

    def prompts(self) -> list[ReadPrompt]:
        """Returns the prompts, for a ranking."""
        prompt = self.processor.prompt
        rest_ids = np.array([prompt.end_id, *prompt.suffix_ids], dtype=np.int64)
        if any(read != plan.length for read, plan in zip(self._num_read, self.plans, strict=True)):
            self.read(self.plans, [0] * len(self))  # an append failed while it was reading
        return [
            ReadPrompt(plan.items, plan.history_end, plan.length, rest_ids, self.states[user], self.cache, user)
            for user, plan in enumerate(self.plans)
        ]

    def select(self, users: Sequence[int]) -> ReadHistories:
        """Copies some users."""
        return join_read_histories([(self, users)])

    @torch.no_grad()
    def _read(self, readings: dict[int, PositionsToRead]) -> torch.Tensor:
        """Reads positions into the cache. Returns the states of all users, shape `(B, H)`."""
        states = self.states.clone()
        users = np.array(list(readings))
        num_queries = np.array([len(reading.input_ids) for reading in readings.values()])
        num_keys = num_queries + np.array([reading.start for reading in readings.values()])
        with maskable_attention(self.model, self.model.model.language_model):
            for group in read_groups(num_queries, num_keys, ReadCost.of_model(self.model)):
                together = [readings[user] for user in users[group].tolist()]
                for first in range(0, int(num_queries[group].max()), _POSITIONS_PER_FORWARD):
                    stop = first + _POSITIONS_PER_FORWARD
                    parts = [reading.part(first, stop) for reading in together]
                    is_read = np.flatnonzero([len(part.input_ids) > 0 for part in parts])
                    last = self._forward(users[group], parts)
                    states[users[group[is_read]]] = last[is_read].to(states.device)
        return states

    def _forward(self, users: np.ndarray, readings: Sequence[PositionsToRead]) -> torch.Tensor:
        """Reads some positions of each user in one forward. Returns the states of the last ones, shape `(G, H)`."""
        model, pad_id, device = self.model, self.processor.prompt.pad_id, self.model.device
        counts = np.array([len(reading.input_ids) for reading in readings])
        starts = np.array([reading.start for reading in readings])
        offsets = np.arange(counts.max())
        # Padding stands at position 0, sees what stands there, and is not kept.
        query_positions = np.where(offsets < counts[:, None], starts[:, None] + offsets, 0)
        positions = torch.from_numpy(query_positions).to(device)
        mask = None
        if len(users) > 1:  # a single user has no padding, so the backbone's own causal mask is right
            keys = torch.arange(int((starts + counts).max()), device=device).expand(len(users), -1)
            visible = keys[:, None, :] <= positions[:, :, None]
            mask = tree_attention_mask(visible, positions, keys, model.config.decoder_config, model.dtype)
        patches = [reading.patches for reading in readings]
        return model.model(
            input_ids=stack_padded([reading.input_ids for reading in readings], pad_id).to(device),
            patch_token_ids=stack_padded([part.token_ids for part in patches], pad_id).to(device),
            patch_positions=stack_padded([part.positions for part in patches], 0).to(device),
            patch_divisors=stack_padded([part.divisors for part in patches], 0).to(device),
            patch_title_starts=stack_padded([part.title_starts for part in patches], 0).to(device),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache.open(users, starts, counts),
            use_cache=True,
            supervised_positions=torch.from_numpy(np.maximum(counts - 1, 0)[:, None]).to(device),
        ).last_hidden_state[:, 0]


def join_read_histories(parts: Sequence[tuple[ReadHistories, Sequence[int]]]) -> ReadHistories:
    """
    Copies some users of read histories of one model.

    Args:
        parts (`Sequence[tuple[ReadHistories, Sequence[int]]]`):
            Histories, and the users to copy from each.

    Returns:
        [`ReadHistories`]: the users in the order of `parts`.
    """
    first = parts[0][0]
    plans = [histories.plans[user] for histories, users in parts for user in users]
    for histories, _ in parts:
        histories.prompts()  # reads what a failed append has left out
    cache = join_histories(
        [(histories.cache, np.array(users)) for histories, users in parts], max(plan.length for plan in plans)
    )
    states = torch.cat([histories.states[list(users)] for histories, users in parts])
    return ReadHistories(first.model, first.processor, cache, plans, states)
