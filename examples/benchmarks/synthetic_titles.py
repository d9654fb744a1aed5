"""Synthetic titles: catalogs of any size whose titles are words drawn by Zipf's law, for benchmarks."""

from __future__ import annotations

import numpy as np


NUM_WORDS = 4_000
"""Number of different words. The word of rank r is drawn with a probability that is proportional to 1 / r."""
FEWEST_WORDS, MOST_WORDS = 3, 8
"""Least and greatest number of words in a title."""
_ONSETS = ("b", "br", "c", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "w", "z")
_RIMES = ("a", "an", "ar", "e", "el", "en", "er", "i", "in", "o", "on", "or", "u", "un")


def make_titles(num_items: int, seed: int) -> list[str]:
    """
    Makes the titles of a catalog. A few titles are alike, and a few begin others, as in real catalogs.

    Args:
        num_items (`int`):
            Number of titles.
        seed (`int`):
            Seed of the draws.

    Returns:
        `list[str]`: `num_items` titles of 3 to 8 words.
    """
    rng = np.random.default_rng(seed)
    words = np.array(_make_words(), dtype=object)
    sizes = rng.integers(FEWEST_WORDS, MOST_WORDS + 1, num_items)
    shares = np.cumsum(1 / np.arange(1, NUM_WORDS + 1))
    ranks = np.searchsorted(shares, rng.random(int(sizes.sum())) * shares[-1], side="right")
    drawn, ends = words[ranks].tolist(), np.cumsum(sizes).tolist()
    return [" ".join(drawn[end - size : end]) for end, size in zip(ends, sizes.tolist(), strict=True)]


def _make_words() -> list[str]:
    """Returns the words, the most frequent one first: short ones are more frequent, as in any language."""
    syllables = [onset + rime for onset in _ONSETS for rime in _RIMES]
    pairs = [first + second for first in syllables for second in syllables]
    order = np.random.default_rng(0).permutation(len(pairs))
    words = dict.fromkeys([*syllables, *(pairs[index] for index in order)])  # two pairs of syllables may be one word
    return [word.capitalize() for word in list(words)[:NUM_WORDS]]
