"""Lazy sequences: make each entry when it is asked for, and keep none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, overload


T = TypeVar("T", covariant=True)


class LazySequence(Sequence[T], Generic[T]):
    """
    A sequence whose entries are made when they are asked for. An entry that is asked for twice is made twice.

    Args:
        length (`int`):
            Number of entries.
        make (`Callable[[int], T]`):
            Makes the entry with a number from 0 to `length - 1`.

    Raises:
        ValueError: If `length` is negative.

    Example:
    ```python
    >>> prompts = LazySequence(len(histories), lambda row: processor.encode(catalog.indices_of(histories[row])))
    >>> ranker.rank(prompts)
    ```
    """

    def __init__(self, length: int, make: Callable[[int], T]) -> None:
        if length < 0:
            raise ValueError(f"`length` must be at least 0, got {length}.")
        self._length = length
        self._make = make

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> LazySequence[T]: ...

    def __getitem__(self, index: int | slice) -> T | LazySequence[T]:
        if isinstance(index, slice):
            numbers = range(self._length)[index]
            return LazySequence(len(numbers), lambda place: self._make(numbers[place]))
        # The range raises `IndexError` outside the sequence, and counts negative numbers from the end.
        return self._make(range(self._length)[index])
