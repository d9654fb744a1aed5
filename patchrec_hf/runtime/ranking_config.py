"""Ranking settings: the methods by which a catalog is ranked, and what each of them can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from .configuration import Normalizer, PatchRecConfig, check_normalizer


Method = Literal["exact", "beam", "all", "item", "fusion", "diverse"]
METHODS = get_args(Method)
ITEM_METHODS = ("item", "fusion")
"""Methods that score all items of the catalog, also those that share a title."""

_DIVERSITY_PENALTY = 0.8


@dataclass(frozen=True)
class RankingConfig:
    """
    How a catalog is ranked. A prompt is read once, and its keys and values are kept. The titles are branches of one
    tree behind the prompt, and each method reads as much of the tree as it needs.

    Args:
        k (`int`, *optional*, defaults to `20`):
            Number of items to return.
        method (`"exact"`, `"beam"`, `"all"`, `"item"`, `"fusion"` or `"diverse"`, *optional*, defaults to `"exact"`):
            - `"exact"` searches best-first. A prefix bounds the scores of all titles with this prefix (see
              [`length_divisors`]), so the search stops when no open prefix can lead to a score above the k-th best
              title. The result is proven to be the top k.
            - `"beam"` keeps the best `num_beams` prefixes at each depth. The result may miss items, and `is_exact`
              shows whether it is proven to be the top k.
            - `"all"` reads every title. It costs most, and gives the rank of every item.
            - `"item"` reads no title: the item head scores all items by one product (see [`ItemScorer`]). The result
              is always exact.
            - `"fusion"` mixes the log-probabilities of the parts of the processor's fusion (see [`FusionScorer`]). The
              result is always exact.
            - `"diverse"` decodes k titles as the released code does, by k groups of one beam each that avoid each
              other's tokens (see [`search_diverse`]). A title may be listed several times, and a list of other length
              has other titles in another order. It reproduces the release's lists, and is no search for the best ones.
        num_beams (`int`, *optional*):
            For `"beam"`: number of prefixes that are kept at each depth, at least k. `2 * k` if not given.
        length_penalty (`float`, *optional*, defaults to `0.0`):
            For all methods that search titles: titles score Σ log p / (number of tokens with the end of turn) **
            length_penalty. 0 ranks by the sum, and 1 by the mean, as transformers' `generate` does. With a penalty,
            the search reads more until its result is proven, and very much in a large catalog with long titles (see
            `max_title_tokens`).
        max_title_tokens (`int`, *optional*):
            For `"exact"`: after this many title tokens for a history, the search continues as a beam search with one
            beam for each item still missing, and its result is rarely proven. A model that finds most titles about
            equally likely needs very many tokens. Without this bound the result is always proven.
        batch_size (`int`, *optional*, defaults to `8`):
            Histories per forward; bounds the memory.
        synchronize (`bool`, *optional*, defaults to `False`):
            Whether every process of a distributed run ranks equally many prompts at the same time. All of them then
            run the same number of forwards, which sharded weights (ZeRO-3, FSDP2) need.
        diversity_penalty (`float`, *optional*, defaults to `0.8`):
            For `"diverse"`: the log-probability of a token falls by this number for each earlier group that has
            chosen it in the same step.
        normalizer (`"vocabulary"` or `"catalog"`, *optional*):
            For methods that search titles: whether a token's probability is one among the whole vocabulary, or among
            the tokens with which a title of the catalog can go on. The model's `title_normalizer` if not given. With
            `"catalog"`, the probabilities of all items sum to 1, and items that share a title share its probability
            equally. Candidates and exclusions do not change them: an item's probability is the same whoever else may
            be recommended. Items that are added to the catalog do. `"diverse"` always has the vocabulary. A fusion
            keeps its own.
        temperature (`float`, *optional*):
            For the normalizer `"catalog"`: by what logits are divided. The model's `title_temperature` if not given.
        ended_token_id (`int`, *optional*, defaults to `0`):
            For `"diverse"`: the token as which a group counts for later groups when its title has ended. In the
            release it is 0, its padding token ("!" in Llama's vocabulary).

    Raises:
        ValueError: If a number is out of range, or a setting does not belong to the method.
        TypeError: If `k` is no whole number.
    """

    k: int = 20
    method: Method = "exact"
    num_beams: int | None = None
    length_penalty: float = 0.0
    max_title_tokens: int | None = None
    batch_size: int = 8
    synchronize: bool = False
    diversity_penalty: float = _DIVERSITY_PENALTY
    ended_token_id: int = 0
    normalizer: Normalizer | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        check_k(self.k)
        if self.method not in METHODS:
            raise ValueError(f"`method` must be one of {', '.join(map(repr, METHODS))}, got {self.method!r}.")
        if self.method != "beam" and self.num_beams is not None:
            raise ValueError(f"`num_beams` belongs to `method='beam'`, got `method={self.method!r}`.")
        if not math.isfinite(self.length_penalty):
            raise ValueError(f"`length_penalty` must be a finite number, got {self.length_penalty}.")
        if self.length_penalty != 0 and self.method in ITEM_METHODS:
            raise ValueError(f"`length_penalty` belongs to methods that rank by titles, got `method={self.method!r}`.")
        if self.length_penalty != 0 and self.method == "diverse":
            raise ValueError(
                "The method 'diverse' ranks by the mean log-probability, as the released code does: leave out "
                f"`length_penalty`, got {self.length_penalty}."
            )
        if self.method != "exact" and self.max_title_tokens is not None:
            raise ValueError(f"`max_title_tokens` belongs to `method='exact'`, got `method={self.method!r}`.")
        if self.max_title_tokens is not None and self.max_title_tokens < 0:
            raise ValueError(f"`max_title_tokens` must be at least 0, got {self.max_title_tokens}.")
        if self.method != "diverse" and (self.diversity_penalty, self.ended_token_id) != (_DIVERSITY_PENALTY, 0):
            raise ValueError(
                f"`diversity_penalty` and `ended_token_id` belong to `method='diverse'`, got `method={self.method!r}`."
            )
        if not 0 <= self.diversity_penalty < math.inf:
            raise ValueError(f"`diversity_penalty` must be a number of at least 0, got {self.diversity_penalty}.")
        if self.ended_token_id < 0:
            raise ValueError(f"`ended_token_id` must be a token id, got {self.ended_token_id}.")
        if self.num_beams is not None and self.num_beams < self.k:
            raise ValueError(f"`num_beams` must be at least k = {self.k}, got {self.num_beams}.")
        if self.batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {self.batch_size}.")
        if self.method == "fusion" and (self.normalizer, self.temperature) != (None, None):
            raise ValueError(
                "`normalizer` and `temperature` belong to rankings by titles, and this one is by the fusion, which "
                "has its own. Leave them out, or rank by titles alone (`method='exact'`). They are "
                f"{self.normalizer!r} and {self.temperature}."
            )
        if self.method in ("item", "diverse"):
            for name, is_given in (
                ("normalizer='catalog'", self.normalizer == "catalog"),
                ("temperature", self.temperature is not None),
            ):
                if is_given:
                    raise ValueError(f"`{name}` belongs to methods that search titles, got `method={self.method!r}`.")
        temperature = 1.0 if self.temperature is None else self.temperature
        # Without a normalizer, it is the model's, which is not known yet.
        check_normalizer("normalizer", self.normalizer or "catalog", "temperature", temperature)

    def title_temperature(self, model_config: PatchRecConfig) -> float | None:
        """
        Returns by what the logits of title tokens are divided before they are normalized over the catalog, or `None`
        if they are normalized over the vocabulary.

        Args:
            model_config ([`PatchRecConfig`]):
                The model's configuration, which has the settings that are not given here.

        Raises:
            ValueError: If there is a temperature, and the normalizer is the vocabulary.
        """
        normalizer = "vocabulary" if self.method == "diverse" else self.normalizer or model_config.title_normalizer
        if normalizer == "catalog":
            return model_config.title_temperature if self.temperature is None else self.temperature
        if self.temperature is not None:
            raise ValueError(
                f"`temperature` belongs to `normalizer='catalog'`, got {self.temperature}, but the titles' scores are "
                "normalized over the vocabulary. Give `normalizer='catalog'` too."
            )
        return None

    @property
    def beam_width(self) -> int | None:
        """Prefixes that a beam search keeps at each depth; `None` for the other methods."""
        return 2 * self.k if self.method == "beam" and self.num_beams is None else self.num_beams


def check_k(k: int) -> None:
    """
    Checks a number of items to return.

    Raises:
        TypeError: If `k` is no whole number.
        ValueError: If `k` is below 1.
    """
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
        raise TypeError(f"`k` must be a whole number, got {k!r}.")
    if k < 1:
        raise ValueError(f"`k` must be at least 1, got {k}.")
