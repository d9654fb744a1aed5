"""The user ranker: recommends items for the users of a chunk, and tells why it recommends none for some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..batches.length_checks import check_title_lengths
from ..batches.row_lengths import frame_length
from ..evaluation.prompt_lengths import prompt_problem
from ..runtime.configuration import Normalizer
from ..runtime.encoding import EncodedHistory
from ..runtime.item_index import ItemIndex
from ..runtime.ranking import default_method
from ..runtime.ranking_config import ITEM_METHODS, Method
from ..runtime.recommendations import Recommendation
from ..runtime.recommender import PatchRecommender
from ..runtime.skipped_histories import each_or_reason
from .user_requests import UserRequest


@dataclass(frozen=True)
class RankingSettings:
    """
    How items are recommended. All of it changes the result.

    Args:
        k, exclude_seen, unique_titles, method, num_beams, max_title_tokens, normalizer, max_tokens, num_candidates:
            See [`PatchRecommender.recommend`].
        moment (`int`, *optional*):
            The moment of asking, in whole seconds since 1970 UTC: `times` of [`PatchRecommender.recommend`].
    """

    k: int = 10
    exclude_seen: bool = True
    unique_titles: bool = True
    method: Method | None = None
    num_beams: int | None = None
    max_title_tokens: int | None = None
    normalizer: Normalizer | None = None
    max_tokens: int | None = None
    moment: int | None = None
    num_candidates: int | None = None


class UserRanker:
    """
    Recommends items for users.

    Args:
        recommender ([`PatchRecommender`]):
            The recommender.
        settings ([`RankingSettings`]):
            How items are recommended.
        batch_size (`int`):
            Histories per forward.
        index ([`ItemIndex`], *optional*):
            An index of the recommender's item vectors.

    Raises:
        ValueError, TypeError: If a setting is out of range, or does not fit the checkpoint: the ranker recommends once
            for a history of one item, so that a wrong setting is no fault of a user.
        FloatingPointError: If the model's scores are not numbers.
    """

    def __init__(
        self,
        recommender: PatchRecommender,
        settings: RankingSettings,
        batch_size: int,
        index: ItemIndex | None = None,
    ) -> None:
        self.recommender, self.settings, self.batch_size, self.index = recommender, settings, batch_size, index
        processor, max_tokens = recommender.processor, settings.max_tokens
        self.layout = None if max_tokens is None else processor.layout_within(max_tokens)
        method = default_method(recommender.model, processor) if settings.method is None else settings.method
        self._title_length = None if method in ITEM_METHODS else processor.trie.max_depth
        if self._title_length is not None:
            check_title_lengths(processor, recommender.model.max_length)
        first = np.zeros(1, dtype=np.int64)
        request = UserRequest(0, "", first, first)
        self._recommend([request], [self._encode(request)])

    @property
    def reads_timestamps(self) -> bool:
        """Whether histories need timestamps."""
        return self.recommender.processor.reads_timestamps(self.layout)

    def problem_of(self, request: UserRequest) -> str | None:
        """
        Says why a user cannot be ranked, as far as this is known without the model. Lengths are bounded by the lengths
        of the titles, so only histories that may be too long are encoded.

        Args:
            request (`UserRequest`):
                The user.

        Returns:
            `str`, *optional*: the reason; `None` if nothing speaks against the user.
        """
        processor, max_length = self.recommender.processor, self.recommender.model.max_length
        read = request.items[-processor.max_history :]
        text = int(processor.title_tokens.lengths[read].sum()) + len(read)
        if max_length is None or frame_length(processor) + text + (self._title_length or 0) <= max_length:
            return None
        try:
            prompt = self._encode(request)
        except ValueError as error:
            return str(error)
        problem = prompt_problem(prompt, processor, max_length, self._title_length)
        return None if problem is None else f"The history is too long: {problem}"

    def rank(self, requests: Sequence[UserRequest]) -> list[list[Recommendation] | str]:
        """
        Recommends items for some users. Users with and without candidates are ranked apart.

        Args:
            requests (`Sequence[UserRequest]`):
                The users.

        Returns:
            `list[list[Recommendation] | str]`: for each user the recommendations, best first, or the reason why there
            are none.
        """
        results: list[list[Recommendation] | str] = [""] * len(requests)
        prompts: dict[int, EncodedHistory] = {}
        for place, request in enumerate(requests):
            try:
                prompts[place] = self._encode(request)
            except ValueError as error:
                results[place] = str(error)

        def recommend_some(places: Sequence[int]) -> list[list[Recommendation]]:
            return self._recommend([requests[place] for place in places], [prompts[place] for place in places])

        for has_candidates in (False, True):
            places = [place for place in prompts if (requests[place].candidates is not None) is has_candidates]
            ranked = each_or_reason(places, recommend_some, ValueError)
            for place, result in zip(places, ranked, strict=True):
                results[place] = result
        return results

    def _encode(self, request: UserRequest) -> EncodedHistory:
        return self.recommender.processor.encode(request.items, layout=self.layout, timestamps=request.timestamps)

    def _recommend(
        self, requests: Sequence[UserRequest], prompts: Sequence[EncodedHistory]
    ) -> list[list[Recommendation]]:
        settings, catalog = self.settings, self.recommender.catalog
        left_out = [self._left_out(request) for request in requests]
        candidates = [catalog.item_ids[one.candidates].tolist() for one in requests if one.candidates is not None]
        return self.recommender.recommend_behind(
            prompts,
            left_out if any(map(len, left_out)) else None,
            settings.k,
            unique_titles=settings.unique_titles,
            candidates=candidates or None,
            method=settings.method,
            num_beams=settings.num_beams,
            max_title_tokens=settings.max_title_tokens,
            normalizer=settings.normalizer,
            times=settings.moment,
            batch_size=self.batch_size,
            index=self.index,
            num_candidates=settings.num_candidates,
        )

    def _left_out(self, request: UserRequest) -> np.ndarray:
        seen = request.items if self.settings.exclude_seen else request.items[:0]
        return seen if request.excluded is None else np.concatenate([seen, request.excluded])
