"""Saved baselines: loads a baseline of any class from its files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedConfig
from transformers.utils import CONFIG_NAME

from ..runtime.hub_files import CO_VISITATION_NAME, TRANSITIONS_NAME, check_path, find_file, hub_kwargs
from .co_visitation import CoVisitation
from .popularity import POPULARITY_NAME, Popularity
from .sequential import SequentialConfig, SequentialRecommender
from .transitions import Transitions


FUSION_NAME = "fusion.json"
_BASELINE_NAMES = (CO_VISITATION_NAME, TRANSITIONS_NAME, POPULARITY_NAME, CONFIG_NAME)
"""Files that tell the class of a saved baseline. The first that is found decides."""


def load_baseline(
    name_or_path: str | os.PathLike, **kwargs: Any
) -> CoVisitation | Transitions | Popularity | SequentialRecommender:
    """
    Loads a saved baseline, of the class that its files name.

    Args:
        name_or_path (`str` or `os.PathLike`):
            A directory or a repository of the Hub, to which a baseline's `save_pretrained` wrote.
        **kwargs:
            Arguments that choose files on the Hub, such as `revision` and `token`.

    Raises:
        FileNotFoundError: If there is no such directory, or it holds no baseline.
        NotADirectoryError: If the path names a file.
        OSError: If the repository does not exist or cannot be reached.
        TypeError: If there is a fusion, or a model that is no baseline.
    """
    file = _find_name(name_or_path, kwargs)
    if file == FUSION_NAME:
        raise TypeError(
            f"{name_or_path} holds a fusion, which is no single baseline. Load it with `Fusion.from_pretrained`."
        )
    if file == CO_VISITATION_NAME:
        return CoVisitation.from_pretrained(name_or_path, **kwargs)
    if file == TRANSITIONS_NAME:
        return Transitions.from_pretrained(name_or_path, **kwargs)
    if file == POPULARITY_NAME:
        return Popularity.from_pretrained(name_or_path, **kwargs)
    config, _ = PreTrainedConfig.get_config_dict(name_or_path, **hub_kwargs(kwargs))
    model_type = str(config.get("model_type"))
    if model_type not in CONFIG_MAPPING or not issubclass(CONFIG_MAPPING[model_type], SequentialConfig):
        raise TypeError(
            f"{name_or_path} holds a model of type {model_type!r}, which is no baseline. Load a checkpoint of an LLM "
            "with `PatchRecommender.from_pretrained`."
        )
    return AutoModel.from_pretrained(name_or_path, **kwargs)


def _find_name(name_or_path: str | os.PathLike, kwargs: Mapping[str, Any]) -> str:
    """Returns the name of the file that tells the class of a saved baseline."""
    directory = Path(name_or_path, kwargs.get("subfolder") or "")
    if directory.is_dir():
        for file in (FUSION_NAME, *_BASELINE_NAMES):
            if (directory / file).is_file():
                return file
        children = sorted(child.name for child in directory.iterdir() if child.is_dir())
        inner = [child for child in children if any((directory / child / file).is_file() for file in _BASELINE_NAMES)]
        raise _no_baseline(directory, f" Its sub-directories to look at: {', '.join(inner)}." if inner else "")
    check_path(name_or_path, kwargs)
    return _find_name_on_hub(os.fspath(name_or_path), kwargs)


def _find_name_on_hub(repository: str, kwargs: Mapping[str, Any]) -> str:
    is_reached = True
    for file in _BASELINE_NAMES:
        try:
            hf_hub_download(repository, file, **hub_kwargs(kwargs))
        except LocalEntryNotFoundError:  # without a connection; the next file may be in the cache
            is_reached = False
        except EntryNotFoundError:
            continue
        except (OSError, ValueError):  # no such repository, no access, no such revision
            find_file(repository, file, kwargs)  # raises with an explanation
            raise
        else:
            return file
    if not is_reached:
        find_file(repository, CO_VISITATION_NAME, kwargs)  # raises, and says that there is no connection
    raise _no_baseline(repository)


def _no_baseline(name_or_path: str | os.PathLike, hint: str = "") -> FileNotFoundError:
    return FileNotFoundError(
        f"{name_or_path} holds no saved baseline: it has none of {', '.join(_BASELINE_NAMES)}.{hint} Give the "
        "directory that a baseline's `save_pretrained` wrote."
    )
