"""Ids: whole numbers or texts, as the user's own data has them, in arrays of one kind."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Sequence
from heapq import nlargest
from typing import Any

import numpy as np


_MAX_COMPARED = 2_000


def as_ids(values: Iterable[Any], name: str = "An item id") -> np.ndarray:
    """
    Makes an array of ids of one kind.

    Args:
        values (`Iterable[int]`, `Iterable[str]` or `numpy.ndarray`):
            Ids: all of them whole numbers, or all of them texts.
        name (`str`, *optional*, defaults to `"An item id"`):
            Name of an id, for the error messages.

    Returns:
        `numpy.ndarray` of shape `(n,)`: int64, or an object array of `str`.

    Raises:
        TypeError: If an id is neither a whole number nor a text, or ids are of both kinds.
        ValueError: If a number needs more than 63 bits.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind == "i":
        return values.astype(np.int64, copy=False)
    listed = values.tolist() if isinstance(values, np.ndarray) else list(values)
    kinds = set(map(type, listed))
    if not kinds:
        return np.empty(0, dtype=np.int64)
    if kinds == {str}:
        ids = np.empty(len(listed), dtype=object)
        ids[:] = listed
        return ids
    if kinds == {int}:
        try:
            return np.array(listed, dtype=np.int64)
        except OverflowError:
            largest = max(listed, key=abs)
            raise ValueError(
                f"{name} must fit into 64 bits with a sign, got {largest}. Write such ids as texts."
            ) from None
    if kinds <= {int, str}:
        text, number = (next(value for value in listed if type(value) is kind) for kind in (str, int))
        raise TypeError(
            f"Ids must be all whole numbers or all texts, got both {text!r} and {number!r}. Write all of them "
            "as texts."
        )
    for value in listed:
        if isinstance(value, bool) or not isinstance(value, (int, np.integer, str)):
            raise TypeError(f"{name} must be a whole number or a text, got {value!r}.")
    return as_ids([str(value) if isinstance(value, str) else int(value) for value in listed], name)


def is_text(ids: np.ndarray) -> bool:
    """Whether ids that [`as_ids`] made are texts."""
    return ids.dtype == object


def id_numbers(ids: np.ndarray) -> np.ndarray:
    """
    Turns ids into numbers that depend on nothing but the ids, so that files and tensors can hold them.

    Args:
        ids (`numpy.ndarray` of shape `(n,)`):
            As [`as_ids`] returns them.

    Returns:
        `numpy.ndarray` of shape `(n,)`, int64: whole numbers unchanged; 64-bit hashes of texts, the same on every
        machine.
    """
    if not is_text(ids):
        return ids
    digests = b"".join(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in ids)
    return np.frombuffer(digests, dtype="<i8").astype(np.int64)


def name_nearest(kind: str, text: str, choices: Sequence[str]) -> str:
    """Returns a sentence that names the texts that are spelled most like another one; empty if none is similar."""
    nearest = nearest_texts(text, choices)
    return f" The nearest {kind} are {', '.join(map(repr, nearest))}." if nearest else ""


def nearest_texts(text: str, choices: Sequence[str], n: int = 3) -> list[str]:
    """
    Finds the texts that are spelled most like another one.

    Args:
        text (`str`):
            The text.
        choices (`Sequence[str]`):
            The texts to choose from.
        n (`int`, *optional*, defaults to `3`):
            Number of texts to return at most.

    Returns:
        `list[str]`: most similar first; empty if no choice is similar.
    """
    folded = text.casefold()
    by_folded = {choice.casefold(): choice for choice in reversed(choices)}
    compared = list(by_folded)
    if len(compared) > _MAX_COMPARED:  # comparing all texts of a large catalog would take seconds
        reverse = folded[::-1]

        def num_shared(other: str) -> int:
            return _shared_start(folded, other) + _shared_start(reverse, other[::-1])

        alike = [other for other in compared if other[:2] == folded[:2] or other[-2:] == folded[-2:]]
        compared = nlargest(_MAX_COMPARED, alike, key=num_shared)
    return [by_folded[match] for match in difflib.get_close_matches(folded, compared, n)]


def _shared_start(one: str, other: str) -> int:
    """Returns the number of first characters that two texts share."""
    differences = (index for index, (left, right) in enumerate(zip(one, other, strict=False)) if left != right)
    return next(differences, min(len(one), len(other)))
