"""Times: finds out how a column of times is written, and reads it as whole numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import polars as pl
from transformers.utils import logging

from ..runtime.moments import COMPACT_DATES
from .ticks import EXPONENT, LATEST, NANOSECONDS, TICKS_PER_SECOND, read_dates, read_iso, read_numbers


logger = logging.get_logger(__name__)

_EARLIEST = 157_766_400  # the year 1975, in seconds; a log that ends before it is read in another unit, or is no time
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?")
_YEAR_LAST = re.compile(
    r"\d{1,2}(?P<between>[/.-])\d{1,2}(?P=between)(?P<year>\d{4}|\d{2})"
    r"(?:(?P<gap>T| |, )(?P<clock>\d{1,2}:\d{2}(?P<seconds>:\d{2}(?P<fraction>\.\d+)?)?)(?P<half> ?[AaPp][Mm])?)?"
    r"(?P<zone> ?(?:Z|[+-]\d{2}:?\d{2}))?"
)
_SAMPLE = 100
_UNREADABLE = "is missing, or is not a readable number or date"
_OTHER_FORMS = "(dates in another form than 2024-12-25, 2024-12-25T18:00 or 2024-12-25T18:00:00.5Z need `date_format`)"


@dataclass(frozen=True)
class Times:
    """
    How to read a column of times.

    Args:
        value (`polars.Expr`):
            Expression that reads the times as nanoseconds, int64, and gives null for a time that it cannot read.
        faults (`dict[str, polars.Expr]`):
            Faults of rows that were read under the name `timestamp` (see [`read_checked`]).
        unit (`str`, *optional*):
            The `time_unit`, if the times are numbers.
    """

    value: pl.Expr
    faults: dict[str, pl.Expr]
    unit: str | None = None

    def check_latest(self, label: str, column: str, latest: int | None) -> None:
        """
        Checks that numbers are times in their unit: a log that ends before 1975 hardly is one. In seconds, numbers
        may also count the interactions, so that they only give an order. One warning is logged then.

        Args:
            label (`str`):
                Name of the file or frame, for messages.
            column (`str`):
                Name of the column.
            latest (`int`, *optional*):
                The latest time in nanoseconds, as `value` reads it; `None` if there is no time.

        Raises:
            ValueError: If the latest time is before 1975, in a unit other than seconds.
        """
        if self.unit is None or latest is None or latest >= _EARLIEST * NANOSECONDS:
            return
        date = datetime.fromtimestamp(latest // NANOSECONDS, UTC).date()
        number = latest * TICKS_PER_SECOND[self.unit] / NANOSECONDS
        problem = (
            f"{label}: the latest of {column!r} is {date} in the unit {self.unit!r}, which is the number {number:g}. "
        )
        advice = (
            "If the numbers are times in another unit, pass it as `time_unit`. If they are dates, such as the day "
            "numbers of a spreadsheet, write them as dates, and name their form by `date_format` if need be."
        )
        if self.unit != "s":
            raise ValueError(f"{problem}{advice} Times before 1975 must be written as dates.")
        logger.warning_once(f"{problem}{advice} If they only count the interactions, all is well.")


def find_times(
    label: str,
    rows: pl.LazyFrame,
    column: str,
    kind: pl.DataType,
    time_unit: str = "s",
    date_format: str | None = None,
) -> Times:
    """
    Finds out how a column of times is written. All times of the column must then be written in this way.

    Args:
        label (`str`):
            Name of the file or frame, for error messages.
        rows (`polars.LazyFrame`):
            The rows.
        column (`str`):
            Name of the column.
        kind (`polars.DataType`):
            Type of the column. In `rows`, the numbers of a text file may still be texts.
        time_unit (`"s"`, `"ms"`, `"us"` or `"ns"`, *optional*, defaults to `"s"`):
            Unit of times that are numbers.
        date_format (`str`, *optional*):
            Format of texts, as for `datetime.strptime`. If not given, texts may be numbers, dates with the year
            first (see [`read_iso`]), or dates with the year last, if the order of day and month follows from one of
            them.

    Returns:
        [`Times`]

    Raises:
        ValueError: If `time_unit` has another value, `date_format` does not apply to the column or must be given, or
            the column is neither number, date nor text.
    """
    if time_unit not in TICKS_PER_SECOND:
        raise ValueError(f"`time_unit` must be one of {list(TICKS_PER_SECOND)}, got {time_unit!r}.")
    is_date = kind.is_temporal() and not isinstance(kind, pl.Time | pl.Duration)
    if not (is_date or kind.is_numeric() or isinstance(kind, pl.String | pl.Categorical | pl.Enum | pl.Null)):
        raise ValueError(f"{label}: column {column!r} holds {kind}; times must be numbers, dates or texts.")
    if is_date:
        if date_format is not None:
            raise ValueError(
                f"{label}: column {column!r} holds {kind}, so its dates are read already. Leave out `date_format`."
            )
        return _dates(_elementwise(pl.col(column), read_dates), column, _UNREADABLE)
    text = pl.col(column).cast(pl.String).str.strip_chars()
    if date_format is not None:
        # Pandas makes floats of whole numbers if one is missing, and databases give decimals.
        digits = pl.col(column).cast(pl.Float64, strict=False).cast(pl.Int64, strict=False).cast(pl.String)
        return _formatted(column, digits if kind.is_float() or kind.is_decimal() else text, date_format)
    sample = _sample(rows, text)
    if kind.is_numeric() or (sample and _NUMBER.fullmatch(sample[0])):
        if sample and all(EXPONENT.fullmatch(time) for time in sample):
            raise ValueError(
                f"{label}: column {column!r} holds numbers such as {sample[0]}, whose last digits may be missing. "
                "Write the times with all of their digits."
            )
        _refuse_compact_dates(label, rows, column, text, sample)
        return _numbers(column, time_unit)
    if sample and (first := _YEAR_LAST.fullmatch(sample[0])):
        return _formatted(column, text, _find_format(label, rows, column, text, first))
    value = _elementwise(text, read_iso)
    return _dates(value, column, f"{_UNREADABLE} {_OTHER_FORMS}")


def _elementwise(values: pl.Expr, read: Callable[[pl.Series], pl.Series]) -> pl.Expr:
    return values.map_batches(read, return_dtype=pl.Int64, is_elementwise=True)


def _numbers(column: str, time_unit: str) -> Times:
    faults = {
        f"{column!r} {_UNREADABLE}": pl.col("timestamp").is_null(),
        f"{column!r} is beyond the year 2200 in the unit {time_unit!r}; set `time_unit`": (
            pl.col("timestamp") > LATEST * NANOSECONDS
        ),
        f"{column!r} is before the year 1740 in the unit {time_unit!r}; set `time_unit`": (
            pl.col("timestamp") < -LATEST * NANOSECONDS
        ),
    }
    value = _elementwise(pl.col(column), partial(read_numbers, ticks=TICKS_PER_SECOND[time_unit]))
    return Times(value, faults, time_unit)


def _dates(value: pl.Expr, column: str, problem: str) -> Times:
    time = pl.col("timestamp")
    faults = {
        f"{column!r} {problem}": time.is_null(),
        f"{column!r} lies outside the years 1740 to 2200": time.abs() > LATEST * NANOSECONDS,
    }
    return Times(value, faults)


def _formatted(column: str, text: pl.Expr, date_format: str) -> Times:
    # Python writes a fraction of a second as .%f, polars as %.f.
    pattern = date_format.replace(".%f", "%.f")
    value = text.str.to_datetime(pattern, time_unit="ns", time_zone="UTC", strict=False).dt.epoch("ns")
    return _dates(value, column, f"is missing, or does not have the format {date_format!r}")


def _sample(rows: pl.LazyFrame, text: pl.Expr) -> list[str]:
    try:
        return rows.select(text.alias("time")).drop_nulls().head(_SAMPLE).collect(engine="streaming")["time"].to_list()
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError):
        return []  # the reader reads the same rows next, and names the line of the fault


def _refuse_compact_dates(label: str, rows: pl.LazyFrame, column: str, text: pl.Expr, sample: list[str]) -> None:
    digits = _digits(pl.Series(sample, dtype=pl.String))
    date_format = _compact_format(digits)
    if date_format is None:
        return
    # The first times look like dates. Only if all times do, they are none in a unit.
    every = _digits(rows.select(text.alias("time")).drop_nulls().collect(engine="streaming")["time"])
    if _compact_format(every) == date_format:
        raise ValueError(
            f"{label}: column {column!r} holds numbers that look like dates, such as {digits[0]}. As numbers, they "
            f"would be other times. Pass `date_format={date_format!r}`."
        )


def _digits(texts: pl.Series) -> pl.Series:
    return texts.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False).cast(pl.String)


def _compact_format(digits: pl.Series) -> str | None:
    """Returns the format of numbers that all are dates; `None` if they are not."""
    lengths = digits.str.len_chars().unique().to_list()
    date_format = COMPACT_DATES.get(lengths[0]) if len(lengths) == 1 and lengths[0] is not None else None
    if date_format is None:
        return None
    years = digits.str.to_datetime(date_format, strict=False).dt.year()
    return date_format if years.is_between(1900, 2100).fill_null(False).all() else None


def _find_format(label: str, rows: pl.LazyFrame, column: str, text: pl.Expr, first: re.Match[str]) -> str:
    """Finds the format of dates with the year last, from the first date and from the largest numbers of the file."""
    between = first["between"]
    tail = f"{between}{'%Y' if len(first['year']) == 4 else '%y'}"
    if first["clock"]:
        hour = "%I" if first["half"] else "%H"
        tail += f"{first['gap']}{hour}:%M{':%S' if first['seconds'] else ''}{'%.f' if first['fraction'] else ''}"
        tail += " %p" if (first["half"] or "").startswith(" ") else "%p" if first["half"] else ""
    if first["zone"]:
        tail += (" " if first["zone"].startswith(" ") else "") + "%#z"
    day_first, month_first = f"%d{between}%m{tail}", f"%m{between}%d{tail}"
    if len(first["year"]) == 4:
        parts = [text.str.extract(r"^(\d+)\D(\d+)\D", group).cast(pl.Int64, strict=False).max() for group in (1, 2)]
        try:
            largest = rows.select(parts[0].alias("first"), parts[1].alias("second")).collect(engine="streaming").row(0)
        except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError):
            return day_first  # the reader reads the same rows next, and names the line of the fault
        if largest[0] > 12:
            return day_first
        if largest[1] > 12:
            return month_first
    raise ValueError(
        f"{label}: column {column!r} holds dates such as {first.string!r}, and no date of the file tells the order of "
        f"day, month and year. Pass `date_format={day_first!r}` or `date_format={month_first!r}`."
    )
