"""Facts about rows: their `max_history` and some titles of their catalog, which a data set of rows carries along."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import polars as pl
from datasets import Dataset, IterableDataset
from transformers.utils import logging

from ..runtime.catalog import Catalog
from .rows import read_columns, spaced_rows


logger = logging.get_logger(__name__)

_KEY = "patchrec_hf_rows"
_NUM_TITLES = 64
_MAX_CHANGED = 0.1
"""Share of titles that may differ between two catalogs of one data set, because titles are corrected now and then."""


@dataclass(frozen=True)
class RowFacts:
    """
    The settings and the catalog that rows were made with. A data set keeps them as JSON in the description of its
    `info`, which `select`, `shuffle`, `map`, `filter`, `save_to_disk` and `concatenate_datasets` keep. Rows that pass
    through a Parquet file or a data frame lose them.

    Args:
        max_history (`int`):
            The `max_history` of the rows.
        titles (`tuple[tuple[int | str, str], ...]`):
            Id and title of up to 64 items, evenly spaced over the catalog.
    """

    max_history: int
    titles: tuple[tuple[int | str, str], ...]

    @classmethod
    def all_of(cls, dataset: Dataset | IterableDataset) -> tuple[RowFacts, ...]:
        """
        Reads the facts of a data set.

        Args:
            dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
                The rows.

        Returns:
            `tuple[RowFacts, ...]`: the distinct facts of the data sets that were joined to this one; empty if there
            are none, as for rows of your own.
        """
        facts = []
        # `datasets` joins unequal descriptions by blank lines, which JSON in one line does not hold.
        for part in (dataset.info.description or "").split("\n\n"):
            try:
                values = json.loads(part)
            except json.JSONDecodeError:
                continue
            if isinstance(values, dict) and _KEY in values:
                found = values[_KEY]
                facts.append(cls(found["max_history"], tuple((item_id, title) for item_id, title in found["titles"])))
        return tuple(dict.fromkeys(facts))


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
        ValueError: If the rows, or some of several data sets that were joined, were made with another catalog, whose
            ids name other items.
    """
    for facts in RowFacts.all_of(dataset):
        _check_titles(facts, catalog)


def _check_titles(facts: RowFacts, catalog: Catalog) -> None:
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


def warn_of_other_max_history(dataset: Dataset, max_history: int) -> None:
    """
    Logs one warning if rows were made with another `max_history` than the processor's.

    The number of items before a row's first target is the row's history length. Rows of your own carry no facts. But a
    user's rows have different history lengths, unless longer histories were cut. So if two rows of a user have the
    longest history of all rows, that is the `max_history` of the rows.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows that have been checked (see [`check_columns`]).
        max_history (`int`):
            The processor's `max_history`.
    """
    facts = [one.max_history for one in RowFacts.all_of(dataset)]
    if facts and set(facts) == {max_history}:
        return
    if len(set(facts)) > 1:
        made_with = " and ".join(map(str, sorted(set(facts))))
        logger.warning_once(
            f"The rows were made with `max_history` of {made_with}, but the processor has "
            f"`max_history={max_history}`. Give `load_recommendation_data` and the processor the same "
            "`max_history`."
        )
        return
    lengths = pl.concat([part["target_positions"].list.first() for part in read_columns(dataset, "target_positions")])
    longest: Any = lengths.max()
    if longest is None or longest == max_history:
        return
    if longest > max_history:
        effect = f"The processor reads only the latest {max_history} items of each history."
    elif _was_cut(dataset, lengths, longest, facts):
        effect = "The model would learn from shorter histories than it reads when it recommends."
    else:
        return  # the longest history has all of its user's items
    logger.warning_once(
        f"The rows hold up to {longest} items before a target, but the processor has `max_history={max_history}`. "
        f"{effect} Give `load_recommendation_data` and the processor the same `max_history`."
    )


def _was_cut(dataset: Dataset, lengths: pl.Series, longest: int, facts: list[int]) -> bool:
    """Whether the longest histories were cut."""
    if facts:
        return longest in facts
    # The users of all rows would take long to read.
    dataset = dataset.select((lengths == longest).arg_true().to_list())
    users = pl.concat([part["user_id"] for part in read_columns(dataset, "user_id")])
    return bool(users.is_duplicated().any())
