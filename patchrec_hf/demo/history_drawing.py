"""The drawing of a history: its units as HTML, each with its titles and the positions that the model reads."""

from __future__ import annotations

from html import escape

from .read_history import ReadHistory, ReadUnit, UnitKind


KINDS: dict[UnitKind, tuple[str, str]] = {
    "text": ("text", "the title's tokens as they are"),
    "item_patch": ("item patch", "one position for an item"),
    "session_patch": ("session patch", "one position for several items"),
    "left_out": ("left out", "by the layout"),
    "not_read": ("not read", "older than the latest items that the model reads"),
}
"""The name of each kind of unit, and its meaning."""


def draw_history(history: ReadHistory) -> str:
    """
    Draws a history, oldest item first. Colors never stand alone: each kind of unit has a shape and a name too.

    Args:
        history ([`ReadHistory`]):
            The history.

    Returns:
        `str`: HTML. Titles are escaped, so markup in them is shown as text.
    """
    shown = {unit.kind for unit in history.units}
    legend = "".join(
        f'<li class="pr-{kind}">{_glyphs(kind, 3 if kind == "text" else 1)}<span><b>{name}</b> {meaning}</span></li>'
        for kind, (name, meaning) in KINDS.items()
        if kind in shown or kind in ("text", "item_patch", "session_patch")
    )
    units = "".join(map(_draw_unit, history.units))
    return (
        '<section class="pr-history" aria-label="The history as the model reads it">'
        f'<p class="pr-counts">{describe_counts(history)}</p>'
        f'<ul class="pr-legend">{legend}</ul>'
        f'<ol class="pr-units">{units}</ol></section>'
    )


def describe_counts(history: ReadHistory) -> str:
    """Returns a sentence with the positions of a history, as HTML."""
    num_items = sum(len(unit.titles) for unit in history.units)
    items = "1 item takes" if num_items == 1 else f"{num_items} items take"
    return (
        f"{items} <b data-count='history'>{history.num_positions:,}</b> positions, and the whole prompt "
        f"{history.num_prompt_positions:,}. As text, the history would take {history.num_text_positions:,}."
    )


def _draw_unit(unit: ReadUnit) -> str:
    titles = "".join(
        f"<span class='pr-title'>{escape(title)}{' <em>new</em>' if is_new else ''}</span>"
        for title, is_new in zip(unit.titles, unit.is_new, strict=True)
    )
    name, _ = KINDS[unit.kind]
    positions = "1 position" if unit.num_positions == 1 else f"{unit.num_positions} positions"
    return (
        f'<li class="pr-unit pr-{unit.kind}" title="{name}: {positions}">'
        f'<span class="pr-titles">{titles}</span>'
        f'<span class="pr-positions">{_glyphs(unit.kind, unit.num_positions)}'
        f'<span class="pr-name">{name}</span></span></li>'
    )


def _glyphs(kind: UnitKind, number: int) -> str:
    glyph = f'<i class="pr-glyph pr-glyph-{kind}"></i>'
    return f'<span class="pr-glyphs" aria-hidden="true">{glyph * number}</span>'
