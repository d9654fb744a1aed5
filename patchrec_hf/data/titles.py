"""Titles: finds titles that need cleaning, and cleans them."""

from __future__ import annotations

import html
import re

import polars as pl


LONG_TITLE = 200
"""Characters beyond which a title is very long."""

_BLOCKS = (
    "address|article|blockquote|br|caption|dd|div|dl|dt|footer|h[1-6]|header|hr|li|ol|p|pre|section|table|td|th|tr|ul"
)
_INLINE = (
    "a|abbr|b|bdi|big|center|cite|code|del|em|font|i|img|ins|kbd|mark|nobr|q|s|script|small|span|strike|strong|style|"
    "sub|sup|tbody|thead|tt|u|var|wbr"
)
_TAG = r"(?i)</?(?:{names})(?:\s[^<>]*)?/?>"
_BLOCK_TAG, _INLINE_TAG = re.compile(_TAG.format(names=_BLOCKS)), re.compile(_TAG.format(names=_INLINE))
_COMMENT = re.compile(r"(?s)<!--.*?-->")
_ENTITY = r"&(?:[A-Za-z][A-Za-z0-9]+|#[0-9]+|#[xX][0-9A-Fa-f]+);"
_UNTIDY_SPACE = r"^\s|\s$|\s\s|[^\S ]"
_MARKUP = rf"{_TAG.format(names=f'{_BLOCKS}|{_INLINE}')}|(?s:<!--.*?-->)|{_ENTITY}"


def tidy_title(title: str) -> str:
    r"""
    Cleans a title: replaces HTML entities by their characters, removes HTML tags and comments, makes every white space
    one blank, and removes white space at both ends. Pass it as `title_rule`.

    Args:
        title (`str`):
            Title as published.

    Returns:
        `str`: the clean title. A second call leaves it as it is.

    Example:
    ```python
    >>> tidy_title(" Salt &amp; Pepper <br>  <b>Mill</b>\n"), tidy_title("I <3 H<sub>2</sub>O")
    ('Salt & Pepper Mill', 'I <3 H2O')
    >>> splits, catalog = load_recommendation_data("clicks.csv", title_rule=tidy_title)
    ```
    """
    while True:
        before = title
        title = " ".join(_without_markup(title).split())
        if title == before:
            return title


def _without_markup(title: str) -> str:
    return _INLINE_TAG.sub("", _BLOCK_TAG.sub(" ", _COMMENT.sub("", html.unescape(title))))


def find_faults(titles: pl.Series) -> list[tuple[str, str, pl.Series]]:
    """
    Finds titles that need cleaning. A model would learn to spell their faults.

    Args:
        titles (`polars.Series`):
            Titles.

    Returns:
        `list[tuple[str, str, polars.Series]]`: for each fault that occurs, a text that describes it, an advice, and
        the titles that have it.
    """
    clean, shorten = "`title_rule=tidy_title` cleans them.", "A `title_rule` can shorten them."
    suspects = titles.filter(titles.str.contains(_MARKUP))
    # `&a3;` has the form of an entity, but HTML knows no such one.
    is_marked = pl.Series([_without_markup(title) != title for title in suspects], dtype=pl.Boolean)
    faults = [
        ("titles with untidy white space", clean, titles.filter(titles.str.contains(_UNTIDY_SPACE))),
        ("titles with markup", clean, suspects.filter(is_marked)),
        (
            f"titles of more than {LONG_TITLE} characters",
            shorten,
            titles.filter(titles.str.len_chars() > LONG_TITLE),
        ),
    ]
    return [fault for fault in faults if len(fault[2])]
