"""Keywords: names the nearest right one for a misspelt keyword or key."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from functools import wraps
from typing import ParamSpec, TypeVar


P = ParamSpec("P")
R = TypeVar("R")


def nearest(name: str, known: Collection[str]) -> str:
    """Returns the end of an error message: the known name that is most like `name`, or all of them if no one is."""
    matches = get_close_matches(name, known, n=1)
    return f"did you mean {matches[0]!r}?" if matches else f"it must be among {list(known)}."


def check_keys(argument: str, keys: Iterable[object], known: Collection[str]) -> None:
    """
    Checks the keys of a mapping that a user gives.

    Args:
        argument (`str`):
            Name of the argument, for the error message.
        keys (`Iterable[object]`):
            Keys of the mapping.
        known (`Collection[str]`):
            The keys that the argument may have.

    Raises:
        ValueError: If a key is unknown. The message names the nearest known key.
    """
    for key in keys:
        if key not in known:
            raise ValueError(f"`{argument}` has the unknown key {key!r}; {nearest(str(key), known)}")


def name_nearest_keyword(function: Callable[P, R]) -> Callable[P, R]:
    """
    Decorates a function so that its error for an unknown keyword names the nearest known one. Older versions of Python
    do not do so.

    Example:
    ```python
    >>> load_recommendation_data("ml-1m", max_histroy=50)
    TypeError: load_recommendation_data() got an unexpected keyword 'max_histroy'; did you mean 'max_history'?
    ```
    """
    known = list(inspect.signature(function).parameters)

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                raise TypeError(f"{function.__name__}() got an unexpected keyword {name!r}; {nearest(name, known)}")
        return function(*args, **kwargs)

    return checked
