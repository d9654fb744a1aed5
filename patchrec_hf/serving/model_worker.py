"""The model worker: ranks for batches of requests, of users and of histories, in the thread that owns the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..runtime.index_methods import index_method
from ..runtime.item_index import ItemIndex
from ..runtime.ranking import default_method
from ..runtime.ranking_config import ITEM_METHODS
from ..runtime.read_histories import PromptToRank
from ..runtime.recommendations import Recommendation
from ..runtime.recommender import PatchRecommender
from .history_store import StoreError
from .served_states import ServedStates
from .service_settings import ServiceSettings
from .state_cache import CachedState
from .work_queue import each_alone_on_error


@dataclass(frozen=True)
class RankOptions:
    """
    How a request wants to be ranked for.

    Args:
        k (`int`):
            Number of items.
        exclude_seen (`bool`, *optional*, defaults to `True`):
            Whether the items of the history are left out.
        candidates (`tuple[int | str, ...]`, *optional*):
            Ids of the items that may be recommended.
        time (`int`, *optional*):
            The moment of asking, in whole seconds since 1970 UTC.
    """

    k: int
    exclude_seen: bool = True
    candidates: tuple[int | str, ...] | None = None
    time: int | None = None


@dataclass(frozen=True)
class HistoriesJob:
    """Recommend for histories that a request holds: lists of item ids, and perhaps their timestamps."""

    histories: tuple[tuple[int | str, ...], ...]
    timestamps: tuple[tuple[int, ...], ...] | None
    options: RankOptions


@dataclass(frozen=True)
class UserJob:
    """Recommend for a user whose history is stored."""

    user_id: str
    options: RankOptions


@dataclass(frozen=True)
class SimilarJob:
    """Find the k items that are most similar to one."""

    item_id: int | str
    k: int


Job = HistoriesJob | UserJob | SimilarJob
Lists = list[list[Recommendation]]


@dataclass(frozen=True, eq=False)
class _ToRank:
    """A prompt to rank behind, with the catalog indices that its history holds."""

    prompt: PromptToRank
    seen: np.ndarray
    options: RankOptions


_NOTHING = np.empty(0, dtype=np.int64)


class ModelWorker:
    """
    Answers batches of jobs. All methods run in the thread that owns the model.

    Args:
        recommender ([`PatchRecommender`]):
            The recommender.
        states ([`ServedStates`]):
            The users' states.
        settings ([`ServiceSettings`]):
            The method of ranking, and the batch size.
        index ([`ItemIndex`], *optional*):
            Proposes items of a large catalog.

    Raises:
        ValueError: If the method does not go with an index.
    """

    def __init__(
        self,
        recommender: PatchRecommender,
        states: ServedStates,
        settings: ServiceSettings,
        index: ItemIndex | None = None,
    ) -> None:
        self._recommender, self._states, self._settings, self._index = recommender, states, settings, index
        if index is None:
            self.method = settings.method or default_method(recommender.model, recommender.processor)
        else:
            self.method = index_method(settings.method)
        self.has_item_head = recommender.model.item_head is not None

    def warm_up(self) -> None:
        """
        Computes once what all requests use, and so finds out whether the checkpoint can be served.

        Raises:
            ValueError, TypeError: If the checkpoint lacks what the method needs, or its backbone cannot be read in
                parts.
        """
        recommender = self._recommender
        times = [0] if recommender.processor.reads_timestamps() else None
        state = recommender.start(recommender.catalog.item_ids[:1].tolist(), times)
        self._rank_alike([_ToRank(state.prompts[0], _NOTHING, RankOptions(k=1))])
        if self.has_item_head:
            recommender.similar_items(recommender.catalog.item_ids[:1].tolist()[0], k=1)

    def work(self, jobs: list[Job]) -> list[Lists | Exception]:
        """
        Answers jobs.

        Args:
            jobs (`list[Job]`):
                The jobs of a batch.

        Returns:
            `list[list[list[Recommendation]] | Exception]`: for each job a list for each of its histories (one for a
            user or an item), or its error.
        """
        users = [job.user_id for job in jobs if isinstance(job, UserJob)]
        states: dict[str, CachedState | Exception]
        try:
            states = self._states.current(users)
        except StoreError as error:
            states = dict.fromkeys(users, error)
        answers: dict[int, Lists | Exception] = {}
        owners: list[int] = []
        to_rank: list[_ToRank] = []
        for number, job in enumerate(jobs):
            try:
                if isinstance(job, SimilarJob):
                    answers[number] = [self._recommender.similar_items(job.item_id, job.k)]
                    continue
                parts = self._encode(job) if isinstance(job, HistoriesJob) else self._of_user(job, states)
            except Exception as error:  # it is the answer to this job alone
                answers[number] = error
                continue
            owners += [number] * len(parts)
            to_rank += parts
        for owner, outcome in zip(owners, self._rank(to_rank), strict=True):
            lists = answers.setdefault(owner, [])
            if isinstance(lists, Exception):
                continue
            if isinstance(outcome, Exception):
                answers[owner] = outcome
            else:
                lists.append(outcome)
        return [answers[number] for number in range(len(jobs))]

    def _of_user(self, job: UserJob, states: dict[str, CachedState | Exception]) -> list[_ToRank]:
        cached = states[job.user_id]
        if isinstance(cached, Exception):
            raise cached
        return [_ToRank(cached.state.prompts[0], cached.seen, job.options)]

    def _encode(self, job: HistoriesJob) -> list[_ToRank]:
        processor = self._recommender.processor
        parts = []
        for row, history in enumerate(job.histories):
            indices = processor.catalog.indices_of(history)
            times = None if job.timestamps is None else np.array(job.timestamps[row], dtype=np.int64)
            prompt = processor.encode(indices, timestamps=times)
            parts.append(_ToRank(prompt, np.unique(indices), job.options))
        return parts

    def _rank(self, parts: list[_ToRank]) -> list[list[Recommendation] | Exception]:
        """Ranks together what can be told apart afterwards."""
        groups: dict[tuple[bool, bool, int], list[int]] = {}
        for number, part in enumerate(parts):
            options = part.options
            # The lists of these methods begin with the shorter ones, so one k serves all.
            k = 0 if self.method in ITEM_METHODS else options.k
            groups.setdefault((options.candidates is None, options.time is None, k), []).append(number)
        outcomes: dict[int, list[Recommendation] | Exception] = {}
        for numbers in groups.values():
            outcomes |= zip(
                numbers, each_alone_on_error(self._rank_alike, [parts[number] for number in numbers]), strict=True
            )
        return [outcomes[number] for number in range(len(parts))]

    def _rank_alike(self, parts: list[_ToRank]) -> list[list[Recommendation]]:
        options = [part.options for part in parts]
        candidates = [part.candidates for part in options if part.candidates is not None]
        times = [part.time for part in options if part.time is not None]
        lists = self._recommender.recommend_behind(
            [part.prompt for part in parts],
            [part.seen if part.options.exclude_seen else _NOTHING for part in parts],
            max(part.k for part in options),
            unique_titles=True,
            candidates=candidates or None,
            method=self.method,
            num_beams=None,
            max_title_tokens=self._settings.max_title_tokens if self.method == "exact" else None,
            normalizer=None,
            times=times or None,
            batch_size=self._settings.max_batch_size,
            index=self._index,
        )
        return [found[: part.k] for found, part in zip(lists, options, strict=True)]
