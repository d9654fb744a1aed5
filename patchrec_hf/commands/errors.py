"""Errors of user input: one line at the end of a command, and no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """
    Ends the process with one line if the context raises an error that user input causes.

    Raises:
        SystemExit: With a message such as `ValueError: ...`, for a `ValueError`, `KeyError`, `TypeError`, `OSError`,
            `ImportError` (a missing extra) or `FloatingPointError` (a model whose scores are not numbers). The exit
            status is 1.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, OSError, ImportError, FloatingPointError) as error:
        # A KeyError shows its message in quotes.
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise SystemExit(f"{type(error).__name__}: {message}") from None
