"""Reading a user's own tables. Errors name the file and line."""

import json

import polars as pl
import pytest
from raw_files import LOG, NAMES, interactions_of, prepare, write_table

from patchrec_hf.data.filters import Filters


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.csv.gz", "log.jsonl", "log.parquet"])
def test_tables_by_hand(tmp_path, name):
    path = write_table(LOG, tmp_path / name)
    data = prepare(path, columns=NAMES, time_unit="ms")
    # Within a second, milliseconds tell the order. 007 is another id than 7, so ids stay texts.
    assert interactions_of(data) == [
        ("ann", "8", 1_700_000_000),
        ("ann", "9", 1_700_000_000),
        ("ann", "007", 1_700_000_000),
        ("bob", "8", 1_700_000_000),
    ]
    assert data.items.rows() == [("007", "Pen"), ("8", "Ink"), ("9", "Nib")]
    assert data.users["user_id"].to_list() == ["ann", "bob"]


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet"])
def test_tables_with_numbers_dates_ratings_and_items_apart(tmp_path, name):
    times = ["2024-01-01T00:00:00Z", "2024-01-01T00:00:02Z", "2024-01-01T00:00:01Z"]
    log = pl.DataFrame({"user_id": [5, 5, 5], "item_id": [70, 80, 90], "timestamp": times, "rating": [5.0, 2.0, 4.5]})
    items = pl.DataFrame({"item_id": [90, 80, 70], "title": ["C", "B", "A"]})
    path = write_table(log, tmp_path / name)
    data = prepare(path, Filters(min_rating=4), items=write_table(items, tmp_path / "items.csv"))
    assert interactions_of(data) == [(5, 70, 1704067200), (5, 90, 1704067201)]
    assert data.catalog.titles == ("C", "B", "A")


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_tables_whose_later_ids_are_texts(tmp_path, name):
    rows = [{"user_id": i, "item_id": 7, "timestamp": 1_700_000_000.5 + i, "title": "Pen"} for i in range(1_500)]
    rows.append({"user_id": "ann", "item_id": 7, "timestamp": 1_800_000_000, "title": "Pen"})
    path = tmp_path / name
    if name.endswith("csv"):
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines))
    data = prepare(path)
    users = sorted([*map(str, range(1_500)), "ann"])
    assert data.users["user_id"].to_list() == users
    assert interactions_of(data)[-1] == ("ann", 7, 1_800_000_000)
    assert interactions_of(data)[1] == ("1", 7, 1_700_000_001)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"customer": "who"}, r"no column 'customer'; its columns are .*'who'.*Name the file's own columns"),
        ({"name": "what"}, r"no column 'name'"),
    ],
)
def test_tables_with_a_missing_column(tmp_path, change, problem):
    path = write_table(LOG.rename(change), tmp_path / "log.csv")
    with pytest.raises(ValueError, match=problem):
        prepare(path, columns=NAMES, time_unit="ms")


def test_a_log_without_times_says_what_stands_in_for_them(tmp_path):
    path = write_table(LOG.drop(NAMES["timestamp"]), tmp_path / "log.csv")
    names = {ours: theirs for ours, theirs in NAMES.items() if ours != "timestamp"}
    with pytest.raises(ValueError, match=r"no column 'timestamp'.*needs a column that counts its interactions"):
        prepare(path, columns=names)


@pytest.mark.parametrize(
    ("change", "columns", "problem"),
    [
        ({"customer": "User_ID"}, NAMES, r"has no column 'user_id'.* Did you mean 'User_ID'\? Name the file's own"),
        ({"sku": "SKU"}, NAMES, r"has no column 'skuu'.* Did you mean 'SKU'\?"),
        ({"name": "Titel"}, NAMES, r"has no column 'title'.* Did you mean 'Titel'\?"),
    ],
)
@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet"])
def test_a_missing_column_names_the_nearest(tmp_path, name, change, columns, problem):
    path = write_table(LOG.rename(change), tmp_path / name)
    asked = {"customer": "user_id", "sku": "skuu", "name": "title"}[next(iter(change))]
    given = {ours: asked if theirs in change else theirs for ours, theirs in columns.items()}
    with pytest.raises(ValueError, match=problem):
        prepare(path, columns=given, time_unit="ms")


