"""
Random logs in files of every kind are read back exactly, or refused with a line. The reference is the list of records
from which a file was written, and no other parser.
"""

import csv
import gzip
import io
import json
import random
import re
from collections import Counter
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchrec_hf.data.table_options import TableOptions
from patchrec_hf.data.tables import read_tables


NAMES = ["user_id", "item_id", "timestamp", "title", "note"]
NOTE = "ab é\"',;|\t\n\r\\x:{}#"
UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Refusals that concern a column, and so no line.
OF_A_COLUMN = r"no date of the file tells the order|digits may be missing|its lines end with|holds Boolean"


def text(rng, alphabet, most=8):
    return "".join(rng.choice(alphabet) for _ in range(rng.randrange(most)))


def make_ids(rng, number, prefix):
    """Returns ids as they are written, and as they are to be read. The kind may change half-way."""
    kind = rng.choice(["numbers", "points", "zeros", "texts", "mixed", "large", "negative"])
    pool = [rng.randrange(1, 60) for _ in range(rng.randrange(1, 9))]
    ids = [rng.choice(pool) for _ in range(number)]
    half = rng.randrange(number + 1)
    if kind == "numbers":
        return ids, ids
    if kind == "negative":
        return [-one for one in ids], [-one for one in ids]
    if kind == "points":
        return [one if row < half else f"{one}.0" for row, one in enumerate(ids)], ids
    if kind == "zeros":
        return [f"0{one}" for one in ids], [f"0{one}" for one in ids]
    if kind == "large":
        base = rng.choice([2**53, 2**63])
        return [base + one for one in ids], [base + one if base < 2**63 else str(base + one) for one in ids]
    names = {one: f"{prefix}{one}{text(rng, NOTE.replace(chr(13), '').replace(chr(10), ''), 4)}x" for one in pool}
    if kind == "texts":
        return [names[one] for one in ids], [names[one] for one in ids]
    mixed = [one if row < half else names[one] for row, one in enumerate(ids)]
    return mixed, [str(one) for one in mixed] if half < number else mixed


def write_time(rng, form, nanoseconds):
    seconds, rest = divmod(nanoseconds, 10**9)
    moment = EPOCH + timedelta(seconds=seconds)
    if form in UNITS:
        return nanoseconds // UNITS[form]
    if form == "fraction":
        return f"{seconds}.{rest:09d}".rstrip("0").rstrip(".")
    if form == "day first":
        return moment.strftime("%d/%m/%Y %H:%M:%S")
    if form == "date":
        return moment.strftime("%Y-%m-%d")
    zone = rng.choice([0, 2, -5]) if form == "zones" else None
    local = moment + timedelta(hours=zone or 0)
    clock = local.strftime(rng.choice(["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"]))
    clock += f".{rest:09d}".rstrip("0").rstrip(".")
    return clock if zone is None else clock + (f"{zone:+03d}:00" if zone else "Z")


