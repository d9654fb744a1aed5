"""Files that hold a table, by their names."""

from pathlib import Path

import pytest

from patchrec_hf.data.table_options import TableOptions, is_csv, is_table, is_text_table


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("log.csv", (True, True, True)),
        ("LOG.TSV.GZ", (True, True, True)),
        ("a.inter", (True, True, True)),
        ("a.item", (True, True, True)),
        ("log.txt", (True, True, True)),
        ("log.jsonl", (False, True, True)),
        ("log.JSON.gz", (False, True, True)),
        ("log.parquet", (False, False, True)),
        ("log.doc", (False, False, False)),
        ("log", (False, False, False)),
    ],
)
def test_endings(name, kinds):
    assert (is_csv(Path(name)), is_text_table(Path(name)), is_table(Path(name))) == kinds


def test_options_are_compared_by_value():
    assert TableOptions() == TableOptions(columns=None)
    assert TableOptions(quote_char="") != TableOptions()
