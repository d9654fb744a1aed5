"""The option `--index` takes each kind of index, or the one that is saved."""

import argparse
import sys

import pytest

from patchrec_hf.commands.index_options import SAVED_INDEX, add_index_option, check_index_option
from patchrec_hf.runtime.index_settings import INDEX_KINDS


def test_every_kind_and_the_saved_index():
    parser = argparse.ArgumentParser()
    add_index_option(parser)
    for index in (*INDEX_KINDS, SAVED_INDEX):
        assert parser.parse_args(["--index", index]).index == index
        assert index in parser.format_help()
    check_index_option(parser.parse_args([]).index, "fusion")


def test_what_goes_together():
    pytest.importorskip("faiss", reason="an item index needs the extra `index`")
    for index in (*INDEX_KINDS, SAVED_INDEX):
        check_index_option(index, None)
        check_index_option(index, "exact")
        with pytest.raises(ValueError, match=r"`method='item'` or `method='exact'`, got 'fusion'"):
            check_index_option(index, "fusion")


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r'needs FAISS: pip install "patchrec-hf\[index\]"'):
        check_index_option("flat", None)


def test_other_names_are_refused():
    with pytest.raises(ValueError, match=r"takes flat, ivf, ivfpq, hnsw or saved, got 'hsnw'; did you mean 'hnsw'\?"):
        check_index_option("hsnw", None)
