"""`examples/write_results.py` explains the scales that a page has, and states what was found at them."""

import json
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
LAPTOP, SMOKE = "ml-100k-laptop-0-table_2", "sample-smoke-0-table_2"


@pytest.fixture
def write(monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(ROOT / "examples")
    yield import_module("write_results")
    for name in [name for name in sys.modules if name.split(".")[0] in ("reproduction", "write_results")]:
        del sys.modules[name]


def page_of(write, directory, *names, scale=None):
    """Writes a page of some of the results in docs, at another scale if one is given."""
    for name in names:
        (directory / "results" / name).mkdir(parents=True)
        values = json.loads((ROOT / "docs" / "results" / name / "results.json").read_text())
        values["scale"]["name"] = scale or values["scale"]["name"]
        (directory / "results" / name / "results.json").write_text(json.dumps(values))
    write.main([], directory / "results.md")
    return (directory / "results.md").read_text()


def test_the_laptop_is_named_only_where_it_was_used(write, tmp_path, capsys):
    page = page_of(write, tmp_path, SMOKE)
    assert "The *smoke* scale only shows" in page
    for text in ("laptop", "findings", "*tiny*", "Goodreads", "{", "\n\n\n"):
        assert text not in page.split("## Table")[0]
    assert "holds 1 table or figure." in capsys.readouterr().out


def test_the_tiny_scale_is_explained(write, tmp_path):
    page = page_of(write, tmp_path, SMOKE, scale="tiny")
    assert "The *tiny* scale is for tests" in page
    assert "*smoke*" not in page


@pytest.mark.slow
def test_findings_are_about_the_data_on_the_page(write, tmp_path, capsys):
    page = page_of(write, tmp_path, LAPTOP, SMOKE)
    assert "On MovieLens-100K, at the laptop scale" in page
    assert "[the findings](#the-findings)" in page
    assert "show nothing about methods on Goodreads" not in page
    assert "holds 2 tables and figures." in capsys.readouterr().out
    shutil.rmtree(tmp_path / "results")
    assert "findings" not in page_of(write, tmp_path, LAPTOP, scale="paper")
