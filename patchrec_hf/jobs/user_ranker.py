"""The user ranker: recommends items for the users of a chunk, and tells why it recommends none for some of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..runtime.configuration import Normalizer
from ..runtime.encoding import EncodedHistory
from ..runtime.item_index import ItemIndex
from ..runtime.ranking_config import Method
from ..runtime.recommendations import Recommendation
from ..runtime.recommender import PatchRecommender
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
        first = np.zeros(1, dtype=np.int64)
        request = UserRequest(0, "", first, first)
        self._recommend([request], [self._encode(request)])

    @property
    def reads_timestamps(self) -> bool:
        """Whether histories need timestamps."""
        return self.recommender.processor.reads_timestamps(self.layout)

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
        for has_candidates in (False, True):
            places = [place for place in prompts if (requests[place].candidates is not None) is has_candidates]
            ranked = self._rank([requests[place] for place in places], [prompts[place] for place in places])
            for place, result in zip(places, ranked, strict=True):
                results[place] = result
        return results

    def _rank(
        self, requests: Sequence[UserRequest], prompts: Sequence[EncodedHistory]
    ) -> list[list[Recommendation] | str]:
        """Ranks users together. If one of them cannot be ranked, halves of them are ranked, down to this one."""
        if not requests:
            return []
        try:
            return [*self._recommend(requests, prompts)]
        except ValueError as error:
            if len(requests) == 1:
                return [
                    re.sub(r"\b([Rr])ow 0\b", lambda match: f"{'T' if match[1] == 'R' else 't'}his row", str(error))
                ]
        half = len(requests) // 2
        return self._rank(requests[:half], prompts[:half]) + self._rank(requests[half:], prompts[half:])

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
