"""Moments: the times at which recommendations are asked for, as whole seconds since 1970 UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np


SECONDS_PER_DAY = 86_400
COMPACT_DATES = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
"""Forms of dates that look like whole numbers, by the number of their digits."""

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


def parse_moment(text: str) -> int:
    """
    Reads a moment, as a command gets it.

    Args:
        text (`str`):
            A date or a time in the form of ISO 8601, in UTC unless it names another zone: `2026-11-20`,
            `2026-11-20T06:00`; or whole seconds since 1970 UTC.

    Returns:
        `int`: whole seconds since 1970 UTC.

    Raises:
        ValueError: If it is neither, if it is a number that looks like a date, or if it is beyond the year 3000.
    """
    try:
        seconds = int(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(
                f"A moment is a date such as 2026-11-20, a time such as 2026-11-20T06:00, or whole seconds since 1970 "
                f"UTC, got {text!r}."
            ) from None
        seconds = int((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp())
    else:
        _refuse_compact_date(seconds)
    check_seconds(np.array([seconds]))
    return seconds


def _refuse_compact_date(number: int) -> None:
    date_format = COMPACT_DATES.get(len(str(number)))
    if date_format is None:
        return
    try:
        date = datetime.strptime(str(number), date_format)
    except ValueError:
        return
    if 1900 <= date.year <= 2100:
        written = f"{date:%Y-%m-%d}" if date_format == COMPACT_DATES[8] else date.isoformat()
        raise ValueError(
            f"The number {number} looks like a date, but numbers are seconds since 1970 UTC. Write the date as "
            f"{written}."
        )


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
