"""CSV files as texts: what stands in the file is what is read."""

import io

import pytest

from patchrec_hf.data.csv_files import CsvFile


def write(tmp_path, content, name="log.csv"):
    path = tmp_path / name
    path.write_text(content, newline="")
    return path


def rows_of(file):
    return file.scan(file.path, file.names).collect().rows()


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("a,b\n1,2\n\n3,\n,\n", [("1", "2"), ("3", None)]),
        ("a,b\r\n 1 ,007\r\n", [(" 1 ", "007")]),
        ('a,b\n5" x,"p, q"\n"r\ns",7"\n', [('5" x', "p, q"), ("r\ns", '7"')]),
        ("a,b\n", []),
        ("\ufeffa,b\nNA,null\n", [("NA", "null")]),
    ],
)
def test_rows_by_hand(tmp_path, content, rows):
    file = CsvFile.of(write(tmp_path, content), ["a"])
    assert rows_of(file) == rows
    assert file.records.count == len(rows)
    # Some records are read as the whole file is.
    records = b"".join(record for _, record in file.records.read())
    if rows:
        assert file.scan(io.BytesIO(records), ["a", "b"]).collect().rows() == rows
        assert file.scan(file.path, ["b"]).head(1).collect().rows() == [rows[0][1:]]


def test_columns_of_recbole_lose_their_types(tmp_path):
    content = "user_id:token\ttitle:token_seq\tx:y\n1\tPen\t2\n"
    assert CsvFile.of(write(tmp_path, content, "a.inter")).names == ("user_id", "title", "x:y")
    assert CsvFile.of(write(tmp_path, content, "a.tsv")).names[0] == "user_id:token"


def test_columns_without_a_header_have_numbers(tmp_path):
    file = CsvFile.of(write(tmp_path, "1,2\n3,4\n"), has_header=False)
    assert file.names == ("column_1", "column_2")
    assert rows_of(file) == [("1", "2"), ("3", "4")]


@pytest.mark.parametrize(
    ("content", "separator"),
    [
        ("\n1,10\n2,11\n", ","),
        ("\r\n\r\n1;10\r\n2;11\r\n", ";"),
        ("\ufeff\n1,10\n\n2,11\n", ","),
        ('\n1,"10"\n2,11\n', ","),
    ],
)
def test_blank_lines_before_the_first_record(tmp_path, content, separator):
    file = CsvFile.of(write(tmp_path, content), has_header=False)
    assert file.dialect.separator == separator
    assert rows_of(file) == [("1", "10"), ("2", "11")]
    assert file.records.count == 2
    header = CsvFile.of(write(tmp_path, content.replace("1", "a", 1)))
    assert (header.names, rows_of(header)) == (("a", "10"), [("2", "11")])


def test_tabs_go_without_quotes(tmp_path):
    path = write(tmp_path, 'a\tb\n1\t"x\n2\ty"\n')
    assert rows_of(CsvFile.of(path)) == [("1", '"x'), ("2", 'y"')]
    assert rows_of(CsvFile.of(path, quote_char='"')) == [("1", "x\n2\ty")]


def test_another_quote_character(tmp_path):
    assert rows_of(CsvFile.of(write(tmp_path, "a,b\n'1,5',\"\n"), quote_char="'")) == [("1,5", '"')]
    assert rows_of(CsvFile.of(write(tmp_path, 'a,b\n"1,5"\n'), quote_char="")) == [('"1', '5"')]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"quote_char": '""'}, "`quote_char` must be one character of ASCII, or empty"),
        ({"quote_char": "\n"}, "`quote_char` must be one character"),
        ({"quote_char": ";", "separator": ";"}, "must differ"),
    ],
)
def test_settings_that_are_refused(tmp_path, settings, problem):
    with pytest.raises(ValueError, match=problem):
        CsvFile.of(write(tmp_path, "a,b\n1,2\n"), **settings)


def test_advice_and_names_that_repeat(tmp_path):
    file = CsvFile.of(write(tmp_path, "1,x,x\n2,3,4\n"))
    assert "`has_header=False`" in file.advice()
    assert rows_of(CsvFile.of(write(tmp_path, "a,x,x\n2,3,4\n"))) == [("2", "3")]
    with pytest.raises(ValueError, match=r"line 1: 2 columns have the name 'x'"):
        file.require_once(["x"])
    quoted = CsvFile.of(write(tmp_path, '"a"\t"b"\n1\t2\n', "log.tsv"))
    assert "`quote_char='\"'`" in quoted.advice()
