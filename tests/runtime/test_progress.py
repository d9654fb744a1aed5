"""Progress bars move where somebody sees them, and are left out of files."""

import io
import sys

import pytest
from transformers.utils import logging

from patchrec_hf.runtime import progress
from patchrec_hf.runtime.progress import no_bars_in_files, progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "show_progress", "is_shown"),
    [(Terminal(), True, True), (Terminal(), False, False), (io.StringIO(), True, False)],
)
def test_bars_are_for_terminals(monkeypatch, stream, show_progress, is_shown):
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(show_progress, total=2, file=stream) as bar:
        bar.update(2)
    assert ("2/2" in stream.getvalue()) is is_shown


def test_notebooks_show_bars(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(progress, "is_in_notebook", lambda: True)
    assert progress.shows_bars()


@pytest.mark.parametrize(("stream", "is_enabled"), [(Terminal(), True), (io.StringIO(), False)])
def test_bars_of_weights(monkeypatch, stream, is_enabled):
    monkeypatch.setattr(sys, "stderr", stream)
    was_enabled = logging.is_progress_bar_enabled()
    logging.enable_progress_bar()
    try:
        with no_bars_in_files():
            assert logging.is_progress_bar_enabled() is is_enabled
        assert logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        with no_bars_in_files():
            pass
        assert not logging.is_progress_bar_enabled()  # as the user has set it
    finally:
        if was_enabled:
            logging.enable_progress_bar()
