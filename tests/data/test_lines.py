"""The first line that cannot be read is the line that is blamed."""

import gzip

import polars as pl
import pytest

from patchrec_hf.data.lines import (
    NotUtf8Error,
    decode_line,
    first_line,
    is_utf8,
    json_lines_of,
    lines_of,
    open_raw,
    raise_at_line,
    refuse_mixed_json,
)


def write(tmp_path, content, name="log.jsonl"):
    path = tmp_path / name
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["log.jsonl", "LOG.JSONL.GZ", "log.jsonl.gz"])
@pytest.mark.parametrize(
    ("content", "count"), [("a\nb", 2), ("a\nb\n", 2), ("\n a\n\r\n  \nb\n\n", 2), ("", 0), ("a", 1), ("\n", 0)]
)
def test_lines_are_counted(tmp_path, name, content, count):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.lower().endswith(".gz") else content.encode())
    records = lines_of(path)
    assert records.count == count
    assert b"".join(line for _, line in records.read()) == content.encode()
    with open_raw(path) as file:
        assert file.read() == content.encode()


def test_a_compressed_file_that_breaks(tmp_path):
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(gzip.compress(b"one\ntwo\n" * 5)[:-9])
    with pytest.raises(ValueError, match=r"line 11: the compressed file ends or breaks there"):
        lines_of(path)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"a": 1', "it is not valid JSON .* at character"),
        ("[1]", "it must hold a JSON object, .* got a list"),
        ('{"a": [1]}', "it cannot be read"),
        ('{"a": -1}', "it is negative"),
    ],
)
def test_the_line_and_its_fault(tmp_path, line, problem):
    path = write(tmp_path, '{"a": 1}\n' * 2_000 + f"{line}\n" + '{"a": 1}\n' * 50)
    faults = {"it is negative": pl.col("a") < 0}
    with pytest.raises(ValueError, match=rf"log\.jsonl, line 2001: {problem}"):
        raise_at_line(
            path, lambda source: pl.scan_ndjson(source, schema={"a": pl.Int64}), faults, json_lines_of(path), None
        )


def test_foreign_words_are_translated(tmp_path):
    path = write(tmp_path, "1\n2\nmany\n", "log.csv")

    def scan(source):
        return pl.scan_csv(source, has_header=False, schema={"number": pl.Int64})

    with pytest.raises(ValueError, match=r"line 3: 'number' must be a whole number, got 'many'") as caught:
        raise_at_line(path, scan, {}, lines_of(path), RuntimeError("theirs"))
    assert str(caught.value.__cause__) == "theirs"
    path.write_text("1\n2,3\n")
    with pytest.raises(ValueError, match="line 2: it holds more values than there are columns"):
        raise_at_line(path, scan, {}, lines_of(path), None)
    path.write_text("1\n")
    with pytest.raises(ValueError, match="holds 1 records, but other rows were read"):
        raise_at_line(path, scan, {}, lines_of(path), None)
    path.write_bytes(b"1\n\xe9\n")
    with pytest.raises(NotUtf8Error, match="line 2: it is not in UTF-8"):
        raise_at_line(path, scan, {}, lines_of(path), None)


def test_lists_among_values(tmp_path):
    path = write(tmp_path, '{"a": 1}\n{"a": null}\n{"a": [2]}\n')
    with pytest.raises(ValueError, match="line 3: 'a' holds a list, but a value in the lines before it"):
        refuse_mixed_json(path, RuntimeError())
    refuse_mixed_json(write(tmp_path, '{"a": 1}\n{"a": "x"}\n'), RuntimeError())


def test_texts_of_messages():
    assert first_line(ValueError("first.\nsecond")) == "first"
    assert first_line(ValueError("")) == "ValueError"
    assert decode_line("é,1\r\n".encode()) == "é,1"
    assert is_utf8("é".encode())
    assert not is_utf8("é".encode("latin-1"))
