"""Prompts: the text around the history, rendered once and kept as token ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from .padding import is_padding_token, replace_text_padding


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


START_TOKEN = "<|start_seq_id|>"
END_TOKEN = "<|end_seq_id|>"
SEPARATOR_TOKEN = "<|item_sep_id|>"
PATCH_TOKEN = "<|patch|>"
# The released checkpoints have the first three.
SPECIAL_TOKENS = (START_TOKEN, END_TOKEN, SEPARATOR_TOKEN, PATCH_TOKEN)

HISTORY_SLOT = "{history}"
# Placeholders for the history and for a whole turn while a chat template is rendered. They are private-use characters,
# which no prompt or template holds.
_HISTORY_MARK, _TURN_MARK = "\ue000\ue001", "\ue002\ue003"
# Llama 3's template writes today's date into the prompt unless it receives a date.
_PINNED_DATE = "26 Jul 2024"


@dataclass(frozen=True)
class PromptTemplate:
    """
    The words of a prompt, for any backbone.

    Args:
        instruction (`str`):
            The user's turn. It holds `{history}` exactly once, at the position of the history. If `{history}` is at
            the end, the whole instruction comes before the history.
        system (`str`, *optional*):
            The system turn. If a chat template has no system role, this text opens the user's turn.

    Raises:
        ValueError: If `{history}` does not appear in `instruction` exactly once, or appears in `system`.
    """

    instruction: str
    system: str | None = None

    def __post_init__(self) -> None:
        if self.instruction.count(HISTORY_SLOT) != 1:
            raise ValueError(f"`instruction` must hold {HISTORY_SLOT} exactly once, got {self.instruction!r}.")
        if self.system is not None and HISTORY_SLOT in self.system:
            raise ValueError(f"{HISTORY_SLOT} belongs in `instruction`, got it in `system`: {self.system!r}.")


BOOK_PROMPT = PromptTemplate(
    system="You are a helpful assistant in book recommendations.",
    instruction="A user has read {history}. Please recommend one book for this user to read next with its title only "
    "and without any explanation.",
)
"""The paper's prompt for Goodreads, as in the released code."""

MOVIE_PROMPT = PromptTemplate(
    system="You are a helpful assistant in movie recommendations.",
    instruction="A user has watched {history}. Please recommend one movie for this user to watch next with its title "
    "only and without any explanation.",
)
"""The paper's prompt for MovieLens, as in the released code."""

BOOK_PROMPT_INSTRUCTION_FIRST = PromptTemplate(
    system=BOOK_PROMPT.system,
    instruction="Please recommend one book for a user to read next with its title only and without any explanation. "
    "The user has read {history}",
)
"""Like `BOOK_PROMPT`, but the instruction precedes the history, so all prompts share it (see [`pack_histories`])."""

MOVIE_PROMPT_INSTRUCTION_FIRST = PromptTemplate(
    system=MOVIE_PROMPT.system,
    instruction="Please recommend one movie for a user to watch next with its title only and without any explanation. "
    "The user has watched {history}",
)
"""Like `MOVIE_PROMPT`, but the instruction precedes the history, so all prompts share it."""


@dataclass(frozen=True)
class Prompt:
    """
    A template rendered for one tokenizer. The whole input is `prefix_ids`, `start_id`, the history, `end_id`,
    `suffix_ids`; the response is the title, then `end_of_turn_id`.

    A prompt is rendered once and saved as ids. So a checkpoint keeps the prompt that it was trained on, even if the
    chat template writes the date or changes in a later version.

    Args:
        prefix_ids (`tuple[int, ...]`):
            Tokens before the history, with the BOS token if the backbone has one.
        suffix_ids (`tuple[int, ...]`):
            Tokens between the history and the response.
        end_of_turn_id (`int`):
            The token that ends the response.
        start_id (`int`):
            `<|start_seq_id|>`, which opens the history.
        end_id (`int`):
            `<|end_seq_id|>`, which closes the history.
        separator_id (`int`):
            `<|item_sep_id|>`, which stands between items.
        patch_id (`int`):
            `<|patch|>`, the placeholder of a patch.
        pad_id (`int`):
            Pads short rows. It is masked everywhere.
    """

    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]
    end_of_turn_id: int
    start_id: int
    end_id: int
    separator_id: int
    patch_id: int
    pad_id: int

    def to_dict(self) -> dict[str, Any]:
        """Returns the prompt as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Prompt:
        """Returns the prompt that [`Prompt.to_dict`] wrote."""
        tuples = {key: tuple(values[key]) for key in ("prefix_ids", "suffix_ids")}
        return cls(**{**values, **tuples})


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """
    Computes a fingerprint of the tokens and ids that a model knows. Tokens that are added after the special tokens of
    PatchRec do not change it, because a model has no embeddings of them.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            A tokenizer with the special tokens (see [`add_special_tokens`]).

    Returns:
        `str`: sixteen hexadecimal digits.
    """
    last = max(special_token_ids(tokenizer).values())
    known = sorted((token_id, token) for token, token_id in tokenizer.get_vocab().items() if token_id <= last)
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]


def add_special_tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """
    Adds the four special tokens of PatchRec to a tokenizer, if it lacks them.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Changed in place. If it has no padding token, its end-of-sequence token becomes the padding token. A
            padding token that texts can hold is replaced (see [`replace_text_padding`]).

    Returns:
        `int`: number of tokens that were new.
    """
    missing = [token for token in SPECIAL_TOKENS if token not in tokenizer.get_vocab()]
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    replace_text_padding(tokenizer)
    return tokenizer.add_special_tokens({"additional_special_tokens": missing}, replace_extra_special_tokens=False)


def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """
    Returns the ids of the four special tokens.

    Raises:
        ValueError: If the tokenizer lacks one of them.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise ValueError(
            f"The tokenizer lacks the special tokens {missing}. Call "
            "`patchrec_hf.add_special_tokens(tokenizer)` first."
        )
    return {token: vocabulary[token] for token in SPECIAL_TOKENS}


