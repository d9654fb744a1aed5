"""The history as a model reads it: each unit with its titles, its granularity and its positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..runtime.layouts import lay_out
from ..runtime.processing import PatchRecProcessor
from ..runtime.user_histories import Item, Title, find_items


SECONDS_PER_DAY = 86_400

UnitKind = Literal["text", "item_patch", "session_patch", "left_out", "not_read"]


@dataclass(frozen=True)
class ReadUnit:
    """
    A part of a history.

    Args:
        kind (`"text"`, `"item_patch"`, `"session_patch"`, `"left_out"` or `"not_read"`):
            The granularity. `"left_out"` is an item that the layout leaves out, and `"not_read"` an item that is older
            than the latest `max_history` ones.
        titles (`tuple[str, ...]`):
            The titles of its items, oldest first: one, or several for a session patch.
        is_new (`tuple[bool, ...]`):
            For each title, whether the catalog lacks it.
        num_positions (`int`):
            Number of positions that the unit takes, without separators.
    """

    kind: UnitKind
    titles: tuple[str, ...]
    is_new: tuple[bool, ...]
    num_positions: int


@dataclass(frozen=True)
class ReadHistory:
    """
    A history as a model reads it.

    Args:
        units (`tuple[ReadUnit, ...]`):
            Its units, oldest first.
        num_positions (`int`):
            Positions of the history, with separators.
        num_prompt_positions (`int`):
            Positions of the whole prompt.
        num_text_positions (`int`):
            Positions that the history would take as text.
    """

    units: tuple[ReadUnit, ...]
    num_positions: int
    num_prompt_positions: int
    num_text_positions: int


def read_history(processor: PatchRecProcessor, items: Sequence[Item], max_tokens: int | None = None) -> ReadHistory:
    """
    Lays out a history as [`PatchRecommender.recommend`] does.

    Args:
        processor ([`PatchRecProcessor`]):
            The processor.
        items (`Sequence[int | str | Title]`):
            The history, oldest item first.
        max_tokens (`int`, *optional*):
            Most positions of the history, if the layout has a budget.

    Returns:
        [`ReadHistory`]

    Raises:
        ValueError: If the history is empty, a new title holds an added token, or the layout has no budget.
        KeyError, TypeError: If an item is unknown, or neither an id nor a title.
    """
    catalog = processor.catalog
    found = find_items([items], catalog, processor.title_tokens, processor.tokenizer)
    indices, titles = found.items[0], found.titles
    names = [catalog.titles[i] if i < len(catalog) else _text_of(items[place]) for place, i in enumerate(indices)]
    is_new = [bool(index >= len(catalog)) for index in indices]
    layout = processor.layout if max_tokens is None else processor.layout_within(max_tokens)
    timestamps = assumed_timestamps(len(indices)) if processor.reads_timestamps(layout) else None
    encoded = processor.encode(indices, layout=layout, titles=titles, timestamps=timestamps)
    num_old = len(indices) - len(encoded.items)
    lengths = titles.lengths[encoded.items]
    segments = lay_out(
        layout,
        len(encoded.items),
        (titles.checksum(encoded.items),),
        title_lengths=lengths,
        timestamps=None if timestamps is None else timestamps[num_old:],
        separate_patches=processor.separate_patches,
    )

    def unit(kind: UnitKind, start: int, stop: int, num_positions: int) -> ReadUnit:
        places = slice(num_old + start, num_old + stop)
        return ReadUnit(kind, tuple(names[places]), tuple(is_new[places]), num_positions)

    units = [unit("not_read", item - num_old, item - num_old + 1, 0) for item in range(num_old)]
    end = 0
    for granularity, start, stop in segments:
        units += [unit("left_out", item, item + 1, 0) for item in range(end, start)]
        if granularity == "session_patch":
            units.append(unit(granularity, start, stop, 1))
        else:
            for item in range(start, stop):
                units.append(unit(granularity, item, item + 1, int(lengths[item]) if granularity == "text" else 1))
        end = stop
    units += [unit("left_out", item, item + 1, 0) for item in range(end, len(encoded.items))]
    return ReadHistory(tuple(units), encoded.counts.history, encoded.counts.prompt, encoded.text_counts.history)


def assumed_timestamps(num_items: int) -> np.ndarray:
    """
    Returns times for a history that has none: one item a day, as seconds since 1970 UTC, int64, shape
    `(num_items,)`.
    """
    return SECONDS_PER_DAY * (1 + np.arange(num_items, dtype=np.int64))


def _text_of(item: Item) -> str:
    return item.text if isinstance(item, Title) else str(item)
