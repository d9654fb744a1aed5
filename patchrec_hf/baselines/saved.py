"""Saved baselines: loads a baseline of any class from its files."""

from __future__ import annotations

import os
from typing import Any

from transformers import AutoModel
from transformers.utils import CONFIG_NAME

from ..runtime.hub_files import CO_VISITATION_NAME, find_file
from .co_visitation import CoVisitation
from .popularity import POPULARITY_NAME, Popularity
from .sequential import SequentialRecommender


def load_baseline(name_or_path: str | os.PathLike, **kwargs: Any) -> CoVisitation | Popularity | SequentialRecommender:
    """
    Loads a saved baseline, of the class that its files name.

    Args:
        name_or_path (`str` or `os.PathLike`):
            A directory or a repository of the Hub, to which a baseline's `save_pretrained` wrote.
        **kwargs:
            Arguments that choose files on the Hub, such as `revision` and `token`.

    Raises:
        FileNotFoundError: If there is no baseline.
        TypeError: If there is a model that is no baseline.
    """
    if _has(name_or_path, CO_VISITATION_NAME, kwargs):
        return CoVisitation.from_pretrained(name_or_path, **kwargs)
    if _has(name_or_path, POPULARITY_NAME, kwargs):
        return Popularity.from_pretrained(name_or_path, **kwargs)
    if not _has(name_or_path, CONFIG_NAME, kwargs):
        raise FileNotFoundError(
            f"{name_or_path} holds no saved baseline: it has none of {CO_VISITATION_NAME}, {POPULARITY_NAME} and "
            f"{CONFIG_NAME}. Give the directory that a baseline's `save_pretrained` wrote."
        )
    model = AutoModel.from_pretrained(name_or_path, **kwargs)
    if not isinstance(model, SequentialRecommender):
        raise TypeError(f"{name_or_path} holds a `{type(model).__name__}`, which is no baseline.")
    return model


def _has(name_or_path: str | os.PathLike, file: str, kwargs: dict[str, Any]) -> bool:
    try:
        return os.path.isfile(find_file(name_or_path, file, kwargs))  # transformers does not raise for config.json
    except OSError:
        return False
