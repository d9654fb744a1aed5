"""Files of the Hub: which ones are meant, what is pushed with them, and whether anything can be pushed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from huggingface_hub import get_token


CATALOG_NAME = "catalog.parquet"
_PUSH_KWARGS = ("repo_id", "commit_message", "private", "token", "revision", "create_pr")
_HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


def require_token(token: str | None = None) -> None:
    """
    Checks, before anything is computed, that something can be pushed to the Hub.

    Args:
        token (`str`, *optional*):
            A token; the one of the environment or of `hf auth login` if not given.

    Raises:
        ValueError: If there is none.
    """
    if not (token or get_token()):
        raise ValueError(
            "Nothing can be pushed to the Hub without a token. Log in with `hf auth login`, set the environment "
            "variable HF_TOKEN, or pass `token` (`hub_token` in training arguments)."
        )


def push_kwargs(save_directory: str | os.PathLike, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """
    The arguments of `push_to_hub` that `save_pretrained` was given. It would upload by itself only what it has written
    by itself, and so no catalog.
    """
    name = os.path.basename(os.path.abspath(save_directory))
    return {"repo_id": name, **{key: kwargs[key] for key in _PUSH_KWARGS if key in kwargs}}


def hub_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the keyword arguments of a `from_pretrained` that say which files of the Hub are meant."""
    return {key: kwargs[key] for key in _HUB_KWARGS if key in kwargs}
