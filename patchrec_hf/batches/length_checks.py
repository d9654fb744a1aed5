"""Length checks: finds the rows and titles that a model cannot read before any of them is encoded for training"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from datasets import Dataset

from ..data.rows import Row
from ..runtime.processing import PatchRecProcessor
from .collators import PatchDataCollator, PatchPretrainDataCollator
from .row_lengths import frame_length, longest_first
from .sampling import ScheduledRow


def check_title_lengths(processor: PatchRecProcessor, max_length: int | None) -> None:
    """
    Checks that every title of the catalog can be predicted behind the shortest prompt.

    Args:
        processor ([`PatchRecProcessor`]):
            The processor.
        max_length (`int`, *optional*):
            The longest sequence that the model reads, in tokens; `None` if it has no limit.

    Raises:
        ValueError: If the prompt alone or the longest title is too long. The message names them.
    """
    if max_length is None:
        return
    frame = frame_length(processor)
    if frame >= max_length:
        raise ValueError(
            f"The prompt takes {frame} tokens without any history, but the model reads at most {max_length}. Shorten "
            "the prompt's `instruction` and `system`, or take a backbone with a longer context."
        )
    lengths = processor.title_tokens.lengths
    item = int(lengths.argmax())
    if frame + 1 + lengths[item] + 1 > max_length:  # one patch, the title, and the end of the turn
        raise ValueError(
            f"The title of {processor.catalog.name_item(item)}, takes {lengths[item]} tokens, and the prompt {frame} "
            f"without any history, but the model reads at most {max_length}. Shorten the title, or leave the item out "
            "of the catalog and the rows."
        )


def check_row_lengths(rows: Dataset, collator: PatchDataCollator, name: str) -> None:
    """
    Checks that a model can read all rows of a data set. Lengths are bounded by the lengths of the titles, so only the
    rows that may be too long are encoded, the longest first.

    Args:
        rows ([`~datasets.Dataset`]):
            The rows, which have passed [`check_rows`].
        collator ([`PatchDataCollator`]):
            Encodes the rows. Its `max_length` is the longest sequence that the model reads.
        name (`str`):
            Name of the data set, for the error message.

    Raises:
        ValueError: If a row is too long. The message names the row and its longest title.
        KeyError: If the catalog lacks an item.
    """
    if collator.max_length is None:
        return

    def encode(row: Row) -> None:
        collator.encode_rows([row])
        if isinstance(collator, PatchPretrainDataCollator):  # in training, a row has a twin of text alone
            collator.encode_rows([ScheduledRow(row, 0, 0.0)])

    processor = collator.processor
    suspects = longest_first(
        rows,
        processor,
        collator.layout,
        collator.max_length,
        # By the item head, a history ends with its newest item.
        title_length=-len(processor.prompt.suffix_ids) - 1 if collator.objective == "item" else None,
        reads_text=isinstance(collator, PatchPretrainDataCollator),
    )
    check_suspects(rows, suspects, encode, processor, name)


def check_suspects(
    rows: Dataset, suspects: np.ndarray, encode: Callable[[Any], None], processor: PatchRecProcessor, name: str
) -> None:
    """
    Encodes rows that may be too long, and says where the first that is too long stands.

    Args:
        rows ([`~datasets.Dataset`]):
            The rows.
        suspects (`numpy.ndarray` of shape `(n,)`, int64):
            Numbers of the rows to encode.
        encode (`Callable`):
            Takes a row, and raises `ValueError` if it is too long.
        processor, name:
            See [`check_row_lengths`].

    Raises:
        ValueError: If a row is too long.
    """
    for number in suspects.tolist():
        row = rows[number]
        try:
            encode(row)
        except ValueError as error:
            items = processor.catalog.indices_of(row["item_ids"])
            lengths = processor.title_tokens.lengths[items]
            longest = items[lengths.argmax()]
            raise ValueError(
                f"{error} This is row {number} of {name}. Its longest title belongs to "
                f"{processor.catalog.name_item(longest)}, with {lengths.max()} tokens; a title can also be shortened, "
                "or left out."
            ) from None
