"""Item labels: one text for each item of a catalog, by which a page names the items of a history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ..runtime.catalog import Catalog
from ..runtime.user_histories import Item, Title


@dataclass(frozen=True, eq=False)
class ItemLabels:
    """
    Names each item of a catalog by its title. Items that share their title also show their id.

    Args:
        catalog ([`Catalog`]):
            The catalog.

    Example:
    ```python
    >>> labels = ItemLabels(Catalog.from_titles({1: "Emma", 2: "Poems", 3: "Poems"}))
    >>> labels.texts
    ('Emma', 'Poems [2]', 'Poems [3]')
    >>> labels.items_of(["Poems [3]", "A New Book"])
    [3, Title(text='A New Book')]
    ```
    """

    catalog: Catalog

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """One label for each item, in catalog order. No label appears twice."""
        texts: dict[str, None] = {}
        for item_id, title in zip(self.catalog.item_ids.tolist(), self.catalog.titles, strict=True):
            label = title if len(self.catalog.indices_of_title(title)) == 1 else f"{title} [{item_id}]"
            while label in texts:  # another item has this label as its title
                label += f" [{item_id}]"
            texts[label] = None
        return tuple(texts)

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {label: index for index, label in enumerate(self.texts)}

    @cached_property
    def _indices_in_any_case(self) -> dict[str, int]:
        return {label.casefold(): index for label, index in reversed(self._indices.items())}

    def items_of(self, labels: Sequence[str]) -> list[Item]:
        """
        Turns labels into items, as [`PatchRecommender.recommend`] takes them.

        Args:
            labels (`Sequence[str]`):
                Labels, in any case, or other texts, which are titles: of the catalog, or new ones. Blank texts are
                left out.

        Returns:
            `list[int | str | Title]`: ids of the catalog, and a [`Title`] for each other text.
        """
        return [self._item_of(label) for label in labels if label.strip()]

    def _item_of(self, label: str) -> Item:
        text = label.strip()
        index = self._indices.get(label, self._indices_in_any_case.get(text.casefold()))
        return Title(text) if index is None else self.catalog.item_ids[[index]].tolist()[0]