def test_tables_that_are_empty(tmp_path):
    (tmp_path / "log.csv").write_text("")
    with pytest.raises(ValueError, match=r"log\.csv is empty\. Its first line must name the columns"):
        prepare(tmp_path / "log.csv", columns=NAMES)
    (tmp_path / "log.csv").write_text("customer,sku,at,name\n")
    with pytest.raises(ValueError, match=r"log\.csv holds no interaction"):
        prepare(tmp_path / "log.csv", columns=NAMES)


def test_tables_without_titles(tmp_path):
    path = write_table(LOG.drop("name"), tmp_path / "log.csv")
    with pytest.raises(ValueError, match=r"no column 'name'.* If the titles are in another table, pass it as `items`"):
        prepare(path, columns=NAMES, time_unit="ms")
    with pytest.raises(FileNotFoundError, match=r"no file .*items\.csv, which `items` names"):
        prepare(path, columns=NAMES, time_unit="ms", items=tmp_path / "items.csv")


@pytest.mark.parametrize(
    ("time", "problem"),
    [
        ("yesterday", "is missing, or is not a readable number or date"),
        ("", "is missing, or is not a readable number or date"),
    ],
)
def test_tables_name_the_line(tmp_path, time, problem):
    log = LOG.with_columns(at=pl.Series(["2024-01-01 10:00:00", "2024-01-02 10:00:00", time, "2024-01-01 10:00:00"]))
    path = write_table(log, tmp_path / "log.csv")
    with pytest.raises(ValueError, match=rf"log\.csv, line 4: 'at' {problem}"):
        prepare(path, columns=NAMES)


@pytest.mark.parametrize("rating", ["", "NaN", "good"])
def test_tables_need_a_rating_where_ratings_are_read(tmp_path, rating):
    path = write_table(LOG.with_columns(rating=pl.Series(["5", "4", rating, "3"])), tmp_path / "log.csv")
    with pytest.raises(ValueError, match=r"log\.csv, line 4: 'rating' is missing or not a number"):
        prepare(path, Filters(min_rating=3), columns=NAMES, time_unit="ms")


def test_tables_in_parquet_name_the_row(tmp_path):
    path = write_table(LOG.with_columns(at=pl.Series([1, 2, None, 3])), tmp_path / "log.parquet")
    with pytest.raises(ValueError, match=r"log\.parquet, row 3: 'at' is missing"):
        prepare(path, columns=NAMES)


def test_tables_in_another_time_unit(tmp_path):
    path = write_table(LOG, tmp_path / "log.csv")
    with pytest.raises(ValueError, match=r"line 2: 'at' is beyond the year 2200 in the unit 's'; set `time_unit`"):
        prepare(path, columns=NAMES)


def test_tables_with_two_titles_for_an_item(tmp_path):
    path = write_table(LOG.with_columns(name=pl.Series(["Pen", "Ink", "Tint", "Nib"])), tmp_path / "log.csv")
    with pytest.raises(ValueError, match=r"gives item '8' 2 titles: \['Ink', 'Tint'\]"):
        prepare(path, columns=NAMES, time_unit="ms")


@pytest.mark.parametrize(
    ("kwargs", "problem"),
    [
        ({"columns": {"user": "customer"}}, "`columns` has the unknown key 'user'; did you mean 'user_id'?"),
        ({"columns": NAMES, "time_unit": "h"}, "`time_unit` must be one of"),
    ],
)
def test_tables_refuse_settings(tmp_path, kwargs, problem):
    with pytest.raises(ValueError, match=problem):
        prepare(write_table(LOG, tmp_path / "log.csv"), **kwargs)


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet", "frame"])
@pytest.mark.parametrize("column", ["customer", "sku"])
def test_truth_values_are_no_ids(tmp_path, name, column):
    log = LOG.with_columns(pl.Series(column, [True, False, True, False]))
    with pytest.raises(ValueError, match=f"column '{column}' holds Boolean; ids must be whole numbers or texts"):
        prepare(write_or_pass(log, tmp_path, name), columns=NAMES, time_unit="ms")


