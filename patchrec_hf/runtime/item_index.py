"""The item index: finds the items whose vectors have the largest products with a user's, by FAISS."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .faiss_indexes import MATRIX_PRODUCTS, import_faiss, new_faiss_index, set_search
from .hub_files import FORMAT_VERSION, check_format_version, file_digest, find_file
from .index_settings import IndexSettings
from .progress import progress_bar


INDEX_NAME, INDEX_SETTINGS_NAME = "item_index.faiss", "item_index.json"
_ITEMS_AT_ONCE = 1 << 14
"""Items that are added or compared at once."""
_TOLERANCE = 1e-3
"""How much a vector may differ from the one in an index, relative to its length: another machine rounds otherwise."""
_QUERY_LENGTH = 3.0
"""
Length of a user vector relative to the item vectors, where distances are compared. All item vectors are equally long,
so it changes nothing among them. But lists of items are chosen by their centroids, which are shorter: near a short
vector lie the shortest centroids, and near a long one the centroids with the largest products.
"""


class ItemIndex:
    """
    An index of item vectors. [`PatchRecommender.build_index`] builds one, and [`PatchRecommender.load_index`] loads
    one that was saved.

    A score of the item head is the product of a user vector and an item vector, with the item's bias as its last entry
    (see [`ItemHead`]). The kind `"flat"` searches by this product. The others need distances: they get the vectors
    with one more entry, by which all of them become equally long, so that the nearest item is the one with the largest
    product.

    Args:
        faiss_index (`faiss.Index`):
            The index as FAISS keeps it.
        settings ([`IndexSettings`]):
            Its settings, resolved for the number of items.
        user_scale (`float`):
            Typical length of a user vector without its last entry. Distances between items weigh the biases by it.
        longest (`float`):
            Length of the longest item vector, as FAISS gets it.
        fingerprint (`str`):
            The [`fingerprint_of`] of the item vectors.
    """

    def __init__(
        self, faiss_index: Any, settings: IndexSettings, user_scale: float, longest: float, fingerprint: str
    ) -> None:
        self._faiss_index = faiss_index
        self.settings = settings
        self.user_scale = user_scale
        self.longest = longest
        self.fingerprint = fingerprint

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        settings: IndexSettings | None = None,
        user_scale: float = 1.0,
        show_progress: bool = False,
    ) -> ItemIndex:
        """
        Builds an index.

        Args:
            vectors (`numpy.ndarray` of shape `(num_items, H + 1)`, float32):
                The item vectors, with the bias as the last entry (see [`item_vectors_of`]).
            settings ([`IndexSettings`], *optional*):
                The kind of index. Flat if not given.
            user_scale (`float`, *optional*, defaults to `1.0`):
                See [`ItemIndex`].
            show_progress (`bool`, *optional*, defaults to `False`):
                Whether to show a progress bar.

        Raises:
            ImportError: If FAISS is not installed.
            ValueError: If a setting, or the kind, does not fit the number of items, or a vector holds a value that is
                not finite.
        """
        if not np.isfinite(vectors).all():
            item = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise ValueError(f"The vector of the item with catalog index {item} holds {vectors[item]}.")
        num_items, size = vectors.shape
        settings = (IndexSettings() if settings is None else settings).resolved(num_items)
        index = new_faiss_index(settings, size if settings.is_exact else size + 1)
        longest = float(np.sqrt(_squared_lengths(vectors, 1.0 if settings.is_exact else user_scale).max()))
        built = cls(index, settings, user_scale, longest, fingerprint_of(vectors))
        if not index.is_trained:
            index.train(built._as_stored(vectors))
        with progress_bar(show_progress, total=num_items, desc="Indexing", unit="item") as progress:
            for start in range(0, num_items, _ITEMS_AT_ONCE):
                some = vectors[start : start + _ITEMS_AT_ONCE]
                index.add(built._as_stored(some))
                progress.update(len(some))
        set_search(index, settings)
        return built

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings.to_dict().items())
        return f"{type(self).__name__}({self.num_items} items, {settings})"

    @property
    def kind(self) -> str:
        """`"flat"`, `"ivf"`, `"ivfpq"` or `"hnsw"`."""
        return self.settings.kind

    @property
    def num_items(self) -> int:
        """Number of items of the catalog."""
        return int(self._faiss_index.ntotal)

    @cached_property
    def digest(self) -> str:
        """A digest of all that decides what a search finds, for the settings of jobs."""
        content = hashlib.blake2b(import_faiss().serialize_index(self._faiss_index))
        content.update(json.dumps(self.settings.to_dict(), sort_keys=True).encode())
        return content.hexdigest()[:32]

    def search(self, users: np.ndarray, num: int) -> np.ndarray:
        """
        Finds the items with the largest products.

        Args:
            users (`numpy.ndarray` of shape `(n, H + 1)`, float32):
                User vectors, with 1 as the last entry (see [`ItemHead`]).
            num (`int`):
                Number of items to find for each user, at most `num_items`.

        Returns:
            `numpy.ndarray` of shape `(n, num)`, int64: catalog indices, the largest products first; -1 where fewer
            items were found. An index that is not flat may miss some of the best items.
        """
        size = users.shape[1]
        queries = np.zeros((len(users), self._faiss_index.d), dtype=np.float32)
        queries[:, :size] = users
        if not self.settings.is_exact:
            queries[:, : size - 1] /= self.user_scale
            queries *= _QUERY_LENGTH * self.longest / np.linalg.norm(queries, axis=1, keepdims=True)
        with MATRIX_PRODUCTS:
            return self._faiss_index.search(queries, num)[1]

    def check_vectors(self, vectors: np.ndarray) -> None:
        """
        Checks that the index was built of the vectors that a model gives now.

        Args:
            vectors (`numpy.ndarray` of shape `(num_items, H + 1)`, float32):
                The model's item vectors.

        Raises:
            ValueError: If the index holds other vectors. The message says what differs.
        """
        if self.fingerprint == fingerprint_of(vectors):
            return
        mend = "Build it again: `recommender.build_index(...)`."
        size = self._faiss_index.d - (0 if self.settings.is_exact else 1)
        if vectors.shape != (self.num_items, size):
            raise ValueError(
                f"The item index does not belong to this checkpoint and catalog: it holds {self.num_items:,} vectors "
                f"of {size - 1} entries and a bias, and the checkpoint has {len(vectors):,} items with vectors of "
                f"{vectors.shape[1] - 1}. {mend}"
            )
        for start in range(0, self.num_items, _ITEMS_AT_ONCE):
            some = vectors[start : start + _ITEMS_AT_ONCE]
            stored = self._faiss_index.reconstruct_n(start, len(some))[:, :size]
            if not self.settings.is_exact:
                stored[:, : size - 1] /= self.user_scale
            difference = np.abs(stored - some).max(axis=1)
            is_other = difference > _TOLERANCE * np.maximum(np.linalg.norm(some, axis=1), 1e-6)
            if is_other.any():
                place = int(np.argmax(is_other))
                raise ValueError(
                    "The item index is stale: the checkpoint gives other item vectors than those it was built of. The "
                    f"vector of the item with catalog index {start + place} differs by {difference[place]:.3g}. {mend}"
                )

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """
        Saves the index, usually beside its checkpoint: `item_index.faiss`, which FAISS also reads by itself, and its
        settings in `item_index.json`.

        Args:
            save_directory (`str` or `os.PathLike`):
                The directory. It is made if there is none.
        """
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        # The settings come last, with the digest of the index. So a half-written pair is never taken for a whole one.
        part = directory / f"{INDEX_NAME}.part"
        import_faiss().write_index(self._faiss_index, str(part))
        part.replace(directory / INDEX_NAME)
        values = {
            "format_version": FORMAT_VERSION,
            "num_items": self.num_items,
            "user_scale": self.user_scale,
            "longest": self.longest,
            "fingerprint": self.fingerprint,
            "digest": file_digest(directory / INDEX_NAME),
            "settings": self.settings.to_dict(),
        }
        part = directory / f"{INDEX_SETTINGS_NAME}.part"
        part.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        part.replace(directory / INDEX_SETTINGS_NAME)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        ef_search: int | None = None,
        nprobe: int | None = None,
        k_factor: int | None = None,
        **kwargs: Any,
    ) -> ItemIndex:
        """
        Loads an index. [`PatchRecommender.load_index`] also checks that it belongs to a checkpoint.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                A directory or a repository of the Hub that holds what [`ItemIndex.save_pretrained`] wrote.
            ef_search, nprobe, k_factor (`int`, *optional*):
                Replace the setting of a search (see [`IndexSettings`]).
            **kwargs:
                Choose files on the Hub: `revision`, `token` and so on.

        Raises:
            ImportError: If FAISS is not installed.
            FileNotFoundError: If there is no index.
            ValueError: If the files do not belong together, a newer version of the library wrote them, or a setting
                does not belong to the kind.
        """
        faiss = import_faiss()
        values = read_index_settings(pretrained_model_name_or_path, kwargs)
        path = Path(find_file(pretrained_model_name_or_path, INDEX_NAME, kwargs))
        if file_digest(path) != values["digest"]:
            raise ValueError(
                f"{path} is not the index that {INDEX_SETTINGS_NAME} describes: it was changed, or not copied to its "
                "end. Copy both files again, or build the index again."
            )
        replacements = {"ef_search": ef_search, "nprobe": nprobe, "k_factor": k_factor}
        given = {name: value for name, value in replacements.items() if value is not None}
        settings = replace(IndexSettings(**values["settings"]), **given)  # type: ignore[arg-type]
        numbers = values["user_scale"], values["longest"], values["fingerprint"]
        index = cls(faiss.read_index(str(path)), settings, *numbers)
        set_search(index._faiss_index, settings)
        return index

    def _as_stored(self, vectors: np.ndarray) -> np.ndarray:
        """Returns the vectors as FAISS gets them. All of them get one length where distances are compared."""
        if self.settings.is_exact:
            return np.ascontiguousarray(vectors, dtype=np.float32)
        size = vectors.shape[1]
        stored = np.empty((len(vectors), size + 1), dtype=np.float32)
        stored[:, :size] = vectors
        stored[:, : size - 1] *= self.user_scale
        rest = self.longest**2 - _squared_lengths(vectors, self.user_scale)
        stored[:, size] = np.sqrt(np.maximum(rest, 0))
        return stored


def _squared_lengths(vectors: np.ndarray, user_scale: float) -> np.ndarray:
    """Returns the squared lengths of item vectors whose entries, except the bias, are multiplied by `user_scale`."""
    lengths = np.einsum("ij,ij->i", vectors[:, :-1], vectors[:, :-1], dtype=np.float64)
    return lengths * user_scale**2 + vectors[:, -1].astype(np.float64) ** 2


def fingerprint_of(vectors: np.ndarray) -> str:
    """Returns the fingerprint of item vectors: a digest of their numbers, as this machine computes them."""
    return hashlib.blake2b(np.ascontiguousarray(vectors, dtype=np.float32).data).hexdigest()[:32]


def read_index_settings(name_or_path: str | os.PathLike, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """
    Reads the settings of a saved index.

    Args:
        name_or_path (`str` or `os.PathLike`):
            A directory or a repository of the Hub.
        kwargs (`Mapping[str, Any]`):
            Keyword arguments that choose files on the Hub.

    Returns:
        `dict[str, Any]`: what `item_index.json` holds.

    Raises:
        FileNotFoundError: If there is no index.
        ValueError: If the file is no JSON of an index, or a newer version of the library wrote it.
    """
    mend = "Build and save one: `recommender.build_index('hnsw').save_pretrained(directory)`."
    try:
        path = find_file(name_or_path, INDEX_SETTINGS_NAME, kwargs)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileNotFoundError(f"There is no item index in {name_or_path}. {mend} ({error})") from error
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        check_format_version(int(values["format_version"]), INDEX_SETTINGS_NAME)
        missing = {"num_items", "user_scale", "longest", "fingerprint", "digest", "settings"} - values.keys()
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} does not describe an item index ({error}). {mend}") from error
    if missing:
        raise ValueError(f"{path} does not describe an item index: it lacks {sorted(missing)[0]!r}. {mend}")
    return values
