"""Keywords: names the nearest right one for a misspelt keyword, key or file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from ..runtime.ids import nearest_texts


P = ParamSpec("P")
R = TypeVar("R")


def nearest(name: str, known: Collection[str]) -> str:
    """Returns the end of an error message: the known name that is most like `name`, or all of them if no one is."""
    matches = nearest_texts(name, list(known), n=1)
    return f"did you mean {matches[0]!r}?" if matches else f"it must be among {list(known)}."


def nearest_file(path: Path) -> str:
    """
    Returns a question that names the file or directory whose name is most like the one of a path that does not exist.

    Args:
        path (`pathlib.Path`):
            The path. Its first part that does not exist may be the misspelt one.

    Returns:
        `str`: a blank and the question; empty if there is no similar name, or the directory cannot be read.
    """
    missing = path
    while not missing.parent.exists() and missing.parent != missing:
        missing = missing.parent
    try:
        matches = nearest_texts(missing.name, sorted(child.name for child in missing.parent.iterdir()), n=1)
    except OSError:
        return ""
    if not matches:
        return ""
    found = missing.parent / matches[0]
    whole = found / path.relative_to(missing)
    return f" Did you mean {whole if whole.exists() else found}?"


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
    Traceback (most recent call last):
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
