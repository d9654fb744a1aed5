"""How a column of times is written follows from the whole file."""

import re
from datetime import UTC, datetime
from decimal import Decimal

import polars as pl
import pytest
from raw_files import interactions_of, prepare, write_table

from patchrec_hf.data.times import find_times


def log_of(times, path):
    number = len(times)
    log = pl.DataFrame(
        {"user_id": [1] * number, "item_id": range(number), "timestamp": times, "title": ["Pen"] * number}
    )
    return write_table(log, path)


def seconds(*date):
    return int(datetime(*date, tzinfo=UTC).timestamp())


def times_of(path, **kwargs):
    # By item, so in the order of the file.
    return [time for _, _, time in sorted(interactions_of(prepare(path, **kwargs)), key=lambda row: row[1])]


FILES = ["log.csv", "log.jsonl", "log.parquet"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (["1700000000", "1700000007.9"], [1_700_000_000, 1_700_000_007]),
        (["2024-04-03", "2024-12-25"], [seconds(2024, 4, 3), seconds(2024, 12, 25)]),
        (["2024-04-03T10:00:00+02:00"], [seconds(2024, 4, 3, 8)]),
        (["03/04/2024", "25/12/2024"], [seconds(2024, 4, 3), seconds(2024, 12, 25)]),
        (["03/04/2024", "12/25/2024"], [seconds(2024, 3, 4), seconds(2024, 12, 25)]),
        (["3.4.2024 9:30", "25.12.2024 18:00"], [seconds(2024, 4, 3, 9, 30), seconds(2024, 12, 25, 18)]),
        (["3-4-2024 9:30:05.5", "25-12-2024 18:00:00"], [seconds(2024, 4, 3, 9, 30, 5), seconds(2024, 12, 25, 18)]),
        (["4/3/2024, 9:30 PM", "12/25/2024, 1:00 AM"], [seconds(2024, 4, 3, 21, 30), seconds(2024, 12, 25, 1)]),
        (
            ["25/12/2024T09:30:00Z", "03/04/2024T09:30:00+02:00"],
            [seconds(2024, 12, 25, 9, 30), seconds(2024, 4, 3, 7, 30)],
        ),
        ([" 2024-04-03 ", "2024-12-25"], [seconds(2024, 4, 3), seconds(2024, 12, 25)]),
    ],
)
def test_times_by_hand(tmp_path, name, times, expected):
    assert times_of(log_of(times, tmp_path / name)) == expected


@pytest.mark.parametrize("name", FILES)
def test_one_date_far_behind_tells_the_order(tmp_path, name):
    times = ["03/04/2024"] * 3_000 + ["12/25/2024"]
    assert times_of(log_of(times, tmp_path / name))[0] == seconds(2024, 3, 4)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("times", "way_out"),
    [
        (["03/04/2024", "12/11/2024"], r"date_format='%d/%m/%Y'` or `date_format='%m/%d/%Y'"),
        (["03.04.2024 10:00"], r"date_format='%d.%m.%Y %H:%M'` or `date_format='%m.%d.%Y %H:%M'"),
        # The first number may be a year.
        (["25/12/24"], r"date_format='%d/%m/%y'` or `date_format='%m/%d/%y'"),
    ],
)
def test_dates_that_cannot_be_told(tmp_path, name, times, way_out):
    path = log_of(times, tmp_path / name)
    with pytest.raises(ValueError, match=rf"column 'timestamp' holds dates such as '{times[0]}'.*Pass `{way_out}`"):
        prepare(path)


def test_the_way_out_works(tmp_path):
    path = log_of(["03/04/2024", "12/11/2024"], tmp_path / "log.csv")
    assert times_of(path, date_format="%d/%m/%Y") == [seconds(2024, 4, 3), seconds(2024, 11, 12)]
    assert times_of(path, date_format="%m/%d/%Y") == [seconds(2024, 3, 4), seconds(2024, 12, 11)]


@pytest.mark.parametrize(
    ("time", "date_format", "expected"),
    [
        ("20240403", "%Y%m%d", seconds(2024, 4, 3)),
        ("Sun Jul 30 07:44:10 -0700 2017", "%a %b %d %H:%M:%S %z %Y", seconds(2017, 7, 30, 14, 44, 10)),
        ("2024-04-03 10:00:00.25", "%Y-%m-%d %H:%M:%S.%f", seconds(2024, 4, 3, 10)),
        ("3 Apr 2024", "%d %b %Y", seconds(2024, 4, 3)),
    ],
)
@pytest.mark.parametrize("name", FILES)
def test_formats_that_are_given(tmp_path, name, time, date_format, expected):
    assert times_of(log_of([time], tmp_path / name), date_format=date_format) == [expected]


@pytest.mark.parametrize(
    "time",
    ["2024-12-25", "2024/12/25", "2024-12-25 00:00", "2024-12-25T00:00:00.00Z", "2024-12-25 02:00 +02:00"],
)
def test_forms_that_are_read_without_a_format(tmp_path, time):
    assert times_of(log_of([time], tmp_path / "log.csv")) == [seconds(2024, 12, 25)]


@pytest.mark.parametrize(
    ("time", "date_format"),
    [
        ("20241225T000000Z", "%Y%m%dT%H%M%SZ"),
        ("2024-W52-3", "%G-W%V-%u"),
        ("2024-360", "%Y-%j"),
        ("2024-12-25t00:00:00z", "%Y-%m-%dt%H:%M:%Sz"),
    ],
)
def test_other_forms_of_iso_8601_need_a_format(tmp_path, time, date_format):
    log = log_of([time], tmp_path / "log.csv")
    with pytest.raises(ValueError, match=r"dates in another form than .* need `date_format`"):
        prepare(log)
    assert times_of(log, date_format=date_format) == [seconds(2024, 12, 25)]


