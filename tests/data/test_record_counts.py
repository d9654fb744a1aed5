"""All bytes of a CSV file are checked, and its records are counted."""

import pytest

from patchrec_hf.data.lines import NotUtf8Error
from patchrec_hf.data.record_counts import Counts, count_records, read_header
from patchrec_hf.data.records import Dialect


def write(tmp_path, content):
    path = tmp_path / "log.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("1,2\n3,4\n", Counts(2, 0, False, False)),
        ("1,2\r\n3,4", Counts(2, 0, False, False)),
        ("1,2\n\n,\n3,4\n\r\n", Counts(2, 3, False, False)),
        (",2\n1,\n", Counts(2, 0, False, False)),
        ('1,"a\nb"\n3,4\n', Counts(2, 0, True, False)),
        ('1,5" x\n3,7" y\n', Counts(2, 0, False, True)),
        ('1,5" x\n3,"a, b"\n', Counts(2, 0, True, True)),
        ("", Counts(0, 0, False, False)),
    ],
)
def test_counts_by_hand(tmp_path, content, expected):
    assert count_records(write(tmp_path, content), 2, Dialect()) == expected


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("1,2\n3\n", "line 2: it holds 1 value between separators ',', but the file has 2 columns"),
        # As many separators as in whole records, but not in the same places.
        ("1,2,3\n4\n", "line 1: it holds 3 values"),
        ("1\n2,3,4\n", "line 1: it holds 1 value"),
        ('1,"a, b",c\n', "line 1: it holds 3 values"),
        ("1,2\n3,\0\n", r"line 2: it holds a zero byte.*`encoding`"),
        # Both lines are whole records if the quotes are characters.
        ('1,2\n3,"a\n4,b"\n', r"line 2: .* ends in line 3.*`quote_char=''`.*`quote_char='\"'`"),
        # Blank lines between whole records tell nothing.
        ('1,2\n3,"a\n\n\r\n4,b"\n', r"line 2: .* ends in line 5.*`quote_char=''`"),
    ],
)
def test_what_would_have_to_be_guessed_is_refused(tmp_path, content, problem):
    with pytest.raises(ValueError, match=problem):
        count_records(write(tmp_path, content), 2, Dialect())


def test_who_says_what_quotes_are_is_believed(tmp_path):
    path = write(tmp_path, '1,2\n3,"a\n4,b"\n')
    assert count_records(path, 2, Dialect(is_asked=True)).records == 2
    assert count_records(path, 2, Dialect(quote_char=None, is_asked=True)).records == 3


def test_quoted_values_between_tabs_are_refused(tmp_path):
    path = write(tmp_path, '1\t"Heroes\n2\tLow"\n3\t"a ""b"" c"\n')
    with pytest.raises(ValueError, match="line 3: a value begins and ends with a quote and holds doubled quotes"):
        count_records(path, 2, Dialect("\t", None))
    assert count_records(path, 2, Dialect("\t", None, is_asked=True)).records == 3


def test_a_line_that_is_not_in_utf8(tmp_path):
    path = write(tmp_path, b"1,\xc3\xa9\n2,\xe9\n")
    with pytest.raises(NotUtf8Error, match=r"line 2: it is not in UTF-8\. The line is b'2,\\xe9'"):
        count_records(path, 2, Dialect())


@pytest.mark.parametrize(
    ("content", "names", "num_before", "num_lines"),
    [
        ("user,item\n1,2\n", ["user", "item"], 0, 1),
        ("\ufeffuser,item\r\n1,2\r\n", ["user", "item"], 0, 1),
        ('\n"user, or guest","it\nem"\n\n1,2\n', ["user, or guest", "it\nem"], 1, 4),
        ("user,item", ["user", "item"], 0, 1),
    ],
)
def test_the_first_line_names_the_columns(tmp_path, content, names, num_before, num_lines):
    assert read_header(write(tmp_path, content), Dialect()) == (names, num_before, num_lines)


def test_a_file_without_a_line(tmp_path):
    with pytest.raises(ValueError, match="is empty"):
        read_header(write(tmp_path, "\n\n"), Dialect())
