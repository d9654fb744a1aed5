"""User states: histories that a model has read, that grow click by click, and that are ranked as they were read."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

import numpy as np

from .configuration import Normalizer
from .history_growth import checked_block_size, joined_times, num_held
from .history_plans import HistoryPlan
from .item_index import ItemIndex
from .layouts import Layout, check_layout
from .ranking_config import Method
from .read_histories import PositionsRead, ReadHistories, ReadPrompt, join_read_histories
from .recommendations import PromptRecommender, Recommendation
from .saved_layouts import check_saved_layout
from .sharding import is_sharded
from .state_files import SavedState, load_histories, read_saved, save_histories
from .time_gaps import check_ascending
from .user_histories import Item, as_additions, as_batch, as_timestamps, known_indices


class UserState:
    """
    The history of a user, or of a batch of users, as a model has read it: the keys and values up to where the newest
    item ends. [`PatchRecommender.start`] makes a state.

    A state holds what `recommender.recommend(state.item_ids)` reads, and recommends the same. If the layout is
    append-only, an appended item costs its own positions. Otherwise, the model reads from the first unit on that the
    layout has changed. A recommendation reads nothing by the item head, and only the end of the prompt by titles.

    When a history would become longer than `processor.max_history`, its oldest items leave, so that
    `max_history - block_size` remain, and the model reads the rest again.

    Make a new recommender and a new state after the model has been trained further.

    Attributes:
        positions_read (`tuple[PositionsRead, ...]`):
            For each user, how many positions the model read for the latest call of [`~UserState.append`], or to start
            the state.
        layout ([`Layout`]):
            The layout of the histories.
        block_size (`int`):
            See [`PatchRecommender.start`].

    Example:
    ```python
    >>> state = recommender.start([3, 14])
    >>> state.append(15)
    >>> state.recommend(k=3)
    >>> state.save("states/ada.safetensors")
    ```
    """

    def __init__(
        self,
        recommender: PromptRecommender,
        histories: ReadHistories,
        layout: Layout,
        block_size: int,
        is_single: bool,
        positions_read: tuple[PositionsRead, ...],
    ) -> None:
        self._recommender = recommender
        self._histories = histories
        self._is_single = is_single
        self.layout = layout
        self.block_size = block_size
        self.positions_read = positions_read

    @classmethod
    def start(
        cls,
        recommender: PromptRecommender,
        histories: Sequence[Item] | Sequence[Sequence[Item]],
        timestamps: Sequence[int] | Sequence[Sequence[int]] | np.ndarray | None = None,
        layout: Layout | None = None,
        block_size: int | None = None,
    ) -> UserState:
        """See [`PatchRecommender.start`]."""
        model, processor = recommender.model, recommender.processor
        if is_sharded(model):
            raise ValueError(
                "A user state needs a model whose weights are whole in this process, and they are sharded (ZeRO-3 or "
                "FSDP2). Save the model, and load it with `PatchRecommender.from_pretrained`."
            )
        check_layout(layout)
        layout = processor.layout if layout is None else layout
        size = checked_block_size(block_size, processor.max_history)
        is_single, batch = as_batch(histories)
        times = as_timestamps(timestamps, batch, is_single)
        if times is None and processor.reads_timestamps(layout):
            raise processor.missing_timestamps("a state was started without `timestamps`", layout)
        if not model.supports_tree_attention():
            raise TypeError(
                f"{type(model.model.language_model).__name__} keeps no keys and values that can be read in parts: its "
                "state or its positions do not follow the attention mask. Use a backbone with attention and position "
                "ids, or `recommend`, which reads whole histories."
            )
        plans = []
        for row, history in enumerate(batch):
            items = known_indices(history[-processor.max_history :], processor.catalog, row)
            moments = None if times is None else times[row][-processor.max_history :]
            if moments is not None:
                check_ascending(moments, row)
            seed = processor.title_tokens.checksum(items)
            plans.append(HistoryPlan.make(processor, layout, items, moments, seed))
        read = ReadHistories.empty(model, processor, len(plans))
        positions_read = read.read(plans, [len(plan.items) for plan in plans])
        return cls(recommender, read, layout, size, is_single, positions_read)

    def append(
        self,
        items: Item | Sequence[Item] | Sequence[Sequence[Item]],
        timestamps: int | Sequence[int] | Sequence[Sequence[int]] | np.ndarray | None = None,
    ) -> None:
        """
        Appends items to the histories, and reads what is new. If this fails, all histories stay as they were.

        Args:
            items (`int`, `str`, [`Title`] or `Sequence`):
                For one user an item, or a list of items, oldest first. For a batch a list of items for each user,
                which may be empty. All items are of the catalog.
            timestamps (`int` or `Sequence`, *optional*):
                When each item was chosen, in whole seconds since 1970 UTC, in the form of `items`. They are needed
                exactly if the state was started with timestamps.

        Raises:
            ValueError: If timestamps are missing, go back, or were not given at the start, if a prompt becomes longer
                than the model's context, or if there is not one list for each user.
            TypeError: If an item is neither an id nor a title.
            KeyError: If the catalog lacks an item. The message names the nearest ones.
        """
        batch = as_additions(items, len(self), self._is_single)
        is_one_time = self._is_single and isinstance(timestamps, (int, np.integer))
        times = as_timestamps([timestamps] if is_one_time else timestamps, batch, self._is_single)
        processor = self._recommender.processor
        before, plans, num_new = self._histories.plans, [], []
        for row, (plan, history) in enumerate(zip(before, batch, strict=True)):
            new = known_indices(history, processor.catalog, row)
            new_times = None if times is None else times[row]
            if len(new) == 0:
                plans.append(plan)
                num_new.append(0)
                continue
            moments = joined_times(plan.timestamps, new_times, row)
            length = num_held(len(plan.items), len(new), processor.max_history, self.block_size)
            joined = np.concatenate([plan.items, new])[-length:]
            moments = None if moments is None else moments[-length:]
            plans.append(HistoryPlan.make(processor, self.layout, joined, moments, plan.seed))
            num_new.append(min(len(new), length))
        self.positions_read = self._histories.read(plans, num_new)

    def recommend(
        self,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        unique_titles: bool = True,
        candidates: Collection[int | str] | Sequence[Collection[int | str]] | None = None,
        method: Method | None = None,
        num_beams: int | None = None,
        max_title_tokens: int | None = None,
        normalizer: Normalizer | None = None,
        times: int | Sequence[int] | np.ndarray | None = None,
        index: ItemIndex | None = None,
        num_candidates: int | None = None,
    ) -> list[Recommendation] | list[list[Recommendation]]:
        """
        Recommends the k most likely next items. The state stays as it is.

        Args:
            k, exclude_seen, unique_titles, candidates, method, num_beams, max_title_tokens, normalizer, times, index,
            num_candidates:
                See [`PatchRecommender.recommend`]. `exclude_seen` leaves out the items that the state holds. Items
                that have left it may be recommended again.

        Returns:
            `list[Recommendation]` for one user, a list of them for a batch; best first.

        Raises:
            ValueError, TypeError, KeyError, FloatingPointError: As [`PatchRecommender.recommend`] does.
        """
        results = self._recommender.recommend_behind(
            self.prompts,
            [plan.items for plan in self._histories.plans] if exclude_seen else None,
            k,
            unique_titles=unique_titles,
            candidates=candidates,
            method=method,
            num_beams=num_beams,
            max_title_tokens=max_title_tokens,
            normalizer=normalizer,
            times=times,
            index=index,
            num_candidates=num_candidates,
        )
        return results[0] if self._is_single else results

    @property
    def prompts(self) -> list[ReadPrompt]:
        """
        The prompt of each user, as it was read. [`PromptRecommender.recommend_behind`] ranks behind prompts of several
        states without copying them. They are right until the next [`~UserState.append`].
        """
        return self._histories.prompts()

    def __len__(self) -> int:
        """Number of users."""
        return len(self._histories)

    def __repr__(self) -> str:
        lengths = ", ".join(str(len(plan.items)) for plan in self._histories.plans[:3])
        more = ", …" if len(self) > 3 else ""
        return f"UserState({len(self)} users with {lengths}{more} items, layout={self.layout}, {self.num_bytes} bytes)"

    @property
    def item_ids(self) -> list[Any]:
        """The ids of the items that the state holds, oldest first: a list for one user, a list of them for a batch."""
        ids = self._recommender.catalog.item_ids
        lists = [ids[plan.items].tolist() for plan in self._histories.plans]
        return lists[0] if self._is_single else lists

    @property
    def _has_timestamps(self) -> bool:
        return self._histories.plans[0].timestamps is not None

    @property
    def timestamps(self) -> list[Any] | None:
        """When each item was chosen, in the form of `item_ids`; `None` if the state was started without times."""
        times = [plan.timestamps for plan in self._histories.plans]
        lists = [moments.tolist() for moments in times if moments is not None]
        if not lists:
            return None
        return lists[0] if self._is_single else lists

    def __reduce__(self) -> NoReturn:
        # A pickle would hold the whole model, and would load without the checks of the checkpoint and the catalog.
        raise TypeError(
            "A user state cannot be pickled: `state.save(path)` and `recommender.load_state(path)` keep it, and "
            "`state.select(users)` copies it."
        )

    @property
    def num_positions(self) -> tuple[int, ...]:
        """For each user, the number of positions whose keys and values the state holds."""
        return tuple(plan.length for plan in self._histories.plans)

    @property
    def num_bytes(self) -> int:
        """
        Size of the state in memory, with room to grow. All users of a batch take as much as the one with the most
        positions.
        """
        return self._histories.num_bytes

    def select(self, users: int | Sequence[int]) -> UserState:
        """
        Copies some users into a state of their own.

        Args:
            users (`int` or `Sequence[int]`):
                Numbers of users. A single number makes a state of one user, and a list makes a batch.

        Raises:
            ValueError: If the list is empty.
            IndexError: If there is no user with a number.
        """
        is_single = isinstance(users, (int, np.integer))
        numbers = np.atleast_1d(np.asarray(users, dtype=np.int64)).tolist()
        if not numbers:
            raise ValueError("`select` needs the number of at least one user, got an empty list.")
        for number in numbers:
            if not -len(self) <= number < len(self):
                raise IndexError(f"The state holds {len(self)} users, numbered from 0, and has no user {number}.")
        numbers = [number % len(self) for number in numbers]
        read = tuple(self.positions_read[number] for number in numbers)
        histories = self._histories.select(numbers)
        return UserState(self._recommender, histories, self.layout, self.block_size, is_single, read)

    @staticmethod
    def join(states: Sequence[UserState]) -> UserState:
        """
        Copies the users of several states into one batch.

        Args:
            states (`Sequence[UserState]`):
                States of one recommender, with one layout and one `block_size`.

        Raises:
            ValueError: If there are no states, or they do not belong together.

        Example:
        ```python
        >>> batch = UserState.join([state_of_ada, state_of_ben])
        >>> batch.recommend(k=3)
        ```
        """
        states = list(states)
        if not states:
            raise ValueError("`join` needs at least one state, got an empty list.")
        first = states[0]
        for number, state in enumerate(states):
            if state._recommender is not first._recommender:
                raise ValueError(
                    f"State {number} belongs to another recommender than state 0. Save it, and load it with the first "
                    "one: `recommender.load_state(path)`."
                )
            for name in ("layout", "block_size"):
                if getattr(state, name) != getattr(first, name):
                    raise ValueError(
                        f"The states differ in `{name}`: {getattr(first, name)} in state 0, {getattr(state, name)} in "
                        f"state {number}. Start all of them with the same one."
                    )
            if state._has_timestamps != first._has_timestamps:
                has, other = ("timestamps", "none") if first._has_timestamps else ("no timestamps", "some")
                raise ValueError(
                    f"State 0 has {has}, and state {number} has {other}. Start all of them with timestamps, or all "
                    "without."
                )
        histories = join_read_histories([(state._histories, range(len(state))) for state in states])
        read = tuple(cost for state in states for cost in state.positions_read)
        return UserState(first._recommender, histories, first.layout, first.block_size, False, read)

    def save(self, path: str | os.PathLike) -> None:
        """
        Writes the state as one safetensors file, which [`PatchRecommender.load_state`] loads. A file that is there is
        replaced as soon as the new one is whole.

        Args:
            path (`str` or `os.PathLike`):
                The file. Its directory is made if there is none.

        Raises:
            TypeError: If the layout is no dataclass, and so cannot be saved.
        """
        check_saved_layout(self.layout)
        save_histories(
            path, self._histories, self.layout, self.block_size, self._is_single, self._recommender.fingerprint
        )

    @classmethod
    def load(cls, recommender: PromptRecommender, path: str | os.PathLike) -> UserState:
        """See [`PatchRecommender.load_state`]."""
        histories, layout, saved = load_histories(
            path, recommender.model, recommender.processor, recommender.fingerprint
        )
        read = (PositionsRead(0, 0),) * len(histories)
        return cls(recommender, histories, layout, saved.block_size, saved.is_single, read)

    @staticmethod
    def read_saved(path: str | os.PathLike) -> SavedState:
        """
        Reads the items of a saved state without a model, to start anew where [`PatchRecommender.load_state`] refuses
        the state.

        Args:
            path (`str` or `os.PathLike`):
                The file.

        Returns:
            [`~patchrec_hf.runtime.state_files.SavedState`]: with the attributes `item_ids` and `timestamps`.

        Example:
        ```python
        >>> saved = UserState.read_saved("states/ada.safetensors")
        >>> state = recommender.start(saved.item_ids, saved.timestamps)
        ```
        """
        return read_saved(path)
