"""The item scorer: scores all items of the catalog behind prompts, by one forward and one product."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from .allowed_items import ItemSet
from .best_items import rows_at_once
from .best_products import ROWS_MULTIPLE, Addend, best_products, products_of
from .encoding import EncodedHistory, pad_histories
from .item_vectors import padded_item_vectors
from .lazy_sequence import LazySequence
from .modeling import PatchRecForCausalLM
from .processing import PROMPT_KEYS, PatchRecProcessor
from .read_histories import PromptToRank, ReadPrompt
from .title_similarity import sparse_log_shares
from .title_tokens import sorted_distinct


PROMPTS_AT_ONCE = 4096
"""Most prompts that are in memory at once. Among these, nested prompts are found, and similar lengths sorted."""
_VECTORS_AT_ONCE = 1 << 14
_MOST_BIASED = 2048
"""Number of items with the largest biases that are scored besides those that an index proposes."""
TOKENS_AT_ONCE = 1 << 22
"""Number of tokens and folded tokens from which on no more prompts are in memory at once."""


def prompt_blocks(prompts: Sequence[PromptToRank]) -> Iterator[tuple[int, list[PromptToRank]]]:
    """
    Reads prompts in blocks that fit into memory, whether histories hold ten items or ten thousand.

    Args:
        prompts (`Sequence[PromptToRank]`):
            Prompts, which a [`LazySequence`] makes when they are read.

    Yields:
        `tuple[int, list[PromptToRank]]`: the number of a block's first prompt, and its prompts.
    """
    first, num_tokens = 0, 0
    block: list[PromptToRank] = []
    for row in range(len(prompts)):
        prompt = prompts[row]
        block.append(prompt)
        if isinstance(prompt, EncodedHistory):
            num_tokens += len(prompt.input_ids) + len(prompt.patch_token_ids)
        if len(block) == PROMPTS_AT_ONCE or num_tokens >= TOKENS_AT_ONCE:
            yield first, block
            first, num_tokens, block = row + 1, 0, []
    if block:
        yield first, block


class ItemScorer:
    """
    Scores the catalog by a model's item head. The vectors of the items are computed once, on first use. So make a new
    scorer after the model has been trained further.

    Args:
        model ([`PatchRecForCausalLM`]):
            A model with an item head, in evaluation mode.
        processor ([`PatchRecProcessor`]):
            The model's processor.

    Raises:
        ValueError: If the model has no item head, or model and processor were not made for each other.
    """

    def __init__(self, model: PatchRecForCausalLM, processor: PatchRecProcessor) -> None:
        if model.item_head is None:
            raise ValueError(
                "`method='item'` needs a model with an item head, and this one has none. Train one with "
                "`objective='item'`, or rank by titles (`method='exact'`)."
            )
        model.check_processor(processor)
        self.model = model
        self.processor = processor
        self._item_vectors: torch.Tensor | None = None

    @property
    def item_vectors(self) -> torch.Tensor:
        """
        Vectors of all items, by catalog index, on the model's device; float32, shape `(num_items, H + 1)`. The last
        entry is the item's bias.
        """
        return self._padded_vectors[: self.num_items]

    @property
    def num_items(self) -> int:
        """Number of items of the catalog."""
        return len(self.processor.catalog)

    @property
    def _padded_vectors(self) -> torch.Tensor:
        """The item vectors, and rows of zeros up to a multiple of `ROWS_MULTIPLE`."""
        if self._item_vectors is None:
            items = np.arange(self.num_items)
            with torch.no_grad():
                self._item_vectors = padded_item_vectors(self.model, self.processor, items, ROWS_MULTIPLE)
        return self._item_vectors

    @cached_property
    def vectors_in_memory(self) -> np.ndarray:
        """The vectors of all items as an array in the computer's memory, for an index."""
        return self.item_vectors.cpu().numpy()

    @cached_property
    def items_of_largest_biases(self) -> np.ndarray:
        """Catalog indices of the items with the largest biases, int64, ascending; 2,048 at most."""
        biases = self.vectors_in_memory[:, -1]
        number = min(_MOST_BIASED, len(biases))
        return np.sort(np.argpartition(biases, len(biases) - number)[len(biases) - number :])

    @property
    def user_scale(self) -> float:
        """Length of every user vector without its last entry, if users and items are compared by cosine; else 1."""
        head = self.model.item_head.user_vectors
        return float(head.log_scale.exp().item()) if head.is_cosine else 1.0

    @torch.no_grad()
    def cosines(self, vector: torch.Tensor) -> np.ndarray:
        """
        Computes the cosines of the item vectors with another vector, both without biases.

        Args:
            vector (`torch.Tensor` of shape `(H + 1,)`):
                The other vector.

        Returns:
            `numpy.ndarray` of shape `(num_items,)`, float32.
        """
        other = F.normalize(vector[:-1], dim=0)
        # Block by block, so that no second copy of all vectors is made.
        parts = [F.normalize(part[:, :-1], dim=-1) @ other for part in self._padded_vectors.split(_VECTORS_AT_ONCE)]
        return torch.cat(parts)[: self.num_items].cpu().numpy()

    @torch.no_grad()
    def score(self, prompts: Sequence[PromptToRank], batch_size: int, nest: bool = True) -> Iterator[ScoredRows]:
        """
        Scores all items behind each prompt.

        Args:
            prompts (`Sequence[PromptToRank]`):
                B histories; what stands after the history is not read, and neither is a [`ReadPrompt`]. A
                [`LazySequence`] makes each prompt once, and a few thousand are kept at a time.
            batch_size (`int`):
                Sequences per forward; bounds the memory.
            nest (`bool`, *optional*, defaults to `True`):
                Whether a prompt that is the beginning of another one is read with it.

        Yields:
            [`ScoredRows`], until all prompts are scored; few rows at a time for a large catalog (see
            [`rows_at_once`]).

        Raises:
            ValueError: If a layout left out the newest item of a history, or a prompt is longer than the model's
                context.
            FloatingPointError: If a score is not a number.
        """
        yield from self._score(prompts, batch_size, nest, with_features=True)

    @torch.no_grad()
    def products(self, prompts: Sequence[PromptToRank], batch_size: int, nest: bool = True) -> Iterator[ScoredRows]:
        """
        Computes the products of the vectors of users and items alone, without features.

        Args:
            prompts, batch_size, nest:
                See [`ItemScorer.score`].

        Yields:
            [`ScoredRows`], as [`ItemScorer.score`] does.

        Raises:
            ValueError, FloatingPointError: As [`ItemScorer.score`] does.
        """
        yield from self._score(prompts, batch_size, nest, with_features=False)

    def _score(
        self, prompts: Sequence[PromptToRank], batch_size: int, nest: bool, with_features: bool
    ) -> Iterator[ScoredRows]:
        at_once, items = rows_at_once(self.num_items), np.arange(self.num_items)
        for rows, read, users in self.users(prompts, batch_size, nest):
            for start in range(0, len(rows), at_once):
                part = slice(start, start + at_once)
                products = products_of(users[part], self._padded_vectors)[:, : self.num_items]
                for addend in self.features([prompt.items for prompt in read[part]]) if with_features else ():
                    addend.add_to(products, items)
                yield ScoredRows(rows[part], products)

    @torch.no_grad()
    def best(
        self,
        prompts: Sequence[PromptToRank],
        k: int,
        allowed: Sequence[ItemSet],
        batch_size: int,
        nest: bool = True,
    ) -> Iterator[BestRows]:
        """
        Finds the k items with the best scores behind each prompt. The scores of all items never stand in memory
        together, and if few items are allowed, no others are scored.

        Args:
            prompts, batch_size, nest:
                See [`ItemScorer.score`].
            k (`int`):
                Number of items, at most the catalog's.
            allowed (`Sequence[ItemSet]`):
                For each prompt, the items that may be found.

        Yields:
            [`BestRows`], until all prompts are ranked.

        Raises:
            ValueError, FloatingPointError: As [`ItemScorer.score`] does.
        """
        for rows, read, users in self.users(prompts, batch_size, nest):
            histories = [prompt.items for prompt in read]
            yield BestRows(rows, *self.best_of_users(users, histories, k, [allowed[row] for row in rows.tolist()]))

    def best_of_users(
        self, users: torch.Tensor, histories: Sequence[np.ndarray], k: int, allowed: Sequence[ItemSet]
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Finds the k items with the best scores for users whose histories were read.

        Args:
            users (`torch.Tensor` of shape `(n, H + 1)`):
                Vectors of users (see [`ItemScorer.users`]).
            histories (`Sequence[numpy.ndarray]`):
                Catalog indices of the n histories, oldest first.
            k, allowed:
                See [`ItemScorer.best`].

        Returns:
            `tuple[numpy.ndarray, numpy.ndarray]`: items and scores, as [`best_products`] returns them.

        Raises:
            FloatingPointError: If a score is not a number.
        """
        return best_products(users, self._padded_vectors, self.num_items, k, allowed, self.features(histories))

    def features(self, histories: Sequence[np.ndarray]) -> list[Addend]:
        """
        Returns what the head's features add to products: for seen items, and for items with similar titles.

        Args:
            histories (`Sequence[numpy.ndarray]`):
                Catalog indices of the histories, oldest first.
        """
        seen_weight, title_weight = self.model.item_head.feature_weights().tolist()
        rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
        items = np.concatenate([np.empty(0, dtype=np.int64), *histories])
        is_item = items < self.num_items  # not a new title
        rows, items = np.divmod(sorted_distinct(rows[is_item] * self.num_items + items[is_item]), self.num_items)
        addends = [Addend(rows, items, np.full(len(items), seen_weight, dtype=np.float32))]
        if self.model.config.item_head_config.title_similarity:
            rows, items, scores = self.processor.title_neighbors.sparse_scores(histories)
            addends.append(Addend(rows, items, title_weight * sparse_log_shares(rows, scores, len(histories))))
        return addends

    @torch.no_grad()
    def users(
        self, prompts: Sequence[PromptToRank], batch_size: int, nest: bool = True
    ) -> Iterator[tuple[np.ndarray, list[PromptToRank], torch.Tensor]]:
        """
        Computes the vectors of users: reads every prompt that was not read up to its newest item.

        Args:
            prompts, batch_size, nest:
                See [`ItemScorer.score`].

        Yields:
            `tuple`: the numbers of n prompts, the prompts, and their users' vectors; float32, shape `(n, H + 1)`. The
            last entry of each vector is 1.

        Raises:
            ValueError: As [`ItemScorer.score`] does.
        """
        if not isinstance(prompts, LazySequence):  # a bad row raises before the model has ranked for hours
            for row, prompt in enumerate(prompts):
                self._check(row, prompt)
        for first, block in prompt_blocks(prompts):
            for row, prompt in enumerate(block):
                self._check(first + row, prompt)
            read = chain(self._read_states(block, batch_size), self._read_groups(block, batch_size, nest))
            for rows, states in read:
                yield first + rows, [block[row] for row in rows], self.model.item_head.user_vectors(states)

    def _read_states(
        self, prompts: Sequence[PromptToRank], batch_size: int
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Yields the states of the prompts that were read up to their newest items."""
        states = {row: prompt.state for row, prompt in enumerate(prompts) if isinstance(prompt, ReadPrompt)}
        rows = np.array(list(states), dtype=np.int64)
        for start in range(0, len(rows), batch_size):
            some = rows[start : start + batch_size]
            yield some, torch.stack([states[row] for row in some.tolist()])

    def _check(self, row: int, prompt: PromptToRank) -> None:
        if prompt.history_end < 0:
            raise ValueError(
                f"The layout left out the newest item of the history in row {row}, so no position predicts the next "
                "one. Choose another layout for `method='item'`."
            )
        length, limit = prompt.history_end + 1, self.model.max_length
        if limit is not None and length > limit:
            raise ValueError(
                f"The prompt of row {row} takes {length} tokens, but the model reads at most {limit}. "
                "Lower the processor's `max_history`, or choose a layout that compresses more."
            )

    def _read_groups(
        self, prompts: Sequence[PromptToRank], batch_size: int, nest: bool
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Reads the other prompts up to their newest items, and yields their states."""
        numbers = np.array([row for row, prompt in enumerate(prompts) if not isinstance(prompt, ReadPrompt)])
        cut = [_until_history_ends(prompt) for prompt in prompts if not isinstance(prompt, ReadPrompt)]
        groups = nested_prompts(cut) if nest else [[row] for row in range(len(cut))]
        # Prompts of similar lengths need little padding.
        groups.sort(key=lambda rows: -len(cut[rows[-1]].input_ids))
        for start in range(0, len(groups), batch_size):
            rows, states = self._read_some(cut, groups[start : start + batch_size])
            yield numbers[rows], states

    def _read_some(
        self, prompts: Sequence[EncodedHistory], groups: Sequence[Sequence[int]]
    ) -> tuple[np.ndarray, torch.Tensor]:
        model, device = self.model, self.model.device
        batch = pad_histories([prompts[rows[-1]] for rows in groups], self.processor.prompt.pad_id)
        # One entry for each prompt of a group. Short groups repeat their first prompt.
        width = max(map(len, groups))
        numbers = np.array([[*rows, *[rows[0]] * (width - len(rows))] for rows in groups])
        is_own = np.arange(width) < np.array(list(map(len, groups)))[:, None]
        ends = np.array([prompts[row].history_end for row in numbers.flat]).reshape(numbers.shape)
        states = model.model(
            **{key: batch[key].to(device) for key in PROMPT_KEYS},
            supervised_positions=torch.from_numpy(ends).to(device),
            use_cache=False,
        ).last_hidden_state
        return numbers[is_own], states[torch.from_numpy(is_own).to(states.device)]


def _until_history_ends(prompt: EncodedHistory) -> EncodedHistory:
    length = prompt.history_end + 1
    return replace(prompt, input_ids=prompt.input_ids[:length], prompt_length=length)


class ScoredRows(NamedTuple):
    """
    Scores of some prompts.

    Args:
        rows (`numpy.ndarray` of shape `(n,)`, int64):
            The prompts' numbers.
        scores (`numpy.ndarray` of shape `(n, num_items)`, float32):
            The score of every item behind each of them. A fusion's are float64.
    """

    rows: np.ndarray
    scores: np.ndarray


class BestRows(NamedTuple):
    """
    The best items of some prompts.

    Args:
        rows (`numpy.ndarray` of shape `(n,)`, int64):
            The prompts' numbers.
        items (`numpy.ndarray` of shape `(n, k)`, int64):
            Catalog indices, best first, equal scores in catalog order; -1 where there are fewer.
        scores (`numpy.ndarray` of shape `(n, k)`, float64):
            Their scores; -infinity where there are fewer.
    """

    rows: np.ndarray
    items: np.ndarray
    scores: np.ndarray


def nested_prompts(prompts: Sequence[EncodedHistory]) -> list[list[int]]:
    """
    Groups prompts so that each is the beginning of the next one in its group. One forward of the group's last prompt
    then reads all of them.

    Args:
        prompts (`Sequence[EncodedHistory]`):
            Histories without a response.

    Returns:
        `list[list[int]]`: the numbers of the prompts, each once.
    """
    keys = [_key(prompt) for prompt in prompts]
    groups: list[list[int]] = []
    # In lexicographic order, a prompt is followed by the prompts that it begins.
    for row in sorted(range(len(prompts)), key=keys.__getitem__):
        if groups and keys[row].startswith(keys[groups[-1][-1]]):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _key(prompt: EncodedHistory) -> bytes:
    """Lists the prompt's tokens, position by position: two prompts begin alike exactly if their keys do."""
    positions = np.concatenate([np.arange(len(prompt.input_ids)), prompt.patch_positions])
    # Each entry has 16 bytes: a token of the prompt and the number of tokens that are folded into it, or a folded
    # token, its divisor and whether a title begins with it. The number keeps a patch from being the beginning of a
    # longer one.
    entries = np.zeros((len(positions), 2), dtype=">i8")
    entries[:, 0] = np.concatenate([prompt.input_ids, prompt.patch_token_ids])
    counts = np.bincount(prompt.patch_positions, minlength=len(prompt.input_ids))
    entries[:, 1] = np.concatenate([counts, 2 * prompt.patch_divisors + prompt.patch_title_starts])
    return entries[np.argsort(positions, kind="stable")].tobytes()
