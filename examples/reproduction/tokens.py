"""Tokens of histories in a layout, from the mean length of titles, without a tokenizer."""

from __future__ import annotations

import numpy as np

from patchrec_hf import Layout
from patchrec_hf.runtime.layouts import lay_out


def history_tokens(layout: Layout, num_items: int, title_tokens: float) -> float:
    """
    Returns about how many tokens and patches a history takes, with a separator for each item and session.

    Args:
        layout ([`Layout`]):
            The layout.
        num_items (`int`):
            Items of the history.
        title_tokens (`float`):
            Mean number of tokens of a title.
    """
    num_texts, num_patches = _units(layout, num_items, title_tokens)
    return num_texts * (title_tokens + 1) + 2 * num_patches


def compression_ratio(layout: Layout, num_items: int, title_tokens: float) -> float:
    """
    Returns the compression ratio of a history (section 4.1.3), without separators. For 100 items and the title tokens
    of the paper's Table 1, these are the ratios of its Table 2. Arguments as in [`history_tokens`].
    """
    num_texts, num_patches = _units(layout, num_items, title_tokens)
    return num_items * title_tokens / (num_texts * title_tokens + num_patches)


def _units(layout: Layout, num_items: int, title_tokens: float) -> tuple[int, int]:
    """Returns the number of items as text, and of patches."""
    lengths, times = np.full(num_items, round(title_tokens)), np.zeros(num_items, dtype=np.int64)
    segments = lay_out(layout, num_items, title_lengths=lengths, timestamps=times, separate_patches=True)
    num_texts = sum(stop - start for kind, start, stop in segments if kind == "text")
    num_items_patched = sum(stop - start for kind, start, stop in segments if kind == "item_patch")
    return num_texts, num_items_patched + sum(kind == "session_patch" for kind, _, _ in segments)
