"""Padding tokens: replaces a tokenizer's padding token that texts can hold, such as an exclamation mark."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from transformers.utils import logging


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_PADDING_NAMES = ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>", "[PAD]", "<|padding|>", "<|PAD_TOKEN|>")
"""Padding tokens of usual backbones. Others with such names, such as `<|image_pad|>`, stand for images."""

_IN_BRACKETS = re.compile(r"[<\[](.*)[>\]]", re.DOTALL)
_NAME = re.compile(r"[\w|-]*\w[\w|-]*", re.ASCII)

logger = logging.get_logger(__name__)


def is_text_token(tokenizer: PreTrainedTokenizerBase, token_id: int) -> bool:
    """
    Whether ordinary text can hold a token. `!` is a text token, also if the tokenizer uses it as a special token.
    A token in angle or square brackets, such as `<pad>`, is markup if it is an added token or if the brackets hold a
    name. Vocabularies also have words of brackets, such as `[…]` and `[]`.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer.
        token_id (`int`):
            Id of the token.
    """
    token = str(tokenizer.convert_ids_to_tokens(token_id))
    inner = _IN_BRACKETS.fullmatch(token.strip(" ▁Ġ"))
    if inner and (_NAME.fullmatch(inner[1]) or token in tokenizer.get_added_vocab()):
        return False
    text = tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]) == [token_id]


def is_padding_token(tokenizer: PreTrainedTokenizerBase, token_id: int) -> bool:
    """Whether an id belongs to a token of the vocabulary that is not part of texts, so that it can pad."""
    return 0 <= token_id < len(tokenizer) and not is_text_token(tokenizer, token_id)


def replace_text_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    """
    Replaces the padding token if ordinary text can hold it, and says so in the log. In the authors' released
    checkpoints it is `!`. As a padding token, it could stand in no title, and its embedding would not be trained.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Changed in place. Its padding token becomes a token such as `<|finetune_right_pad_id|>` if the tokenizer
            has one, or else its end-of-sequence token.

    Raises:
        ValueError: If the tokenizer has neither.
    """
    former = tokenizer.pad_token
    if former is None or not is_text_token(tokenizer, tokenizer.pad_token_id):
        return
    added = tokenizer.get_added_vocab()
    candidates = [name for name in _PADDING_NAMES if name in added]
    if tokenizer.eos_token_id is not None and not is_text_token(tokenizer, tokenizer.eos_token_id):
        candidates.append(tokenizer.eos_token)
    if not candidates:
        raise ValueError(
            f"The tokenizer's padding token is {former!r}, which texts hold too, and it has no end-of-sequence token "
            f"to use instead (`eos_token` is {tokenizer.eos_token!r}). Set `tokenizer.pad_token` or "
            "`tokenizer.eos_token` to a special token."
        )
    tokenizer.pad_token = candidates[0]
    logger.warning_once(
        f"The tokenizer's padding token is {former!r}, which titles may hold too. It is replaced by "
        f"{candidates[0]!r}. Padding is masked, so the model computes the same."
    )
