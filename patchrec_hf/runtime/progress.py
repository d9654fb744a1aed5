"""Progress bars: shown at a terminal and in notebooks, and left out where the output is a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm
from transformers.utils import is_in_notebook, logging


def shows_bars() -> bool:
    """Returns whether somebody can see a progress bar move. In a file, each move would be a line."""
    return sys.stderr.isatty() or is_in_notebook()


def progress_bar(show_progress: bool, **settings: Any) -> tqdm:
    """
    Makes a progress bar. A bar within another one disappears when it is full.

    Args:
        show_progress (`bool`):
            Whether the user wants a bar.
        **settings:
            Passed to `tqdm`.
    """
    return tqdm(disable=not (show_progress and shows_bars()), leave=None, **settings)


def long_work_bar(total: int, step: int, **settings: Any) -> tqdm:
    """
    Makes a progress bar for work that nobody asked a bar for, such as tokenizing the titles of a large catalog. It is
    shown if the work takes several steps, on the first process of a machine only, and unless
    `transformers.utils.logging.disable_progress_bar()` was called.

    Args:
        total (`int`):
            Amount of work.
        step (`int`):
            How much of it is done between two moves of the bar.
        **settings:
            Passed to `tqdm`.
    """
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"  # launchers such as torchrun set it
    return progress_bar(total > step and is_first and logging.is_progress_bar_enabled(), total=total, **settings)


@contextmanager
def no_bars_in_files() -> Iterator[None]:
    """Within the context, transformers shows no bars of loaded and written weights where the output is a file."""
    hides = logging.is_progress_bar_enabled() and not shows_bars()
    if hides:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if hides:
            logging.enable_progress_bar()
