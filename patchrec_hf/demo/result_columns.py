"""Result columns: the recommendations of several methods side by side, as HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from .methods import DemoMethod, MethodResult, RankedItem


def draw_columns(methods: Sequence[DemoMethod], results: Sequence[MethodResult]) -> str:
    """
    Draws one column for each method.

    Args:
        methods (`Sequence[DemoMethod]`):
            All methods of the page, from left to right. One that the checkpoint lacks shows the reason.
        results (`Sequence[MethodResult]`):
            The results that are there already. A method without one is still at work.

    Returns:
        `str`: HTML. Titles and messages are escaped, so markup in them is shown as text.
    """
    done = {result.method.name: result for result in results}
    columns = "".join(_draw_column(method, done.get(method.name)) for method in methods)
    return f'<div class="pr-columns">{columns}</div>'


def _draw_column(method: DemoMethod, result: MethodResult | None) -> str:
    times, note = "", ""
    if method.absence is not None:
        state, body = "absent", f"<p><b>Not in this checkpoint.</b> {escape(method.absence)}</p>"
    elif result is None:
        state, body = "waiting", "<p>…</p>"
    elif result.error is not None:
        state, body = "failed", f"<p><b>No recommendation for this history.</b> {escape(result.error)}</p>"
    else:
        state, body = "ranked", draw_ranked(result.items)
        times = f'<span class="pr-time">{format_milliseconds(result.milliseconds)}</span>'
        note = "" if result.is_exact else " · not proven to be the best ones"
    score = "" if method.absence is not None else f'<p class="pr-score-kind">{escape(method.score)}{note}</p>'
    return (
        f'<section class="pr-column pr-{state}" data-method="{method.name}">'
        f"<header><h3>{escape(method.label)}</h3>{times}</header>{score}{body}</section>"
    )


def draw_ranked(items: Sequence[RankedItem]) -> str:
    """
    Draws a list of items, best first. A bar shows how likely an item is, relative to the first: e to the power of the
    difference of their scores, which are all logarithms up to a constant.

    Args:
        items (`Sequence[RankedItem]`):
            The items.

    Returns:
        `str`: HTML.
    """
    best = max((item.score for item in items), default=0.0)
    rows = []
    for item in items:
        width = 100 * math.exp(min(item.score - best, 0.0))
        kind = "pr-item pr-seen" if item.is_seen else "pr-item"
        tag = ' <em class="pr-tag">seen</em>' if item.is_seen else ""
        rows.append(
            f'<li class="{kind}"><span class="pr-title">{escape(item.title)}{tag}</span>'
            f'<span class="pr-score">{item.score:.2f}</span>'
            f'<span class="pr-bar"><i style="width:{width:.1f}%"></i></span></li>'
        )
    return f'<ol class="pr-list">{"".join(rows)}</ol>'


def format_milliseconds(milliseconds: float) -> str:
    """Returns a time with two digits that matter, such as `3.2 ms`, `48 ms` or `1,250 ms`."""
    return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:,.0f} ms"


def draw_message(text: str) -> str:
    """Draws a sentence to the user instead of results. The text is escaped."""
    return f'<p class="pr-message">{escape(text)}</p>'
