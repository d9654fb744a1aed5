"""Prompt lengths: finds the histories that a model cannot rank for, before it ranks for any of them"""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset

from ..batches.length_checks import check_suspects
from ..batches.row_lengths import longest_first
from ..data.rows import TIMES_COLUMN
from ..runtime.encoding import EncodedHistory
from ..runtime.layouts import Layout
from ..runtime.processing import PatchRecProcessor


def encode_prompt(
    processor: PatchRecProcessor, history: np.ndarray, layout: Layout | None, seed: int, timestamps: np.ndarray | None
) -> EncodedHistory:
    """
    Encodes a history to rank for. A random layout draws as in a collator outside training, where the step is 0.

    Args:
        processor ([`PatchRecProcessor`]):
            The processor.
        history (`numpy.ndarray` of shape `(num_items,)`, int64):
            Catalog indices, oldest first.
        layout ([`Layout`], *optional*):
            Replaces the processor's layout.
        seed (`int`):
            Seed of a random layout.
        timestamps (`numpy.ndarray` of shape `(num_items,)`, int64, *optional*):
            When each item was chosen, in seconds.

    Returns:
        [`EncodedHistory`]
    """
    read = history[-processor.max_history :]
    return processor.encode(
        history, layout=layout, seed=(seed, 0, processor.title_tokens.checksum(read)), timestamps=timestamps
    )


def check_prompt_lengths(
    rows: Dataset,
    processor: PatchRecProcessor,
    max_length: int | None,
    title_length: int | None,
    layout: Layout | None = None,
    seed: int = 0,
    name: str = "the data set to rank",
) -> None:
    """
    Checks that a model can rank the catalog behind each history of a data set. Lengths are bounded by the lengths of
    the titles, so only the histories that may be too long are encoded, the longest first.

    Args:
        rows ([`~datasets.Dataset`]):
            Rows, each with at least one target.
        processor ([`PatchRecProcessor`]):
            The model's processor.
        max_length (`int`, *optional*):
            The longest sequence that the model reads, in tokens; `None` if it has no limit.
        title_length (`int`, *optional*):
            Tokens of the longest title that may be ranked, with its end of turn; `None` if items are ranked, and the
            model reads a prompt up to its newest item.
        layout, seed:
            See [`encode_prompt`].
        name (`str`, *optional*, defaults to `"the data set to rank"`):
            Name of the data set, for the error message.

    Raises:
        ValueError: If a history is too long. The message names its row, and the title if that is to blame.
        KeyError: If the catalog lacks an item.
    """
    if max_length is None:
        return
    reads_times = processor.reads_timestamps(layout)

    def check(row: dict[str, Any]) -> None:
        items = processor.catalog.indices_of(row["item_ids"])
        times = np.asarray(row[TIMES_COLUMN]) if reads_times else None
        for position in row["target_positions"]:
            prompt = encode_prompt(
                processor, items[:position], layout, seed, None if times is None else times[:position]
            )
            problem = prompt_problem(prompt, processor, max_length, title_length)
            if problem is not None:
                raise ValueError(f"The history of user {row['user_id']}: {problem}")

    after = -len(processor.prompt.suffix_ids) - 1 if title_length is None else title_length
    suspects = longest_first(rows, processor, layout, max_length, after)
    check_suspects(rows, suspects, check, processor, name)


def prompt_problem(
    prompt: EncodedHistory, processor: PatchRecProcessor, max_length: int | None, title_length: int | None
) -> str | None:
    """
    Says why a prompt is too long.

    Args:
        prompt ([`EncodedHistory`]):
            The prompt.
        processor, max_length, title_length:
            See [`check_prompt_lengths`].

    Returns:
        `str`, *optional*: a sentence or two, which say how to mend it; `None` if the model can read it.
    """
    length = prompt.history_end + 1 if title_length is None else prompt.prompt_length + title_length
    if max_length is None or length <= max_length:
        return None
    remedy = (
        f"Lower the processor's `max_history` (now {processor.max_history}), or choose a layout that compresses more."
    )
    if title_length is None:
        return f"its prompt takes {length} tokens, but the model reads at most {max_length}. {remedy}"
    longest = int(processor.title_tokens.lengths.argmax())
    if title_length > prompt.prompt_length:
        remedy = "Shorten this title, or leave its item out of the catalog."
    return (
        f"its prompt takes {prompt.prompt_length} tokens, and {length} with the longest title of the catalog "
        f"({processor.catalog.name_item(longest)}), but the model reads at most {max_length}. {remedy}"
    )
