"""The option `--index` takes each kind of index, or the one that is saved."""

import argparse

import pytest

from patchrec_hf.commands.index_options import SAVED_INDEX, add_index_option, check_index_option
from patchrec_hf.runtime.index_settings import INDEX_KINDS


def test_every_kind_and_the_saved_index():
    parser = argparse.ArgumentParser()
    add_index_option(parser)
    for index in (*INDEX_KINDS, SAVED_INDEX):
        assert parser.parse_args(["--index", index]).index == index
        check_index_option(index)
        assert index in parser.format_help()
    check_index_option(parser.parse_args([]).index)


def test_other_names_are_refused():
    with pytest.raises(ValueError, match=r"takes flat, ivf, ivfpq, hnsw or saved, got 'hsnw'; did you mean 'hnsw'\?"):
        check_index_option("hsnw")
