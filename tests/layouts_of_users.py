"""Layouts as users write them, for the tests of saving and loading them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from patchrec_hf.runtime.layouts import ItemPatchLayout, Segment


@dataclass(frozen=True)
class EveryOtherLayout:
    """Every other item as text."""

    first: int = 0
    name: ClassVar[str] = "every_other"

    def __call__(self, num_items: int, seed: Sequence[int] = ()) -> list[Segment]:
        is_text = [item % 2 == self.first for item in range(num_items)]
        return [Segment("text" if flag else "item_patch", item, item + 1) for item, flag in enumerate(is_text)]


@dataclass(frozen=True)
class LongTextLayout(ItemPatchLayout):
    """A layout that inherits the name of one of the library's."""

    num_text_items: int = 50
    more: int = 1


class Outer:
    @dataclass(frozen=True)
    class InnerLayout(EveryOtherLayout):
        pass


@dataclass(frozen=True)
class NamelessLayout:
    def __call__(self, num_items: int, seed: Sequence[int] = ()) -> list[Segment]:
        return [Segment("text", 0, num_items)]


@dataclass(frozen=True)
class ObjectLayout(EveryOtherLayout):
    settings: Any = None
