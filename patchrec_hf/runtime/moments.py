"""Moments: the times at which recommendations are asked for, as whole seconds since 1970 UTC."""

from __future__ import annotations

from typing import Any

import numpy as np


SECONDS_PER_DAY = 86_400
_LATEST = 32_503_680_000  # the year 3000
_NO_SECONDS = (
    "`times` must be whole numbers, in seconds since 1970 UTC, got {!r}. Now is `int(time.time())`, and a `datetime` "
    "with its time zone is `int(moment.timestamp())`."
)


def as_moments(times: Any, num_histories: int) -> np.ndarray:
    """
    Checks the moments of asking.

    Args:
        times (`int` or `Sequence[int]`):
            One moment for all histories, or one for each, in whole seconds since 1970 UTC.
        num_histories (`int`):
            Number of histories, B.

    Returns:
        `numpy.ndarray` of shape `(B,)`, int64.

    Raises:
        TypeError: If a moment is no whole number.
        ValueError: If there are not B moments, or one is beyond the year 3000.
    """
    try:
        moments = np.asarray(times)
    except ValueError as error:  # lists of different lengths
        raise TypeError(_NO_SECONDS.format(times)) from error
    if moments.size > 0 and moments.dtype.kind not in "iu":
        raise TypeError(_NO_SECONDS.format(times))
    if moments.ndim > 0 and moments.shape != (num_histories,):
        raise ValueError(
            f"`times` must be one moment for all {num_histories} histories or one for each, got an array of shape "
            f"{moments.shape}."
        )
    check_seconds(moments)
    return np.broadcast_to(moments.astype(np.int64), (num_histories,))


def check_seconds(times: np.ndarray) -> None:
    """
    Checks that times are seconds, and not milliseconds or another unit.

    Args:
        times (`numpy.ndarray`, integers):
            Times.

    Raises:
        ValueError: If a time is beyond the year 3000.
    """
    if times.size > 0 and times.max() > _LATEST:
        raise ValueError(
            f"Times are whole seconds since 1970 UTC, but {times.max()} is beyond the year 3000. If it is in "
            "milliseconds, divide it by 1000."
        )


def days_of(times: np.ndarray) -> np.ndarray:
    """Returns the day of each time (UTC), as the number of days since 1970; int64."""
    return times.astype(np.int64) // SECONDS_PER_DAY
