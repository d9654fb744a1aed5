"""Collators: example rows in, padded tensors out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .encoding import EncodedExample, pad_examples
from .layouts import Layout, RandomPatchLayout, TextLayout
from .processing import PatchRecProcessor


@dataclass(frozen=True)
class PatchDataCollator:
    """
    Makes a batch of example rows, one example for each target of each row.

    Args:
        processor ([`PatchRecProcessor`]):
            Encodes histories.
        layout ([`Layout`], *optional*):
            Overrides the processor's.
        max_length (`int`, *optional*):
            The model's context, in tokens. A longer example is an error, never cut.
        seed (`int`, *optional*, defaults to `0`):
            Seed of random layouts. Their draws depend on it, on the row's `step` (0 where it has none) and on its
            history only, not on when or where the collator runs.
    """

    processor: PatchRecProcessor
    layout: Layout | None = None
    max_length: int | None = None
    seed: int = 0

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """
        Args:
            rows (`Sequence[Mapping[str, Any]]`):
                Example rows: `item_ids`, `target_positions`, `user_id`.

        Returns:
            `dict[str, torch.Tensor]`: see [`pad_examples`].

        Raises:
            ValueError: If a row's target has no earlier item or lies outside its items, or an example is longer than
                `max_length`.
            KeyError: If the catalog lacks an item.
        """
        return pad_examples(self.encode_rows(rows), self.processor.prompt.pad_id)

    def encode_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[EncodedExample]:
        """The examples of `rows`, in order, before padding."""
        return [example for row in rows for example in self._encode_row(row, self.layout)]

    def _encode_row(self, row: Mapping[str, Any], layout: Layout | None) -> Iterator[EncodedExample]:
        indices = self.processor.catalog.indices_of(row["item_ids"])
        for position in row["target_positions"]:
            if not 0 < position < len(indices):
                raise ValueError(
                    f"Row of user {row.get('user_id')}: target position {position} must lie between 1 and "
                    f"{len(indices) - 1}; a target is one of the row's {len(indices)} items, after at least one other."
                )
            example = self.processor.encode(
                self.processor.title_tokens,
                indices[:position],
                indices[position],
                layout=layout,
                seed=(self.seed, row.get("step", 0)),
            )
            if self.max_length is not None and len(example.input_ids) > self.max_length:
                raise ValueError(
                    f"An example of user {row.get('user_id')} takes {len(example.input_ids)} tokens, but the model "
                    f"reads at most {self.max_length}. Lower `max_history` (now {self.processor.max_history}) or "
                    f"choose a layout that compresses more than {layout or self.processor.layout}."
                )
            yield example


@dataclass(frozen=True)
class PatchPretrainDataCollator(PatchDataCollator):
    """
    Makes a batch for the paper's patch pre-training: each example twice, first as text and then with items
    compressed at random.

    Rows are stamped with the `step` that learns from them and its `progress`, which is the probability of compression
    (see [`StampedDataset`]). Rows without a stamp, as in evaluation, are laid out once, in the fixed layout.
    """

    def encode_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[EncodedExample]:
        """The twins of `rows`, text first, before padding."""
        examples: list[EncodedExample] = []
        for row in rows:
            if "progress" not in row:
                examples.extend(self._encode_row(row, self.layout))
                continue
            raw = self._encode_row(row, TextLayout())
            compressed = self._encode_row(row, RandomPatchLayout(row["progress"]))
            examples.extend(twin for twins in zip(raw, compressed, strict=True) for twin in twins)
        return examples


def token_counts(examples: Sequence[EncodedExample]) -> tuple[np.ndarray, np.ndarray]:
    """The `counts` and `text_counts` of examples, each of shape `(num_examples, 3)`."""
    return np.array([example.counts for example in examples]), np.array([example.text_counts for example in examples])