def render_prompt(template: PromptTemplate, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    """
    Renders a template with the tokenizer's chat template or, without one, as plain text.

    Args:
        template ([`PromptTemplate`]):
            The words.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            A tokenizer with the special tokens (see [`add_special_tokens`]).

    Returns:
        [`Prompt`]

    Raises:
        ValueError: If the tokenizer lacks the special tokens or an end-of-sequence token, or if its chat template
            drops or repeats the user's message.
    """
    tokens = special_token_ids(tokenizer)
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "The tokenizer has no end-of-sequence token, so a response could not end. Set `tokenizer.eos_token`."
        )
    user_turn = template.instruction.replace(HISTORY_SLOT, _HISTORY_MARK)
    if tokenizer.chat_template is None:
        text = "\n\n".join(filter(None, [template.system, user_turn])) + "\n"
        end_of_turn_id = tokenizer.eos_token_id
    else:
        messages = _accepted_messages(template.system, user_turn, tokenizer)
        text = _apply_chat_template(messages, tokenizer, add_generation_prompt=True)
        end_of_turn_id = _end_of_turn_id(messages, tokenizer)
    if text.count(_HISTORY_MARK) != 1:
        raise ValueError(
            f"The chat template renders the history {text.count(_HISTORY_MARK)} times; it must render it once."
        )
    # Encode the text in one piece, because some tokenizers encode the beginning of a text differently.
    ids = _encode(text.replace(_HISTORY_MARK, START_TOKEN + END_TOKEN), tokenizer)
    start = ids.index(tokens[START_TOKEN])
    prefix_ids, suffix_ids = ids[:start], ids[start + 2 :]
    # If a tokenizer opens every text with BOS, the model expects one. Most chat templates write it themselves.
    opening = tokenizer("", add_special_tokens=True)["input_ids"][:1]
    if opening == [tokenizer.bos_token_id] and prefix_ids[:1] != opening:
        prefix_ids = opening + prefix_ids
    return Prompt(
        prefix_ids=tuple(prefix_ids),
        suffix_ids=tuple(suffix_ids),
        end_of_turn_id=end_of_turn_id,
        start_id=tokens[START_TOKEN],
        end_id=tokens[END_TOKEN],
        separator_id=tokens[SEPARATOR_TOKEN],
        patch_id=tokens[PATCH_TOKEN],
        pad_id=_padding_id(tokenizer),
    )


def with_padding(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    """
    Returns a prompt whose `pad_id` pads with a token of the tokenizer that is not part of texts. Checkpoints that were
    made from the authors' released ones may pad with `!`.

    Args:
        prompt ([`Prompt`]):
            A rendered prompt. It is returned as it is if its `pad_id` is such a token.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer that it was rendered with, after [`replace_text_padding`].
    """
    if is_padding_token(tokenizer, prompt.pad_id):
        return prompt
    return replace(prompt, pad_id=_padding_id(tokenizer))


def _padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def _encode(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def _apply_chat_template(
    messages: Sequence[dict[str, str]], tokenizer: PreTrainedTokenizerBase, add_generation_prompt: bool
) -> str:
    # A hybrid reasoning model must answer with the title at once. Templates without this switch ignore it.
    return str(
        tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            enable_thinking=False,
            date_string=_PINNED_DATE,
        )
    )


def _accepted_messages(system: str | None, user_turn: str, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, str]]:
    """Returns messages that the chat template accepts: some templates refuse or silently drop the system role."""
    user_only = [{"role": "user", "content": "\n\n".join(filter(None, [system, user_turn]))}]
    if system is None:
        return user_only
    user = {"role": "user", "content": user_turn}
    try:
        # The mark shows whether the turn was rendered. The words of `system` might also occur elsewhere.
        text = _apply_chat_template(
            [{"role": "system", "content": _TURN_MARK}, user], tokenizer, add_generation_prompt=True
        )
    except TemplateError:
        return user_only
    return [{"role": "system", "content": system}, user] if _TURN_MARK in text else user_only


def _end_of_turn_id(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the special token that the chat template puts after an answer, or else the end-of-sequence token."""
    text = _apply_chat_template(
        [*messages, {"role": "assistant", "content": _TURN_MARK}], tokenizer, add_generation_prompt=False
    )
    after = _encode(text.partition(_TURN_MARK)[2], tokenizer)
    added = {token_id for token, token_id in tokenizer.get_added_vocab().items() if not token.isspace()}
    special = added | set(tokenizer.all_special_ids)
    return next((token for token in after if token in special), tokenizer.eos_token_id)
