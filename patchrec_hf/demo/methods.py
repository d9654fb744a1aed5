"""Methods: what a checkpoint recommends by titles, by its item head, by co-visits and by its fusion, side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

from ..runtime.fusion import Fusion
from ..runtime.long_layouts import BudgetLayout
from ..runtime.recommendations import Recommendation
from ..runtime.recommender import PatchRecommender
from ..runtime.user_histories import Item, Title
from .read_history import assumed_timestamps


MethodName = Literal["fusion", "item", "exact", "co_visits"]

MAX_TITLE_TOKENS = 3_000
"""Title tokens that the search by titles reads before it continues as a beam search, so that nobody waits for long."""


@dataclass(frozen=True)
class DemoMethod:
    """
    A method of the page.

    Args:
        name (`str`):
            Its name.
        label (`str`):
            Its heading.
        score (`str`):
            The name of its scores, such as `"log-probability among the catalog"`.
        absence (`str`, *optional*):
            Why the checkpoint lacks it; `None` if the checkpoint has it.
    """

    name: MethodName
    label: str
    score: str
    absence: str | None = None


@dataclass(frozen=True)
class RankedItem:
    """
    A recommended item.

    Args:
        title (`str`):
            Its title.
        item_id (`int` or `str`):
            Its id.
        score (`float`):
            Its score by the method.
        is_seen (`bool`):
            Whether the history holds an item with this title.
    """

    title: str
    item_id: int | str
    score: float
    is_seen: bool


@dataclass(frozen=True)
class MethodResult:
    """
    The recommendations of a method.

    Args:
        method ([`DemoMethod`]):
            The method.
        items (`tuple[RankedItem, ...]`, *optional*):
            The best items, best first; none if there is an error.
        milliseconds (`float`, *optional*, defaults to `0.0`):
            How long the method took, with the encoding of the history.
        is_exact (`bool`, *optional*, defaults to `True`):
            Whether the items are proven to be the best ones.
        error (`str`, *optional*):
            Why the method recommends nothing for this history.
    """

    method: DemoMethod
    items: tuple[RankedItem, ...] = ()
    milliseconds: float = 0.0
    is_exact: bool = True
    error: str | None = None


@dataclass(frozen=True)
class TokenBudget:
    """
    The budgets of positions that a page offers.

    Args:
        least (`int`, *optional*, defaults to `3`):
            The smallest one.
        most (`int`, *optional*, defaults to `100`):
            The largest one.
        absence (`str`, *optional*):
            Why the checkpoint takes no budget; `None` if it takes one.
    """

    least: int = 3
    most: int = 100
    absence: str | None = None


@dataclass(frozen=True, eq=False)
class MethodComparison:
    """
    Recommends for one history by each method of a checkpoint.

    Args:
        recommender ([`PatchRecommender`]):
            The checkpoint.

    Example:
    ```python
    >>> comparison = MethodComparison(PatchRecommender.from_pretrained("outputs/final"))
    >>> [comparison.rank(method, [3, 14], k=5) for method in comparison.methods if method.absence is None]
    ```
    """

    recommender: PatchRecommender

    @cached_property
    def methods(self) -> tuple[DemoMethod, ...]:
        """The methods, also those that the checkpoint lacks."""
        catalog_wide = self.recommender.model.config.title_normalizer == "catalog"
        return (
            DemoMethod("fusion", "Fusion", "log-probability among the catalog", self._why_no_fusion()),
            DemoMethod("item", "Item head", "score of the item head", self._why_no_item_head()),
            DemoMethod(
                "exact",
                "Titles (exact)",
                f"log-probability among {'the catalog' if catalog_wide else 'all texts'}",
                self._why_no_titles(),
            ),
            DemoMethod("co_visits", "Co-visitation", "logarithm of the share of co-visits", self._why_no_co_visits()),
        )

    @cached_property
    def budget(self) -> TokenBudget:
        """The budgets of positions that the checkpoint has learned; any budget, if it has learned one alone."""
        layout = self.recommender.processor.layout
        if not isinstance(layout, BudgetLayout):
            return TokenBudget(
                absence=f"The layout of this checkpoint is {type(layout).__name__}, which has no budget. Train with "
                "BudgetLayout to choose the number of positions here."
            )
        return TokenBudget(layout.min_tokens or 3, layout.max_tokens)

    def rank(
        self,
        method: DemoMethod,
        history: Sequence[Item],
        k: int = 10,
        exclude_seen: bool = False,
        max_tokens: int | None = None,
    ) -> MethodResult:
        """
        Recommends by one method.

        Args:
            method ([`DemoMethod`]):
                One of [`MethodComparison.methods`], which the checkpoint has.
            history (`Sequence[int | str | Title]`):
                The history, oldest item first.
            k (`int`, *optional*, defaults to `10`):
                Number of items.
            exclude_seen (`bool`, *optional*, defaults to `False`):
                Whether items of the history are left out.
            max_tokens (`int`, *optional*):
                Most positions of the history, if the layout has a budget.

        Returns:
            [`MethodResult`]: with an error if the history cannot be ranked, as when its prompt is too long.
        """
        processor = self.recommender.processor
        layout = processor.layout if max_tokens is None else processor.layout_within(max_tokens)
        timestamps = assumed_timestamps(len(history)).tolist() if processor.reads_timestamps(layout) else None
        recommender = self._co_visits if method.name == "co_visits" else self.recommender
        start = time.perf_counter()
        try:
            recommended = recommender.recommend(
                list(history),
                k,
                exclude_seen=exclude_seen,
                method="fusion" if method.name == "co_visits" else method.name,
                max_title_tokens=MAX_TITLE_TOKENS if method.name == "exact" else None,
                layout=layout,
                timestamps=timestamps,
            )
        except (ValueError, TypeError, KeyError, FloatingPointError) as error:
            return MethodResult(method, error=str(error.args[0] if error.args else error))
        milliseconds = 1000 * (time.perf_counter() - start)
        found = cast(list[Recommendation], recommended)  # there is one history
        seen = self._seen_titles(history)
        items = tuple(RankedItem(item.title, item.item_id, item.score, item.title in seen) for item in found)
        return MethodResult(method, items, milliseconds, all(item.is_exact for item in found))

    def warm_up(self) -> None:
        """Recommends once by each method, which computes what later histories share: item vectors and the trie."""
        first = [self.recommender.catalog.item_ids.tolist()[0]]
        for method in self.methods:
            if method.absence is None:
                self.rank(method, first, k=1)

    @cached_property
    def _co_visits(self) -> PatchRecommender:
        """Ranks by co-visits alone: by a fusion of this one part."""
        processor = self.recommender.processor
        alone = Fusion({"co_visits": cast(Fusion, processor.fusion).parts["co_visits"]}, {"co_visits": 1.0})
        return PatchRecommender(self.recommender.model, processor.with_fusion(alone))

    def _seen_titles(self, history: Sequence[Item]) -> set[str]:
        catalog = self.recommender.catalog
        ids = [item for item in history if not isinstance(item, Title) and item in catalog]
        return {catalog.titles[index] for index in catalog.indices_of(ids)} | {
            item.text for item in history if isinstance(item, Title)
        }

    def _why_no_fusion(self) -> str | None:
        if self.recommender.processor.fusion is not None:
            return None
        return "This checkpoint holds no fusion. fit_fusion(model, processor, train, validation) makes one."

    def _why_no_item_head(self) -> str | None:
        if self.recommender.model.item_head is not None:
            return None
        return "This model has no item head. Train with objective='item' or objective='both'."

    def _why_no_titles(self) -> str | None:
        if self.recommender.model.config.objective == "item":
            return (
                "This model was trained to predict items, and has learned no titles. Train with objective='title' or "
                "objective='both'."
            )
        if not self.recommender.model.supports_tree_attention():
            return "The backbone of this model cannot read many titles at once, so titles are not ranked here."
        return None

    def _why_no_co_visits(self) -> str | None:
        fusion = self.recommender.processor.fusion
        if fusion is not None and "co_visits" in fusion.parts:
            return None
        reason = "holds no fusion" if fusion is None else "has a fusion without co-visits"
        return f"This checkpoint {reason}, so there is no table of them. fit_fusion(...) counts one."
