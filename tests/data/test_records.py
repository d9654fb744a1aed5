"""Records of a CSV file, and which of its quotes are characters."""

import io

import numpy as np
import polars as pl
import pytest

from patchrec_hf.data import records
from patchrec_hf.data.records import Block, Dialect, bounds, inside_quotes, quote_literals, read_blocks, read_records


def records_of(text, dialect=None, num_skipped=0):
    return list(read_records(text.encode(), dialect or Dialect(), num_skipped))


@pytest.mark.parametrize("size", [1, 7, 1 << 22])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b\n1,2\n", [(1, b"a,b\n"), (2, b"1,2\n")]),
        ("1,2", [(1, b"1,2")]),
        ('1,"a\nb"\n3,4\n', [(1, b'1,"a\nb"\n'), (3, b"3,4\n")]),
        # A quote within a value is a character.
        ('1,5" x\n2,7" y\n', [(1, b'1,5" x\n'), (2, b'2,7" y\n')]),
        ('1,5" x\n2,"a\nb"\n3,c\n', [(1, b'1,5" x\n'), (2, b'2,"a\nb"\n'), (4, b"3,c\n")]),
        ('1,"a ""b""\n c"\n2,""\n', [(1, b'1,"a ""b""\n c"\n'), (3, b'2,""\n')]),
        ("", []),
    ],
)
def test_records_and_their_lines(text, expected, size, monkeypatch):
    monkeypatch.setattr(records, "_BLOCK", size)
    assert records_of(text) == expected


def test_lines_that_are_skipped_are_counted():
    assert records_of("a,b\n1,2\n", num_skipped=1) == [(2, b"1,2\n")]


def test_without_a_quote_character_every_line_is_a_record():
    assert records_of('1\t"a\n2\tb"\n', Dialect("\t", None)) == [(1, b'1\t"a\n'), (2, b'2\tb"\n')]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('1,2\n3,"a\n4,5\n', r"line 2: the value that \" begins is never closed"),
        ('1,"a" b\n', r"line 1: the value that \" begins is followed by ' ' where it ends, in line 1"),
        ('1,2\n3,"a\n4,b" c\n', r"line 2: .* is followed by ' ' where it ends, in line 3; .*`quote_char=''`"),
    ],
)
def test_quotes_that_are_missing(text, problem):
    with pytest.raises(ValueError, match=problem):
        records_of(text)


def test_a_record_without_an_end(monkeypatch):
    monkeypatch.setattr(records, "_BLOCK", 64)
    monkeypatch.setattr(records, "_LONGEST", 256)
    with pytest.raises(ValueError, match=r"line 2: .* is never closed"):
        records_of('1,2\n3,"a' + "b\n" * 1_000)
    with pytest.raises(ValueError, match="line 2: it is longer than"):
        records_of("1,2\n3," + "b" * 1_000)


def test_characters_become_doubled_quotes():
    text = '1,5" x,"a, b"\r\n"say ""hi""",7"" y,\n"",x"'
    blocks = list(read_blocks(text.encode(), Dialect()))
    assert all(block.has_literals for block in blocks)
    written = b"".join(quote_literals(block, Dialect()) for block in blocks)
    assert written == b'1,"5"" x","a, b"\r\n"say ""hi""","7"""" y",\n"","x"""'
    rows = pl.read_csv(io.BytesIO(written), has_header=False, infer_schema=False).rows()
    assert rows == [("1", '5" x', "a, b"), ('say "hi"', '7"" y', None), ("", 'x"', None)]


def test_what_stands_within_quotes():
    block = Block(1, b'a,"b\n"\nc', np.array([2, 5]))
    assert np.flatnonzero(inside_quotes(block)).tolist() == [2, 3, 4]
    assert bounds(block, inside_quotes(block)) == [(0, 7), (7, 8)]
    assert inside_quotes(Block(1, b"a", np.array([], dtype=np.int64))) is None
