"""The fast tier tries fewer examples than the whole suite: of parameters the first, and of random inputs a fifth."""

import pytest
from hypothesis import settings


_WHOLE, _FAST = 100, 20  # examples of a test that does not say how many it needs


def load_profile(is_fast):
    """
    Tells hypothesis how many examples to try. With `--hypothesis-profile=whole`, the fast tier tries all. Every run
    tries the same examples, so that a change is judged by what it does; `--hypothesis-profile=search` tries new ones.
    """
    # The first call of much that is tried takes long, and any of them on a busy machine.
    settings.register_profile("whole", deadline=None, max_examples=_WHOLE, derandomize=True)
    settings.register_profile("fast", deadline=None, max_examples=_FAST, derandomize=True)
    settings.register_profile("search", deadline=None, max_examples=_WHOLE)
    settings.load_profile("fast" if is_fast else "whole")


def scaled(num_examples):
    """The examples to try of a test that needs `num_examples` in the whole suite."""
    return -(-num_examples * settings.default.max_examples // _WHOLE)


def first_fast(values):
    """Marks all values but the first as `slow`. A tuple holds the values of several parameters."""
    first, *others = values
    slow = [
        pytest.param(*(value if isinstance(value, tuple) else [value]), marks=pytest.mark.slow) for value in others
    ]
    return [first, *slow]