def test_decimals_keep_their_order_and_take_a_format(tmp_path):
    path = tmp_path / "log.parquet"
    log = pl.DataFrame({"user_id": [1, 1], "item_id": [10, 11], "title": ["Pen", "Ink"]})
    times = [Decimal("1700000000.500"), Decimal("1700000000.250")]
    log.with_columns(timestamp=pl.Series(times)).write_parquet(path)
    data = prepare(path)
    assert data.interactions.sort("position")["item_id"].cast(pl.String).to_list() == ["11", "10"]
    dates = pl.Series([Decimal("20240403.00")] * 2)
    log.with_columns(timestamp=dates).write_parquet(path)
    with pytest.raises(ValueError, match="look like dates, such as 20240403"):
        prepare(path)
    assert times_of(path, date_format="%Y%m%d") == [seconds(2024, 4, 3)] * 2


def test_a_fraction_of_a_second_is_kept():
    rows = pl.LazyFrame({"time": ["2024-04-03 10:00:00.25"]})
    times = find_times("The log", rows, "time", pl.String(), date_format="%Y-%m-%d %H:%M:%S.%f")
    assert rows.select(times.value).collect().item() == 1_712_138_400_250_000_000


@pytest.mark.parametrize(
    ("times", "kwargs", "problem"),
    [
        (["25/12/2024", "12/25/2024"], {}, r"line 3: .* does not have the format '%d/%m/%Y'.*12/25/2024"),
        (["25/12/2024", "2024-12-25"], {}, r"line 3: .* does not have the format '%d/%m/%Y'"),
        (["2024-12-25", "25/12/2024"], {}, r"line 3: .* \(dates in another form than 2024-12-25, .*need"),
        (["20241225T180000Z"], {}, r"line 2: .* \(dates in another form than 2024-12-25, .*need `date_format`\)"),
        (["2024-12-25", "1700000000"], {}, r"line 3: .* is not a readable number or date"),
        (["1700000000", "2024-12-25"], {}, r"line 3: .* is not a readable number or date"),
        (["31/12/2024", "31/02/2024"], {}, r"line 3: .* does not have the format '%d/%m/%Y'"),
        (["2024-12-25"], {"date_format": "%d/%m/%Y"}, r"line 2: .* does not have the format '%d/%m/%Y'"),
        (["20240403", "20240404"], {}, r"numbers that look like dates, such as 20240403.*date_format='%Y%m%d'"),
        # 12 digits as milliseconds would be times of 1976, and 14 digits as milliseconds times of 2611.
        (["202401011030"], {}, r"look like dates, such as 202401011030.*date_format='%Y%m%d%H%M'`"),
        (["202401011030"], {"time_unit": "ms"}, r"look like dates, such as 202401011030.*date_format='%Y%m%d%H%M'`"),
        (["20240101103059"], {"time_unit": "ms"}, r"look like dates, such as 20240101103059.*'%Y%m%d%H%M%S'`"),
        (["20240101103059"], {"time_unit": "us"}, r"look like dates, such as 20240101103059.*'%Y%m%d%H%M%S'`"),
        (["1700000000"], {"time_unit": "ms"}, r"latest of 'timestamp' is 1970-01-20 in the unit 'ms'.*`time_unit`"),
        (["45000.5"], {"time_unit": "us"}, r"latest of 'timestamp' is 1970-01-01.*45000.*spreadsheet"),
    ],
)
def test_all_times_must_fit(tmp_path, times, kwargs, problem):
    with pytest.raises(ValueError, match=problem):
        prepare(log_of(times, tmp_path / "log.csv"), **kwargs)


@pytest.mark.parametrize("time", [20240403.0, 20240403103059.0])
def test_dates_that_pandas_made_floats(time):
    """A column of whole numbers with a missing value holds floats in pandas."""
    log = pl.DataFrame({"user_id": [1], "item_id": [1], "timestamp": [time], "title": ["Pen"]})
    with pytest.raises(ValueError, match=f"look like dates, such as {time:.0f}") as caught:
        prepare(log)
    date_format = re.search(r"date_format='(.*)'", str(caught.value))[1]
    assert datetime.fromtimestamp(interactions_of(prepare(log, date_format=date_format))[0][2], UTC).year == 2024


@pytest.mark.parametrize("name", FILES)
def test_numbers_that_may_be_no_seconds(tmp_path, name, monkeypatch):
    logged = []
    monkeypatch.setattr("patchrec_hf.data.times.logger.warning_once", logged.append)
    times_of(log_of([3, 1_700_000_000], tmp_path / name))
    times_of(log_of(["1970-01-01"], tmp_path / name))
    assert logged == []
    assert times_of(log_of([45_000, 45_001], tmp_path / name)) == [45_000, 45_001]
    (message,) = logged
    assert "latest of 'timestamp' is 1970-01-01 in the unit 's', which is the number 45001" in message
    assert "`time_unit`" in message
    assert "`date_format`" in message


def test_times_that_are_dates_already(tmp_path):
    path = log_of([datetime(2024, 4, 3), datetime(2024, 4, 4)], tmp_path / "log.parquet")
    assert times_of(path) == [seconds(2024, 4, 3), seconds(2024, 4, 4)]
    with pytest.raises(ValueError, match=r"its dates are read already. Leave out `date_format`"):
        prepare(path, date_format="%d/%m/%Y")
