"""Title tokens: the titles of items as token ids, in flat arrays."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from .padding import is_text_token


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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

    def num_prefix_titles(self) -> int:
        """Number of titles whose tokens are a prefix of another, longer title."""
        # In lexicographic order, a prefix of any other title is a prefix of the next different title.
        unique = sorted({tuple(self[index].tolist()) for index in range(len(self))})
        prefixes = {short for short, long in pairwise(unique) if long[: len(short)] == short}
        return sum(tuple(self[index].tolist()) in prefixes for index in range(len(self)))


def ragged_arange(lengths: np.ndarray) -> np.ndarray:
    """Concatenates the ranges `[0..lengths[0]), [0..lengths[1]), …` into one flat int64 array."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def tokenize_titles(titles: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> TitleTokens:
    """
    Tokenizes each title once. A title is data: no token in it may act as markup of the prompt.

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
    encoded = tokenizer(titles, add_special_tokens=False, split_special_tokens=True)["input_ids"] if titles else []
    lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
    is_blank = (lengths == 0) | np.fromiter((not title.strip() for title in titles), dtype=bool, count=len(titles))
    if is_blank.any():
        title = titles[int(np.flatnonzero(is_blank)[0])]
        raise ValueError(
            f"The title {title!r} is blank or tokenizes to nothing with {type(tokenizer).__name__}. Rename the item "
            "or leave it out."
        )
    ids = np.fromiter((token for title in encoded for token in title), dtype=np.int64, count=int(lengths.sum()))
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    # `split_special_tokens` does not split added tokens that are not marked special, such as `<think>`. Runs of
    # spaces are text. The unknown token is text too, unless the same token begins or ends a text. So is a word that
    # was a special token before, such as the padding token `!` that `replace_text_padding` has replaced.
    added = {token_id for token, token_id in tokenizer.get_added_vocab().items() if not token.isspace()}
    markup = added | set(tokenizer.all_special_ids)
    if tokenizer.unk_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        markup.discard(tokenizer.unk_token_id)
    forbidden = np.isin(ids, np.fromiter(markup, dtype=np.int64, count=len(markup)))
    for token_id in np.unique(ids[forbidden]).tolist():
        if _was_special(tokenizer, token_id):
            forbidden &= ids != token_id
    if forbidden.any():
        position = int(np.flatnonzero(forbidden)[0])
        title = titles[int(np.searchsorted(offsets, position, side="right")) - 1]
        token_id = int(ids[position])
        is_text = token_id in tokenizer.all_special_ids and is_text_token(tokenizer, token_id)
        mend = "Use another special token in the tokenizer, or rename the item" if is_text else "Rename the item"
        raise ValueError(
            f"The title {title!r} holds the special token {tokenizer.convert_ids_to_tokens(token_id)!r}, which would "
            f"act as markup of the prompt. {mend}."
        )
    return TitleTokens(ids, offsets)


def _was_special(tokenizer: PreTrainedTokenizerBase, token_id: int) -> bool:
    """Whether a token of texts is marked special, but none of the tokenizer's special tokens any more."""
    if token_id in tokenizer.all_special_ids:
        return False
    return tokenizer.added_tokens_decoder[token_id].special and is_text_token(tokenizer, token_id)
