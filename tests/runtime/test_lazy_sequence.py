"""Lazy sequences: they make what is asked for, and nothing else."""

import pytest

from patchrec_hf.runtime.lazy_sequence import LazySequence


def test_entries_are_made_when_they_are_asked_for():
    made = []

    def make(number):
        made.append(number)
        return 10 * number

    values = LazySequence(4, make)
    assert (len(values), bool(values), made) == (4, True, [])
    assert (values[1], values[-1]) == (10, 30)
    assert made == [1, 3]
    part = values[1:]
    assert (len(part), made) == (3, [1, 3])
    assert list(part) == [10, 20, 30]
    assert list(values) == [0, 10, 20, 30]
    assert list(values[::-2]) == [30, 10]
    with pytest.raises(IndexError):
        values[4]
    assert not LazySequence(0, make)


def test_a_negative_length():
    with pytest.raises(ValueError, match="`length` must be at least 0, got -1"):
        LazySequence(-1, str)
