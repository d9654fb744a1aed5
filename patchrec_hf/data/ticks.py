"""Ticks: reads numbers, dates and texts of ISO 8601 as nanoseconds, and loses no digit."""

from __future__ import annotations

import re

import polars as pl


TICKS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
NANOSECONDS = 1_000_000_000
"""Nanoseconds of a second."""

LATEST = 7_258_118_400
"""The year 2200, in seconds. Nanoseconds of later times soon need more than 63 bits."""

EXPONENT = re.compile(r"[+-]?\d+(?:\.\d*)?[eE][+-]?\d+")
"""A number in scientific notation."""

_PLAIN = r"[+-]?\d+(?:\.\d*)?"
"""A number in digits. As a float, one of more digits than 64 bits hold is too late, but readable."""

_ISO = re.compile(
    r"\d{4}(?P<between>[-/])\d{1,2}(?P=between)\d{1,2}"
    r"(?:(?P<gap>T| |, )\d{1,2}:\d{2}(?P<seconds>:\d{2}(?P<fraction>\.\d+)?)?"
    r"(?P<zone> ?(?:Z|[+-]\d{2}(?::?\d{2})?))?)?"
)


def read_numbers(values: pl.Series, ticks: int) -> pl.Series:
    """Reads numbers, or texts of numbers, as nanoseconds. Those beyond the years 1740 to 2200 become just later."""
    if values.dtype.is_decimal() or not values.dtype.is_numeric():
        values = values.cast(pl.String)  # as a whole number, a decimal would lose its fraction
    if values.dtype.is_float():
        return _read_floats(values.cast(pl.Float64), ticks)
    whole = values.cast(pl.Int64, strict=False)
    read = _as_nanoseconds(whole, ticks)
    if whole.null_count() == values.null_count():
        return read
    is_left = whole.is_null() & values.is_not_null()
    places = is_left.arg_true()
    return read.scatter(places, _read_fractions(values.filter(is_left).cast(pl.String).str.strip_chars(), ticks))


def _read_fractions(texts: pl.Series, ticks: int) -> pl.Series:
    """Reads texts of numbers with a fraction or an exponent, digit by digit."""
    parts = texts.to_frame("text").select(
        sign=pl.when(pl.col("text").str.starts_with("-")).then(-1).otherwise(1),
        whole=pl.col("text").str.extract(r"^[+-]?(\d+)(?:\.\d*)?$").cast(pl.Int64, strict=False),
        fraction=pl.col("text").str.extract(r"^[+-]?\d+\.(\d*)$").fill_null("") + "0" * 9,
        float=pl.when(pl.col("text").str.contains(rf"^(?:{EXPONENT.pattern}|{_PLAIN})$")).then(
            pl.col("text").cast(pl.Float64, strict=False)
        ),
    )
    digits = len(str(NANOSECONDS // ticks)) - 1
    rest = parts["fraction"].str.slice(0, digits)
    rest = rest.cast(pl.Int64) if digits else pl.zeros(len(texts), dtype=pl.Int64, eager=True)
    exact = parts["sign"] * (_as_nanoseconds(parts["whole"], ticks) + rest)
    return exact.zip_with(exact.is_not_null(), _read_floats(parts["float"], ticks))


def _read_floats(values: pl.Series, ticks: int) -> pl.Series:
    values = values.fill_nan(None)
    whole = values.floor()
    rest = ((values - whole) * (NANOSECONDS // ticks)).floor().cast(pl.Int64, strict=False)
    latest = float((LATEST + 1) * ticks)
    return _as_nanoseconds(whole.clip(-latest, latest).cast(pl.Int64, strict=False), ticks) + rest


def _as_nanoseconds(whole: pl.Series, ticks: int) -> pl.Series:
    latest = (LATEST + 1) * ticks
    return whole.clip(-latest, latest) * (NANOSECONDS // ticks)


def read_dates(values: pl.Series) -> pl.Series:
    """Reads dates as nanoseconds. Those beyond the years 1740 to 2200 become just later."""
    if values.dtype == pl.Date:
        return _as_nanoseconds(values.to_physical().cast(pl.Int64) * 86_400, 1)
    unit = str(values.dtype.time_unit)  # type: ignore[attr-defined]
    return _as_nanoseconds(values.to_physical().cast(pl.Int64), TICKS_PER_SECOND[unit])


def read_iso(texts: pl.Series) -> pl.Series:
    """
    Reads texts in the most common forms of ISO 8601: year-month-day, with or without hours and minutes, seconds, a
    fraction of a second, and a time zone. The other forms become nulls: those without marks between the numbers
    (`20241225T180000Z`), weeks (`2024-W52-3`), days of the year (`2024-360`) and hours alone (`2024-12-25T18`).
    """
    read = pl.Series(texts.name, [None], dtype=pl.Int64).new_from_index(0, len(texts))
    left = texts.is_not_null().arg_true()
    while len(left):
        rest = texts.gather(left)
        if not (first := _ISO.fullmatch(rest[0])):
            break  # a fault, whose line the reader finds
        found = rest.str.to_datetime(_iso_format(first), time_unit="us", time_zone="UTC", strict=False)
        times = _as_nanoseconds(found.to_physical(), TICKS_PER_SECOND["us"])
        # Microseconds would lose the last digits of some texts, and nanoseconds later years of others.
        is_long = rest.str.contains(r"\.\d{7}")
        if first["fraction"] and is_long.any():
            exact = rest.str.to_datetime(_iso_format(first), time_unit="ns", time_zone="UTC", strict=False)
            times = exact.to_physical().zip_with(is_long, times)
        is_read = times.is_not_null()
        if not is_read[0]:
            break
        read = read.scatter(left.filter(is_read), times.filter(is_read))
        left = left.filter(~is_read)
    return read


def _iso_format(first: re.Match[str]) -> str:
    between = first["between"]
    pattern = f"%Y{between}%m{between}%d"
    if first["gap"]:
        pattern += f"{first['gap']}%H:%M{':%S' if first['seconds'] else ''}{'%.f' if first['fraction'] else ''}"
    if first["zone"]:
        pattern += (" " if first["zone"].startswith(" ") else "") + "%#z"
    return pattern


def as_coarse_as_exact(times: pl.Series) -> tuple[pl.Series, int]:
    """
    Changes nanoseconds into the coarsest unit that loses nothing.

    Args:
        times (`polars.Series`):
            Nanoseconds, int64.

    Returns:
        `tuple[polars.Series, int]`: the times, and their number of ticks per second: 1 is seconds, 1000 is
        milliseconds.
    """
    for ticks in TICKS_PER_SECOND.values():
        per_tick = NANOSECONDS // ticks
        coarse = times // per_tick
        if (coarse * per_tick == times).all():
            break
    return coarse, ticks