@pytest.mark.parametrize("kind", [pl.Binary, pl.Date, pl.Time, pl.Duration])
@pytest.mark.parametrize("name", ["log.parquet", "frame"])
def test_types_that_are_no_ids(tmp_path, name, kind):
    log = LOG.with_columns(sku=pl.Series([None] * 4, dtype=kind))
    with pytest.raises(ValueError, match=r"column 'sku' holds .*; ids must be whole numbers or texts"):
        prepare(write_or_pass(log, tmp_path, name), columns=NAMES, time_unit="ms")


@pytest.mark.parametrize("values", [[b"Pen"] * 4, [["Pen"]] * 4, [{"name": "Pen"}] * 4])
@pytest.mark.parametrize("name", ["log.parquet", "frame"])
def test_types_that_are_no_titles(tmp_path, name, values):
    log = write_or_pass(LOG.with_columns(name=pl.Series(values)), tmp_path, name)
    with pytest.raises(ValueError, match=r"column 'name' holds .*; titles must be texts"):
        prepare(log, columns=NAMES, time_unit="ms")


EVENTS = LOG.with_columns(
    event=pl.Series(["buy", "view", "return", "buy"]),
    quantity=pl.Series([1, 1, -1, 2]),
    price=pl.Series([1.5, None, 3.0, 2.5]),
    is_bot=pl.Series([False, True, False, False]),
)
TABLES = ["log.csv", "log.csv.gz", "log.jsonl", "log.parquet", "frame"]


def write_or_pass(frame, directory, name):
    return frame if name == "frame" else write_table(frame, directory / name)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(
    ("where", "titles"),
    [
        ({"event": "buy"}, ["Pen", "Nib"]),
        ({"event": ["buy", "return"], "is_bot": False}, ["Pen", "Ink", "Nib"]),
        ({"quantity": [1, 2]}, ["Pen", "Ink", "Nib"]),
        # Texts are read by the type of the column, as they come from a command line.
        ({"quantity": ["1", "2"], "is_bot": "false"}, ["Pen", "Nib"]),
        ({"price": [" 1.5 ", None]}, ["Pen", "Ink"]),
        (pl.col("quantity") > 1, ["Nib"]),
        ((pl.col("event") == "buy") & (pl.col("price") < 2), ["Pen"]),
        (pl.col("price").is_null(), ["Ink"]),
        # A comparison with a missing value is not true.
        (pl.col("price") > 2, ["Ink", "Nib"]),
        (~pl.col("is_bot"), ["Pen", "Ink", "Nib"]),
        (pl.col("customer") == "bob", ["Ink"]),
        (pl.len().over("customer") < 3, ["Ink"]),
        (pl.col("at") > 1_700_000_000_400, ["Pen"]),
    ],
)
def test_a_condition_over_the_columns_of_the_log(tmp_path, name, where, titles):
    data = prepare(write_or_pass(EVENTS, tmp_path, name), Filters(where=where), columns=NAMES, time_unit="ms")
    found = data.items.join(data.interactions, on="item_id", maintain_order="left")["title"].to_list()
    assert sorted(found, key=["Pen", "Ink", "Nib"].index) == titles
    # The catalog holds all items of the log.
    assert data.items["title"].to_list() == ["Pen", "Ink", "Nib"]
    assert (data.steps[0].name, data.steps[0].interactions) == ("as read", 4)
    assert data.steps[1].name.startswith("where ")
    assert data.steps[1].interactions == len(titles)


@pytest.mark.parametrize("name", TABLES)
def test_a_condition_and_ratings(tmp_path, name):
    log = EVENTS.with_columns(rating=pl.Series([5, 1, 4, 2]))
    filters = {"where": {"event": ["buy", "view"]}, "min_rating": 2}
    data = prepare(write_or_pass(log, tmp_path, name), filters, columns=NAMES, time_unit="ms")
    assert data.steps[1].name == "where event is buy, view; rating of at least 2"
    assert [step.interactions for step in data.steps[:2]] == [4, 2]
    # The condition may read a column that the reader needs, too.
    filters = {"where": pl.col("rating") > 4, "min_rating": 2}
    assert len(prepare(write_or_pass(log, tmp_path, name), filters, columns=NAMES, time_unit="ms").interactions) == 1


