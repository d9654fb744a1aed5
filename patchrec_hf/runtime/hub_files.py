"""Files of checkpoints and of the Hub: names, format version, keyword arguments, and the token for pushing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from huggingface_hub import get_token
from transformers.utils import cached_file


CATALOG_NAME = "catalog.parquet"
CO_VISITATION_NAME = "co_visitation.safetensors"
FORMAT_VERSION = 1
"""Version of the checkpoint format. It rises with each change that an older version of the library could misread."""

_PUSH_KWARGS = ("repo_id", "commit_message", "private", "token", "revision", "create_pr")
_HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


def find_file(name_or_path: str | os.PathLike, file: str, kwargs: Mapping[str, Any]) -> str:
    """
    Finds a file in a directory, or downloads it from a repository of the Hub.

    Args:
        name_or_path (`str` or `os.PathLike`):
            The directory or the repository.
        file (`str`):
            Name of the file.
        kwargs (`Mapping[str, Any]`):
            Keyword arguments of a `from_pretrained`. Only the arguments that choose files on the Hub are used.

    Returns:
        `str`: path of the file.

    Raises:
        OSError: If there is no such file.
    """
    return str(cached_file(name_or_path, file, **hub_kwargs(kwargs)))


def check_format_version(version: int, name: str) -> None:
    """
    Checks that this version of the library can read a file.

    Args:
        version (`int`):
            The file's `format_version`; 0 for a file that was written before formats had a version.
        name (`str`):
            Name of the file, for the error message.

    Raises:
        ValueError: If a newer version of the library wrote the file.
    """
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{name} has format version {version}, but this version of patchrec-hf reads versions up to "
            f"{FORMAT_VERSION}. Upgrade the library: `pip install --upgrade patchrec-hf`."
        )


def require_token(token: str | None = None) -> None:
    """
    Checks that there is a token for pushing to the Hub, before anything is computed.

    Args:
        token (`str`, *optional*):
            A token. If not given, the token of the environment or of `hf auth login` is used.

    Raises:
        ValueError: If there is no token.
    """
    if not (token or get_token()):
        raise ValueError(
            "Nothing can be pushed to the Hub without a token. Log in with `hf auth login`, set the environment "
            "variable HF_TOKEN, or pass `token` (`hub_token` in training arguments)."
        )


def push_kwargs(save_directory: str | os.PathLike, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """
    Selects the arguments for `push_to_hub` from the arguments of `save_pretrained`. transformers would upload only the
    files that it writes, and leave out the catalog. So the caller writes the catalog first, and then pushes.
    """
    name = os.path.basename(os.path.abspath(save_directory))
    return {"repo_id": name, **{key: kwargs[key] for key in _PUSH_KWARGS if key in kwargs}}


def hub_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Selects the keyword arguments of a `from_pretrained` that choose files on the Hub."""
    return {key: kwargs[key] for key in _HUB_KWARGS if key in kwargs}
