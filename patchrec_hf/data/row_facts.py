"""Facts about rows: their `max_history` and some titles of their catalog, which a data set of rows carries along."""

from __future__ import annotations

import json
from dataclasses import dataclass

from datasets import Dataset, IterableDataset

from ..runtime.catalog import Catalog
from .rows import spaced_rows


_KEY = "patchrec_hf_rows"
_NUM_TITLES = 64
_MAX_CHANGED = 0.1
"""Share of titles that may differ between two catalogs of one data set, because titles are corrected now and then."""


@dataclass(frozen=True)
class RowFacts:
    """
    The settings and the catalog that rows were made with. A data set keeps them as JSON in the description of its
    `info`, which `select`, `shuffle`, `map` and `save_to_disk` keep.

    Args:
        max_history (`int`):
            The `max_history` of the rows.
        titles (`tuple[tuple[int | str, str], ...]`):
            Id and title of up to 64 items, evenly spaced over the catalog.
    """

    max_history: int
    titles: tuple[tuple[int | str, str], ...]

    @classmethod
    def of(cls, dataset: Dataset | IterableDataset) -> RowFacts | None:
        """Reads the facts of a data set; `None` if it has none, as rows of your own."""
        try:
            values = json.loads(dataset.info.description or "null")
        except json.JSONDecodeError:
            return None
        if not isinstance(values, dict) or _KEY not in values:
            return None
        facts = values[_KEY]
        return cls(facts["max_history"], tuple((item_id, title) for item_id, title in facts["titles"]))


def keep_facts(dataset: Dataset | IterableDataset, catalog: Catalog, max_history: int) -> None:
    """
    Writes down what rows were made with.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            The rows. Their `info.description` is set.
        catalog ([`Catalog`]):
            The catalog of the rows.
        max_history (`int`):
            The `max_history` of the rows.
    """
    numbers = spaced_rows(len(catalog), _NUM_TITLES).tolist()
    titles = [(catalog.item_ids[number : number + 1].tolist()[0], catalog.titles[number]) for number in numbers]
    dataset.info.description = json.dumps({_KEY: {"max_history": max_history, "titles": titles}})


def check_same_catalog(dataset: Dataset | IterableDataset, catalog: Catalog) -> None:
    """
    Checks that the ids of rows mean the items of a catalog. An id that exists in both catalogs must have the same
    title in both, except for a tenth of the ids, because titles are corrected now and then.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            The rows. Rows of your own carry no facts, and pass.
        catalog ([`Catalog`]):
            The catalog in which the ids of the rows are looked up.

    Raises:
        ValueError: If the rows were made with another catalog, whose ids name other items.
    """
    facts = RowFacts.of(dataset)
    if facts is None:
        return
    shared = [(item_id, title) for item_id, title in facts.titles if item_id in catalog]
    if not shared:
        raise ValueError(
            f"The rows were made with another catalog: the catalog of {len(catalog)} items has no item "
            f"{facts.titles[0][0]!r} ({facts.titles[0][1]!r}). Use the rows and the catalog that one call of "
            "`load_recommendation_data` returns."
        )
    indices = catalog.indices_of([item_id for item_id, _ in shared]).tolist()
    pairs = [(item_id, title, catalog.titles[index]) for (item_id, title), index in zip(shared, indices, strict=True)]
    changed = [pair for pair in pairs if pair[1] != pair[2]]
    if len(changed) > _MAX_CHANGED * len(pairs):
        item_id, old, new = changed[0]
        raise ValueError(
            f"The rows were made with another catalog: item {item_id!r} is {old!r} there, but {new!r} in this catalog "
            f"of {len(catalog)} items, and {len(changed)} of {len(pairs)} compared items differ so. Use the rows and "
            "the catalog that one call of `load_recommendation_data` returns."
        )
