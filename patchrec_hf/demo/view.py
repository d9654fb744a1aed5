"""The view: turns what a user has chosen on the page into the HTML that the page shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape

from ..runtime.recommender import PatchRecommender
from .example_history import example_history
from .history_drawing import draw_history
from .item_labels import ItemLabels
from .methods import MethodComparison, MethodResult
from .read_history import read_history
from .result_columns import draw_columns, draw_message


EXAMPLE_LENGTH = 12
_EMPTY = "Choose at least one item for the history."


@dataclass(frozen=True, eq=False)
class DemoView:
    """
    A checkpoint, as the page shows it.

    Args:
        recommender ([`PatchRecommender`]):
            The checkpoint.
        name (`str`):
            Its name on the page.
        notice (`str`, *optional*, defaults to `""`):
            A sentence about the data that the page shows.
    """

    recommender: PatchRecommender
    name: str
    notice: str = ""

    @cached_property
    def labels(self) -> ItemLabels:
        """The names of the catalog's items."""
        return ItemLabels(self.recommender.catalog)

    @cached_property
    def comparison(self) -> MethodComparison:
        """The methods of the checkpoint."""
        return MethodComparison(self.recommender)

    def heading(self) -> str:
        """Returns the heading as HTML: the checkpoint's name, facts about it, and the notice."""
        processor = self.recommender.processor
        facts = (
            f"{len(self.recommender.catalog):,} items · {type(processor.layout).__name__} · reads the latest "
            f"{processor.max_history:,} items"
        )
        notes = [self.notice] if self.notice else []
        if processor.reads_timestamps():
            notes.append("This checkpoint reads times. The page has none, and assumes one item a day.")
        note = f'<p class="pr-notice">{escape(" ".join(notes))}</p>' if notes else ""
        return f'<div class="pr-head"><h1>{escape(self.name)}</h1><p>{escape(facts)}</p>{note}</div>'

    def example(self, seed: int) -> list[str]:
        """Returns the labels of an example history (see [`example_history`])."""
        processor = self.recommender.processor
        indices = example_history(processor, min(EXAMPLE_LENGTH, processor.max_history), seed)
        return [self.labels.texts[index] for index in indices]

    def render(
        self, labels: Sequence[str], k: int, exclude_seen: bool, max_tokens: int | None
    ) -> Iterator[tuple[str, str]]:
        """
        Draws the history, and the methods' results one after the other.

        Args:
            labels (`Sequence[str]`):
                The history, oldest item first: labels of items, and titles that may be new.
            k (`int`):
                Number of items that each method recommends.
            exclude_seen (`bool`):
                Whether items of the history are left out.
            max_tokens (`int`, *optional*):
                Most positions of the history; not read if the checkpoint takes no budget.

        Yields:
            `tuple[str, str]`: the history and the columns as HTML, once before the first method and after each one.
        """
        history = self.labels.items_of(labels or ())
        budget = None if self.comparison.budget.absence is not None else max_tokens
        if not history:
            yield draw_message(_EMPTY), ""
            return
        try:
            drawing = draw_history(read_history(self.recommender.processor, history, budget))
        except (ValueError, TypeError, KeyError) as error:
            yield draw_message(str(error.args[0] if error.args else error)), ""
            return
        methods, results = self.comparison.methods, list[MethodResult]()
        yield drawing, draw_columns(methods, results)
        for method in methods:
            if method.absence is None:
                results.append(self.comparison.rank(method, history, k, exclude_seen, budget))
                yield drawing, draw_columns(methods, results)
