"""Title tokens: the titles of items as token ids, in flat arrays."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from .padding import is_text_token
from .progress import long_work_bar


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_TITLES_AT_ONCE = 2**14
"""Titles that are tokenized at once, which bounds the memory: a fast tokenizer makes objects of a kilobyte each."""
_NUM_COMPARED = 16
"""Titles by which a fast tokenizer is compared with its backend."""


@dataclass(frozen=True, eq=False)
class TitleTokens:
    """
    Titles as flat token arrays: title `i` is `ids[offsets[i] : offsets[i + 1]]`.

    Args:
        ids (`numpy.ndarray` of shape `(num_tokens,)`, int64):
            The tokens of all titles, one title after the other.
        offsets (`numpy.ndarray` of shape `(num_titles + 1,)`, int64):
            Index in `ids` of each title's first token, then the end of the last title.
    """

    ids: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens per title, shape `(num_titles,)`, int64."""
        return np.diff(self.offsets)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """Returns the tokens of the titles at `indices`, one title after the other."""
        lengths = self.lengths[indices]
        return self.ids[np.repeat(self.offsets[indices], lengths) + ragged_arange(lengths)]

    def checksum(self, indices: np.ndarray) -> int:
        """Checksum of the titles at `indices`, the same on every machine."""
        return zlib.crc32(self.gather(indices).tobytes())

    def extended(self, more: TitleTokens) -> TitleTokens:
        """Returns these titles, followed by the titles of `more`."""
        return TitleTokens(
            np.concatenate([self.ids, more.ids]), np.concatenate([self.offsets, self.offsets[-1] + more.offsets[1:]])
        )

    def select(self, indices: np.ndarray) -> TitleTokens:
        """Returns the titles at `indices`, in this order."""
        return TitleTokens(self.gather(indices), np.append(0, np.cumsum(self.lengths[indices])))

    def ended(self, token_id: int) -> TitleTokens:
        """Returns these titles, each followed by the token `token_id`."""
        return TitleTokens(np.insert(self.ids, self.offsets[1:], token_id), self.offsets + np.arange(len(self) + 1))


def ragged_arange(lengths: np.ndarray) -> np.ndarray:
    """Concatenates the ranges `[0..lengths[0]), [0..lengths[1]), …` into one flat int64 array."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def sorted_distinct(numbers: np.ndarray) -> np.ndarray:
    """
    Returns the distinct numbers of an array, ascending. It sorts, which is faster than the table that `numpy.unique`
    makes.
    """
    ascending = np.sort(numbers)
    is_first = np.ones(len(ascending), dtype=bool)
    np.not_equal(ascending[1:], ascending[:-1], out=is_first[1:])
    return ascending[is_first]


def tokenize_titles(titles: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> TitleTokens:
    """
    Tokenizes each title once. A title is data: no token in it may act as markup of the prompt. More than some
    thousand titles show a progress bar (see [`long_work_bar`]).

    Args:
        titles (`Iterable[str]`):
            The titles.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The backbone's tokenizer.

    Returns:
        [`TitleTokens`]

    Raises:
        ValueError: If a title is blank or tokenizes to nothing, or if it holds an added token that the tokenizer does
            not split. Such a token could end the turn or close the history.
    """
    titles = list(titles)
    encode, markup = _encoder(titles[:_NUM_COMPARED], tokenizer), _markup(tokenizer)
    lengths, ids = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    with long_work_bar(len(titles), _TITLES_AT_ONCE, desc="Tokenizing titles", unit="title") as progress:
        for start in range(0, len(titles), _TITLES_AT_ONCE):
            chunk = titles[start : start + _TITLES_AT_ONCE]
            encoded = encode(chunk)
            lengths.append(np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded)))
            ids.append(np.fromiter(chain.from_iterable(encoded), dtype=np.int64, count=int(lengths[-1].sum())))
            _check(chunk, lengths[-1], ids[-1], markup, tokenizer)
            progress.update(len(chunk))
    return TitleTokens(np.concatenate(ids), np.append(0, np.cumsum(np.concatenate(lengths))))


def _encoder(sample: list[str], tokenizer: PreTrainedTokenizerBase) -> Callable[[list[str]], list[list[int]]]:
    """
    Returns the function that encodes titles.

    A fast tokenizer's backend encodes in threads, and makes nothing but tokens. The tokenizer itself takes twice the
    time, because it turns masks and offsets of every title into lists. It is used if it reads a sample of the titles
    in another way than its backend, as a class with code of its own may do.
    """

    def encode(titles: list[str]) -> list[list[int]]:
        return tokenizer(titles, add_special_tokens=False, split_special_tokens=True)["input_ids"] if titles else []

    def encode_fast(titles: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in backend.encode_batch_fast(titles, add_special_tokens=False)]

    if not tokenizer.is_fast:
        return encode
    expected = encode(sample)  # also tells the backend to split special tokens, and to neither pad nor cut
    backend = tokenizer.backend_tokenizer
    return encode_fast if backend.encode_special_tokens and encode_fast(sample) == expected else encode


def _markup(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Returns the tokens that a title may not hold. Words that were special tokens before are still among them."""
    # `split_special_tokens` does not split added tokens that are not marked special, such as `<think>`. Runs of
    # spaces are text. The unknown token is text too, unless the same token begins or ends a text. So is a word that
    # was a special token before, such as the padding token `!` that `replace_text_padding` has replaced.
    added = {token_id for token, token_id in tokenizer.get_added_vocab().items() if not token.isspace()}
    markup = added | set(tokenizer.all_special_ids)
    if tokenizer.unk_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        markup.discard(tokenizer.unk_token_id)
    return np.fromiter(markup, dtype=np.int64, count=len(markup))


def _check(
    titles: list[str], lengths: np.ndarray, ids: np.ndarray, markup: np.ndarray, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Checks titles and their tokens, which stand in `ids` one title after the other."""
    if not lengths.all() or not all(map(str.strip, titles)):
        title = next(title for title, length in zip(titles, lengths, strict=True) if length == 0 or not title.strip())
        raise ValueError(
            f"The title {title!r} is blank or tokenizes to nothing with {type(tokenizer).__name__}. Rename the item "
            "or leave it out."
        )
    forbidden = np.isin(ids, markup)
    for token_id in np.unique(ids[forbidden]).tolist():
        if _was_special(tokenizer, token_id):
            forbidden &= ids != token_id
    if forbidden.any():
        position = int(np.flatnonzero(forbidden)[0])
        title = titles[int(np.searchsorted(np.cumsum(lengths), position, side="right"))]
        token_id = int(ids[position])
        is_text = token_id in tokenizer.all_special_ids and is_text_token(tokenizer, token_id)
        mend = "Use another special token in the tokenizer, or rename the item" if is_text else "Rename the item"
        raise ValueError(
            f"The title {title!r} holds the special token {tokenizer.convert_ids_to_tokens(token_id)!r}, which would "
            f"act as markup of the prompt. {mend}."
        )


def _was_special(tokenizer: PreTrainedTokenizerBase, token_id: int) -> bool:
    """Whether a token of texts is marked special, but none of the tokenizer's special tokens any more."""
    if token_id in tokenizer.all_special_ids:
        return False
    return tokenizer.added_tokens_decoder[token_id].special and is_text_token(tokenizer, token_id)
