"""Separators, encodings, and files of other kinds."""

import gzip
import io
import zipfile

import polars as pl
import pytest
from raw_files import LOG, NAMES, interactions_of, prepare, write_table

from patchrec_hf.data.text_files import find_separator, recode


FRENCH = LOG.with_columns(
    name=pl.Series(["Encré €", "Plume; large", "Plume; large", 'Bec | "fin"']).str.replace("€", "é")
)


def write_text(frame, path, separator=",", encoding="utf-8"):
    content = frame.write_csv(separator=separator).encode(encoding)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.fixture
def expected(tmp_path):
    (tmp_path / "expected").mkdir()
    return prepare(write_table(FRENCH, tmp_path / "expected" / "log.parquet"), columns=NAMES, time_unit="ms")


@pytest.mark.parametrize("name", ["log.csv", "LOG.TSV", "log.csv.gz"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", [None, "utf-8-sig", "latin-1", "utf-16"])
def test_separators_and_encodings(tmp_path, expected, name, separator, encoding):
    path = write_text(FRENCH, tmp_path / name, separator, encoding or "utf-8")
    quote_char = '"' if separator == "\t" else None
    data = prepare(path, columns=NAMES, time_unit="ms", encoding=encoding, quote_char=quote_char)
    assert interactions_of(data) == interactions_of(expected)
    assert data.items.equals(expected.items)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path, expected):
    path = write_text(FRENCH, tmp_path / "log.csv", ";", "utf-8-sig")
    assert interactions_of(prepare(path, columns=NAMES, time_unit="ms")) == interactions_of(expected)


def test_another_separator_is_given(tmp_path, expected):
    path = write_text(FRENCH, tmp_path / "log.csv", "^")
    with pytest.raises(ValueError, match="has no column 'customer'"):
        prepare(path, columns=NAMES, time_unit="ms")
    data = prepare(path, columns=NAMES, time_unit="ms", separator="^")
    assert data.items.equals(expected.items)


def test_the_log_and_the_items_may_have_different_separators(tmp_path, expected):
    log = write_text(FRENCH.drop("name"), tmp_path / "log.csv", ";")
    items = write_text(FRENCH.select("sku", "name").unique(maintain_order=True), tmp_path / "items.csv", "|")
    data = prepare(log, items=items, columns=NAMES, time_unit="ms")
    assert data.items.equals(expected.items)


@pytest.mark.parametrize(
    ("header", "columns", "separator"),
    [
        ("user;item,note;time", ["user", "time"], ";"),
        ("user,item;note,time", ["user", "time"], ","),
        ('"user, or guest";item;time', ["user, or guest", "item"], ";"),
        ("user,item,a;b;c;d;e;f", ["user", "item"], ","),
        ("customer;sku", ["user", "item"], ";"),
        ("alone", ["user", "item"], ","),
        ("\n\r\nuser;item,note;time", ["user", "time"], ";"),
    ],
)
def test_the_whole_header_tells_the_separator(tmp_path, header, columns, separator):
    (tmp_path / "log.csv").write_text(f"{header}\n1,2;3\n")
    assert find_separator(tmp_path / "log.csv", columns, None) == separator


def test_a_file_of_blank_lines_takes_any_separator(tmp_path):
    (tmp_path / "log.csv").write_text("\n\n")
    assert find_separator(tmp_path / "log.csv", ["user"], None) == ","


def test_a_header_that_does_not_tell(tmp_path):
    (tmp_path / "log.csv").write_text("who;what,when\n")
    with pytest.raises(ValueError, match=r"under any separator: its first line, 'who;what,when', holds \[',', ';'\]"):
        find_separator(tmp_path / "log.csv", ["user", "item"], None)


@pytest.mark.parametrize("separator", ["", ";;", "·", '"', "\n"])
def test_separators_that_are_refused(tmp_path, separator):
    path = write_text(LOG, tmp_path / "log.csv")
    with pytest.raises(ValueError, match="`separator` must be one character of ASCII"):
        prepare(path, columns=NAMES, separator=separator)


@pytest.mark.parametrize("name", ["separator", "encoding"])
def test_settings_of_text_files_for_other_tables(tmp_path, name):
    value = {"separator": ";", "encoding": "latin-1"}[name]
    for log in (write_table(LOG, tmp_path / "log.parquet"), LOG):
        with pytest.raises(ValueError, match=rf"`{name}` applies to CSV files.*but there is no such file"):
            prepare(log, columns=NAMES, **{name: value})


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.jsonl"])
def test_latin1_is_refused_with_the_way_out(tmp_path, name):
    log = LOG.with_columns(name=pl.Series(["Pen", "Ink", "Ink", "Encré"]))
    content = log.write_ndjson() if name == "log.jsonl" else log.write_csv()
    path = tmp_path / name
    data = content.encode("latin-1")
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(ValueError, match=r"line \d: it is not in UTF-8.*Pass the file's `encoding`, such as"):
        prepare(path, columns=NAMES, time_unit="ms")
    read = prepare(path, columns=NAMES, time_unit="ms", encoding="latin-1")
    assert read.items["title"].to_list() == ["Pen", "Ink", "Encré"]


def test_a_header_in_latin1(tmp_path):
    path = write_text(LOG.rename({"name": "Désignation"}), tmp_path / "log.csv", ";", "latin-1")
    names = {**NAMES, "title": "Désignation"}
    with pytest.raises(ValueError, match=r"line 1: it is not in UTF-8.*`encoding`"):
        prepare(path, columns=names, time_unit="ms")
    assert len(prepare(path, columns=names, time_unit="ms", encoding="latin-1").items) == 3


def test_utf16_is_refused_with_the_way_out(tmp_path):
    path = write_text(LOG, tmp_path / "log.csv", "\t", "utf-16")
    with pytest.raises(ValueError, match=r"begins with a byte order mark. Pass `encoding='utf-16'`"):
        prepare(path, columns=NAMES, time_unit="ms")
    lines = tmp_path / "log.jsonl"
    lines.write_text(LOG.write_ndjson(), encoding="utf-8-sig")
    with pytest.raises(ValueError, match=r"begins with a byte order mark. Pass `encoding='utf-8-sig'`"):
        prepare(lines, columns=NAMES, time_unit="ms")
    assert len(prepare(lines, columns=NAMES, time_unit="ms", encoding="utf-8-sig").items) == 3


@pytest.mark.parametrize(
    ("encoding", "problem"),
    [
        ("latin1000", "must be a text encoding of Python"),
        ("hex", "must be a text encoding"),
        ("ascii", "is not in the"),
    ],
)
def test_encodings_that_are_refused(tmp_path, encoding, problem):
    path = write_text(FRENCH, tmp_path / "log.csv", encoding="latin-1")
    with pytest.raises(ValueError, match=problem):
        prepare(path, columns=NAMES, time_unit="ms", encoding=encoding)


def test_a_file_is_recoded_once(tmp_path):
    path = write_text(FRENCH, tmp_path / "log.csv", encoding="latin-1")
    new = recode(path, "latin-1", tmp_path / "new")
    assert new.name == "log.csv"
    assert new.parent.parent == tmp_path / "new" / "iso8859-1"
    assert new.read_bytes() == FRENCH.write_csv().encode()
    new.write_text("kept")
    assert recode(path, "latin1", tmp_path / "new") == new
    assert new.read_text() == "kept"


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_file_that_is_in_utf8_stays(tmp_path, expected, encoding):
    log = write_text(FRENCH.drop("name"), tmp_path / "log.csv", encoding=encoding)
    items = write_text(FRENCH.select("sku", "name").unique(maintain_order=True), tmp_path / "items.csv")
    assert recode(items, encoding, tmp_path / "new") == items
    data = prepare(log, items=items, columns=NAMES, time_unit="ms", encoding=encoding)
    assert data.items.equals(expected.items)


def spreadsheet():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("log.xlsx", spreadsheet(), r"is a spreadsheet.*Save it as CSV.*polars\.read_excel"),
        ("log.csv", spreadsheet(), "is a spreadsheet"),
        ("log.zip", spreadsheet(), "is a spreadsheet"),
        ("log.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is a spreadsheet"),
        ("log.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "is a spreadsheet"),
        ("log.ods", b"", "is a spreadsheet"),
        ("log.csv", b"PAR1" + bytes(100), "is a Parquet file"),
        ("log.json", b'[{"user_id": 1}]', "holds one JSON array. Write one object per line"),
        ("log.csv", gzip.compress(b"user_id,item_id\n", mtime=0), r"is compressed. Give it a name that ends in \.gz"),
    ],
)
def test_files_of_other_kinds(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=problem):
        prepare(tmp_path / name, columns=NAMES)
    log = write_table(LOG, tmp_path / "a_log.csv")
    if name != "log.zip":
        with pytest.raises(ValueError, match=problem):
            prepare(log, columns=NAMES, time_unit="ms", items=tmp_path / name)
