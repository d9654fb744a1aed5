"""Index settings: the kinds of item indexes, and what each of them can be told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from .ids import nearest_texts


IndexKind = Literal["flat", "ivf", "ivfpq", "hnsw"]
INDEX_KINDS = get_args(IndexKind)
_OF_KIND = {
    "flat": (),
    "ivf": ("nlist", "nprobe"),
    "ivfpq": ("nlist", "nprobe", "k_factor"),
    "hnsw": ("m", "ef_construction", "ef_search"),
}
_HNSW_DEFAULTS = {"m": 32, "ef_construction": 40, "ef_search": 128}
_K_FACTOR = 2
_LEAST_NPROBE = 80
_LEAST_ITEMS = 16
"""Number of items that `"ivfpq"` needs at least: a code stands for one of 16 numbers."""
_ITEMS_PER_LIST = 39
"""Least number of items for which FAISS's k-means places a centroid without a warning."""


@dataclass(frozen=True)
class IndexSettings:
    """
    Settings of an [`ItemIndex`], by FAISS's names. A setting that belongs to another kind must not be given.

    Args:
        kind (`"flat"`, `"ivf"`, `"ivfpq"` or `"hnsw"`, *optional*, defaults to `"flat"`):
            - `"flat"` multiplies a user with all items. It is exact.
            - `"ivf"` sorts the items into lists by k-means, and multiplies a user with the items of some of them.
            - `"ivfpq"` sorts them likewise, and compares the user with four bits for each number of an item (product
              quantization). It multiplies the user with the best of these items only. It takes least time to search
              among 10^6 items, and seconds to build.
            - `"hnsw"` links each item with similar ones, and follows the links. It takes minutes to build for 10^6
              items.
        m (`int`, *optional*):
            For `"hnsw"`: number of links of an item; the lowest layer has twice as many. 32 if not given.
        ef_construction (`int`, *optional*):
            For `"hnsw"`: number of items among which the links of a new one are chosen. 40 if not given.
        ef_search (`int`, *optional*):
            For `"hnsw"`: number of items that a search keeps in view, or the number of items it must find, if this is
            larger. More find more of the best items, and take longer. 128 if not given.
        nlist (`int`, *optional*):
            For `"ivf"` and `"ivfpq"`: number of lists. If not given, twice the square root of the number of items, and
            fewer for a small catalog.
        nprobe (`int`, *optional*):
            For `"ivf"` and `"ivfpq"`: number of lists that a search reads. If not given, a sixteenth of the lists, and
            at least 80, or all of them.
        k_factor (`int`, *optional*):
            For `"ivfpq"`: number of items that are multiplied with the user, for each item that a search must find.
            2 if not given.

    Raises:
        ValueError: If the kind is unknown, a number is below 1, `m` is below 2, `nprobe` is above `nlist`, or a
            setting does not belong to the kind.
        TypeError: If a setting is no whole number.
    """

    kind: IndexKind = "flat"
    m: int | None = None
    ef_construction: int | None = None
    ef_search: int | None = None
    nlist: int | None = None
    nprobe: int | None = None
    k_factor: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in INDEX_KINDS:
            near = nearest_texts(str(self.kind), list(INDEX_KINDS), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"`kind` must be one of {', '.join(map(repr, INDEX_KINDS))}, got {self.kind!r}.{hint}")
        for name, value in asdict(self).items():
            if name == "kind" or value is None:
                continue
            if name not in _OF_KIND[self.kind]:
                owners = " or ".join(repr(kind) for kind, names in _OF_KIND.items() if name in names)
                raise ValueError(f"`{name}` belongs to an index of the kind {owners}, got the kind {self.kind!r}.")
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"`{name}` must be a whole number, got {value!r}.")
            if value < (least := 2 if name == "m" else 1):
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        if self.nlist is not None and self.nprobe is not None and self.nprobe > self.nlist:
            raise ValueError(f"`nprobe` must be at most `nlist` = {self.nlist}, got {self.nprobe}.")

    @property
    def is_exact(self) -> bool:
        """Whether a search always finds the items with the largest products."""
        return self.kind == "flat"

    def resolved(self, num_items: int) -> IndexSettings:
        """
        Returns the settings with a number for everything that the kind can be told.

        Args:
            num_items (`int`):
                Number of items of the catalog.

        Raises:
            ValueError: If `nlist` is above the number of items, or there are fewer than 16 items for `"ivfpq"`.
        """
        if self.kind == "flat":
            return self
        if self.kind == "hnsw":
            missing = {name: value for name, value in _HNSW_DEFAULTS.items() if getattr(self, name) is None}
            return replace(self, **missing)  # type: ignore[arg-type]
        usual = max(1, min(2 * math.isqrt(num_items), num_items // _ITEMS_PER_LIST))
        nlist = usual if self.nlist is None else self.nlist
        if nlist > num_items:
            raise ValueError(f"`nlist` must be at most {num_items}, the number of items, got {nlist}.")
        nprobe = min(nlist, max(_LEAST_NPROBE, nlist // 16)) if self.nprobe is None else self.nprobe
        if self.kind == "ivf":
            return replace(self, nlist=nlist, nprobe=nprobe)
        if num_items < _LEAST_ITEMS:
            raise ValueError(
                f"An index of the kind 'ivfpq' needs at least {_LEAST_ITEMS} items, got {num_items}. Take 'flat' for "
                "a small catalog."
            )
        return replace(
            self, nlist=nlist, nprobe=nprobe, k_factor=_K_FACTOR if self.k_factor is None else self.k_factor
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the kind and the settings that belong to it."""
        return {"kind": self.kind, **{name: getattr(self, name) for name in _OF_KIND[self.kind]}}


def index_settings(kind: IndexKind, settings: Mapping[str, int]) -> IndexSettings:
    """
    Makes settings of their names.

    Args:
        kind (`"flat"`, `"ivf"`, `"ivfpq"` or `"hnsw"`):
            See [`IndexSettings`].
        settings (`Mapping[str, int]`):
            Numbers by the names of settings.

    Raises:
        TypeError: If there is no such setting. The message names the nearest one.
        ValueError: As [`IndexSettings`] does.
    """
    names = [name for of_kind in _OF_KIND.values() for name in of_kind]
    for name in settings:
        if name not in names:
            near = nearest_texts(name, names, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise TypeError(f"An item index has no setting `{name}`; its settings are {', '.join(names)}.{hint}")
    return IndexSettings(kind, **settings)