@pytest.mark.parametrize("name", TABLES)
def test_ids_stay_texts_where_a_condition_reads_them(tmp_path, name):
    # As numbers, 007 and 7 would be one item, and an item has one title.
    log = EVENTS.with_columns(pl.Series("sku", ["007", "7", "7", "9"]))
    number = pl.col("sku").cast(pl.Int64)
    data = prepare(write_or_pass(log, tmp_path, name), Filters(where=number < 9), columns=NAMES, time_unit="ms")
    assert data.items["title"].to_list() == ["Pen", "Ink", "Nib"]
    assert len(data.interactions) == 3


@pytest.mark.parametrize("name", TABLES)
def test_rows_that_a_condition_leaves_out_are_not_checked(tmp_path, name):
    log = EVENTS.with_columns(pl.Series("at", [1, None, 3, 4]), pl.Series("customer", ["ann", None, "ann", "ann"]))
    path = write_or_pass(log, tmp_path, name)
    with pytest.raises(ValueError, match="'at' is missing"):
        prepare(path, columns=NAMES)
    assert len(prepare(path, {"where": pl.col("customer").is_not_null()}, columns=NAMES).interactions) == 3


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ({"evnt": "buy"}, r"has no column 'evnt'; its columns are \['customer', 'sku', .*Did you mean 'event'\?"),
        ({"user_id": "ann"}, "has no column 'user_id'.*takes the log's own names"),
        (pl.col("quantity") + 1, "`where` must be true or false for each row, but its expression makes Int64"),
        (pl.col("event") > 3, "`where` cannot be evaluated on columns of {'event': 'String'}"),
        ({"quantity": "one"}, "`where` gives 'one' for the column 'quantity', which holds Int64. Give a whole number"),
        (pl.all() == "buy", r"`where` must be one condition.*Join them by `&`"),
        ({"event": "bye"}, r"The step 'where event is bye' leaves no interaction"),
    ],
)
def test_conditions_that_are_refused(tmp_path, name, where, problem):
    with pytest.raises(ValueError, match=problem):
        prepare(write_or_pass(EVENTS, tmp_path, name), Filters(where=where), columns=NAMES, time_unit="ms")


@pytest.mark.parametrize("name", TABLES)
def test_values_that_no_row_has(tmp_path, name, monkeypatch):
    logged = []
    monkeypatch.setattr("patchrec_hf.data.conditions.logger.warning_once", logged.append)
    log = write_or_pass(EVENTS, tmp_path, name)
    prepare(log, Filters(where={"event": ["buy", "view"], "customer": ["ann", "bob"]}), columns=NAMES, time_unit="ms")
    assert logged == []
    prepare(log, Filters(where={"event": ["buy", "veiw"], "quantity": [1, 2, 9]}), columns=NAMES, time_unit="ms")
    assert [message.split(": ", 1)[1] for message in logged] == [
        "`where` asks for 'veiw', but no row has it in the column 'event'. Did you mean 'view'?",
        "`where` asks for 9, but no row has it in the column 'quantity'.",
    ]


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_a_later_value_of_another_type_names_the_line(tmp_path, name):
    lines = pl.concat([EVENTS[:1]] * 1_500).with_columns(pl.col("quantity").cast(pl.String).replace_strict({"1": 1}))
    path = write_table(lines, tmp_path / name)
    text = path.read_text().replace("1.5", "2.5")
    last = text.splitlines()[-1]
    bad = last.replace('"quantity":1', '"quantity":"many"').replace("buy,1", "buy,many")
    path.write_text(text + bad + "\n")
    line = len(path.read_text().splitlines())
    with pytest.raises(ValueError, match=rf"line {line}: .*many"):
        prepare(path, Filters(where=pl.col("quantity") > 0), columns=NAMES, time_unit="ms")


def test_the_advice_about_items_stands_only_where_it_helps(tmp_path):
    log = write_table(LOG.drop("name"), tmp_path / "log.csv")
    items = write_table(LOG.select("sku", what="name"), tmp_path / "items.csv")
    with pytest.raises(ValueError, match=r"items\.csv has no column 'name'") as caught:
        prepare(log, items=items, columns=NAMES, time_unit="ms")
    assert "pass it as `items`" not in str(caught.value)