def make_times(rng, number):
    """Returns times as they are written, nanoseconds, the unit, and whether the forms change half-way."""
    form = rng.choice([*UNITS, "fraction", "day first", "date", "iso", "zones", "change"])
    step = {"ms": 10**6, "us": 10**3, "ns": 1, "fraction": 1, "iso": 1, "zones": 10**3, "date": 86_400 * 10**9}
    exact = [rng.randrange(10**9, 1_900_000_000) * 10**9 + rng.randrange(10**9) for _ in range(number)]
    if number > 1 and rng.random() < 0.5:  # times that differ in their last digits only
        exact = [exact[0] // 10**9 * 10**9 + rng.randrange(10**9) for _ in range(number)]
    exact = [one // step.get(form, 10**9) * step.get(form, 10**9) for one in exact]
    if form == "change":
        half = rng.randrange(1, number) if number > 1 else 1
        written = [write_time(rng, "s" if row < half else "iso", one) for row, one in enumerate(exact)]
        return written, exact, "s", half < number
    return [write_time(rng, form, one) for one in exact], exact, form if form in UNITS else "s", False


def write_separated(rng, rows, separator, style):
    end = rng.choice(["\n", "\n", "\r\n", "\r"])
    if style == "verbatim":
        lines = [separator.join(map(str, row)) for row in [NAMES, *rows]]
    else:
        lines = []
        quoting = csv.QUOTE_ALL if style == "all" else csv.QUOTE_MINIMAL
        for row in [NAMES, *rows]:
            line = io.StringIO()
            csv.writer(line, delimiter=separator, quoting=quoting, lineterminator="").writerow(row)
            lines.append(line.getvalue())
    for _ in range(rng.choice([0, 0, 0, 2])):
        lines.insert(rng.randrange(1, len(lines) + 1), "")
    content = end.join(lines) + rng.choice([end, ""])
    return content.encode(rng.choice(["utf-8", "utf-8", "utf-8-sig"]))


def write_json(rng, rows):
    is_ascii = rng.random() < 0.5
    lines = [json.dumps(dict(zip(NAMES, row, strict=True)), ensure_ascii=is_ascii) for row in rows]
    end = rng.choice(["\n", "\n", "\r\n", "\n\n"])
    return (end.join(lines) + rng.choice([end, ""])).encode()


def write_parquet(columns):
    content = io.BytesIO()
    frame = pl.DataFrame(
        {
            name: [str(value) for value in values] if len(set(map(type, values))) > 1 or max_of(values) else values
            for name, values in columns.items()
        }
    )
    frame.write_parquet(content)
    return content.getvalue()


def max_of(values):
    return isinstance(values[0], int) and max(values) >= 2**63


def check(directory, seed):
    """Writes a random log, reads it, and returns whether it is read exactly or refused."""
    rng = random.Random(seed)
    number = 1_200 if rng.random() < 0.02 else rng.choice([1, 2, 3, 8, 30])
    users, right_users = make_ids(rng, number, "u")
    items, right_items = make_ids(rng, number, "i")
    times, exact, unit, changes = make_times(rng, number)
    kind = rng.choice(["csv", "csv", "tsv", "jsonl", "parquet"])
    style = rng.choice(["minimal", "all", "verbatim"])
    separator = "\t" if kind == "tsv" else rng.choice([",", ";", "|", "\t"])
    alphabet = NOTE
    if style == "verbatim" and kind in ("csv", "tsv"):  # values that need no quotes, though they may hold some
        alphabet = re.sub(f"[\n\r{re.escape(separator)}]", "", NOTE)
        if any(separator in str(one) for one in [*users, *items]):
            return "refused"
    titles = {one: f"t{text(rng, alphabet)}." for one in right_items}
    columns = dict(zip(NAMES, [users, items, times, [titles[one] for one in right_items], []], strict=True))
    columns["note"] = [text(rng, alphabet) for _ in range(number)]
    rows = list(zip(*columns.values(), strict=True))
    options = TableOptions(time_unit=unit)
    if kind in ("csv", "tsv"):
        content = write_separated(rng, rows, separator, style)
        if separator == "\t" and style != "verbatim":
            options = TableOptions(time_unit=unit, quote_char='"')
    else:
        content = write_json(rng, rows) if kind == "jsonl" else write_parquet(columns)
    path = directory / f"log.{kind}"
    if kind != "parquet" and rng.random() < 0.2:
        path, content = directory / f"log.{kind}.gz", gzip.compress(content, 1)
    path.write_bytes(content)
    try:
        raw = read_tables(path, options=options)
    except ValueError as error:
        message = str(error)
        assert re.search(rf", (line|row) \d+|{OF_A_COLUMN}", message), message
        assert len(message) < 1_500
        assert len(message.splitlines()) <= 25
        return "refused"
    assert not changes
    found = raw.interactions
    ticks = 10**9 // raw.ticks_per_second
    read = list(
        zip(found["user_id"].cast(pl.String), found["item_id"].cast(pl.String), found["timestamp"], strict=True)
    )
    assert [(user, item, time * ticks) for user, item, time in read] == [
        (str(user), str(item), time) for user, item, time in zip(right_users, right_items, exact, strict=True)
    ]
    assert raw.num_read == {"users": len(set(right_users)), "items": len(set(right_items)), "interactions": number}
    read_titles = dict(zip(raw.items["item_id"].cast(pl.String), raw.items["title"], strict=True))
    assert read_titles == {str(one): title for one, title in titles.items()}
    return "exact"


def run(directory, number):
    outcomes = Counter()

    @settings(
        max_examples=number,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.integers(0, 2**64 - 1))
    def logs(seed):
        outcomes[check(directory, seed)] += 1

    logs()
    return outcomes


def test_random_logs(tmp_path):
    outcomes = run(tmp_path, 100)
    assert outcomes["exact"] >= 40


@pytest.mark.slow
def test_ten_thousand_random_logs(tmp_path):
    outcomes = run(tmp_path, 10_000)
    print(dict(outcomes))
    assert outcomes["exact"] >= 5_000
