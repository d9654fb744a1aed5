"""Ranks from scores: the places of targets whose whole catalog was scored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..runtime.catalog import Catalog
from ..runtime.score_ties import tie_width
from .metrics import compare_scores, ranks_from_scores


@dataclass(frozen=True, eq=False)
class TitleGroups:
    """
    The items of a catalog, grouped by title.

    Args:
        title_of_item (`numpy.ndarray` of shape `(num_items,)`, int64):
            The number of each item's title.
        by_title (`numpy.ndarray` of shape `(num_items,)`, int64):
            The items, sorted by title.
        starts (`numpy.ndarray` of shape `(num_titles,)`, int64):
            Index in `by_title` of each title's first item.
    """

    title_of_item: np.ndarray
    by_title: np.ndarray
    starts: np.ndarray

    @classmethod
    def from_catalog(cls, catalog: Catalog) -> TitleGroups:
        """Groups the items of a catalog."""
        # As objects, because a NumPy array of strings stores every title with the length of the longest one.
        _, title_of_item = np.unique(np.array(catalog.titles, dtype=object), return_inverse=True)
        by_title = np.argsort(title_of_item, kind="stable")
        return cls(title_of_item, by_title, np.flatnonzero(np.diff(title_of_item[by_title], prepend=-1)))

    def ranks(
        self, scores: np.ndarray, items: np.ndarray, allowed: np.ndarray, widths: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Finds targets in the rankings that scores give.

        Args:
            scores (`numpy.ndarray` of shape `(B, num_items)`):
                The score of every item for each of B targets.
            items (`numpy.ndarray` of shape `(B,)`, int64):
                Catalog indices of the targets.
            allowed (`numpy.ndarray` of shape `(B, num_items)`, bool):
                Whether each item may be recommended.
            widths (`numpy.ndarray` of shape `(B,)`, *optional*):
                As in [`ranks_from_scores`].

        Returns:
            `tuple` of three arrays of shape `(B,)`:
                - the target's rank among the allowed items, as [`ranks_from_scores`] defines it;
                - the rank of its title, where a title has the score of its best allowed item;
                - the number of allowed items whose score is equal to the target's.
        """
        widths = tie_width(scores[np.arange(len(items)), items]) if widths is None else widths
        title_scores = np.maximum.reduceat(np.where(allowed, scores, -np.inf)[:, self.by_title], self.starts, axis=1)
        title_allowed = np.logical_or.reduceat(allowed[:, self.by_title], self.starts, axis=1)
        return (
            ranks_from_scores(scores, items, allowed, widths),
            ranks_from_scores(title_scores, self.title_of_item[items], title_allowed, widths),
            (compare_scores(scores, items, widths)[1] & allowed).sum(axis=1),
        )