@pytest.mark.parametrize("line", [2, 3, 1_500])
def test_lines_with_too_many_values_are_named(tmp_path, line):
    """An entity such as `&amp;` ends a value where semicolons separate values."""
    log = [f"{user};A1;{1_700_000_000 + user};1.0" for user in range(1_600)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id;item_id;timestamp;price", *log]))
    items = [f"A{number};Tea pot;2.0" for number in range(1_600)]
    items[line - 2] = "A1;Tea &amp; pot;2.0"
    (tmp_path / "items.csv").write_text("\n".join(["item_id;title;price", *items]))
    with pytest.raises(ValueError, match=rf"items\.csv, line {line}: .*The line is 'A1;Tea &amp; pot;2\.0'"):
        prepare(tmp_path / "log.csv", items=tmp_path / "items.csv")
    log[line - 2] += ";returned"
    (tmp_path / "log.csv").write_text("\n".join(["user_id;item_id;timestamp;price", *log]))
    with pytest.raises(ValueError, match=rf"log\.csv, line {line}: "):
        prepare(tmp_path / "log.csv", items=tmp_path / "items.csv")


def test_ids_with_points_are_whole_numbers(tmp_path):
    pairs = [(number, user) for number in range(1_200) for user in (1, 2)]
    rows = [f"{user}{'.0' * (number >= 1_100)},7,{1_700_000_000 + number}\n" for number, user in pairs]
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "".join(rows))
    (tmp_path / "items.csv").write_text("item_id,title\n7.0,Pen\n")
    data = prepare(tmp_path / "log.csv", items=tmp_path / "items.csv")
    assert data.users["user_id"].to_list() == [1, 2]
    assert (data.steps[0].users, data.steps[0].interactions) == (2, 2_400)
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "".join(rows) + "1.5,7,1700000000\n")
    with pytest.raises(ValueError, match=r"log\.csv, line 2402: 'user_id': .*'1\.5'.*The line is '1\.5,7,1700000000'"):
        prepare(tmp_path / "log.csv", items=tmp_path / "items.csv")


def test_inch_marks_swallow_no_rows(tmp_path):
    notes = {3: '5" nail', 900: '7" nail', 950: '"a, b"'}
    rows = [f"{number % 9},1,{1_700_000_000 + number},{notes.get(number, 'x')}\n" for number in range(1_000)]
    for end in ("", "\n"):
        (tmp_path / "log.csv").write_text("user_id,item_id,timestamp,note\n" + "".join(rows).rstrip() + end)
        data = prepare(tmp_path / "log.csv", items=pl.DataFrame({"item_id": [1], "title": ['5" nail']}))
        assert data.steps[0].interactions == 1_000


def test_a_row_without_values_that_are_read_is_a_fault(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp,title\n1,2,3,Pen\n,,,Ink\n")
    with pytest.raises(ValueError, match="line 3: 'timestamp' is missing"):
        prepare(tmp_path / "log.csv")


def test_other_names_in_the_table_of_items(tmp_path):
    log = write_table(LOG.drop("name"), tmp_path / "log.csv")
    items = write_table(LOG.select(product="sku", name="name").unique(), tmp_path / "items.csv")
    with pytest.raises(ValueError, match=r"items\.csv has no column 'sku'.*pass `item_columns`"):
        prepare(log, items=items, columns=NAMES, time_unit="ms")
    data = prepare(log, items=items, columns=NAMES, time_unit="ms", item_columns={"item_id": "product"})
    assert len(data.items) == 3
    with pytest.raises(ValueError, match="`item_columns` names columns of the table of `items`, which is not given"):
        prepare(write_table(LOG, tmp_path / "all.csv"), columns=NAMES, item_columns={"item_id": "product"})


def test_a_log_in_order_without_times(tmp_path):
    (tmp_path / "log.csv").write_text("b,Pen\na,Ink\nb,Nib\nb,Ink\n")
    names = {"user_id": "column_1", "item_id": "column_2", "title": "column_2", "timestamp": None}
    data = prepare(tmp_path / "log.csv", columns=names, has_header=False)
    assert data.interactions.select("user_id", "item_id", "position").rows() == [
        ("a", "Ink", 0),
        ("b", "Pen", 0),
        ("b", "Nib", 1),
        ("b", "Ink", 2),
    ]
