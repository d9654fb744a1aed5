"""Files of checkpoints and of the Hub: names, format version, keyword arguments, and the token for pushing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_token
from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME, PROCESSOR_NAME, cached_file, is_accelerate_available

from .ids import nearest_texts


CATALOG_NAME = "catalog.parquet"
CO_VISITATION_NAME = "co_visitation.safetensors"
RECENT_POPULARITY_NAME = "recent_popularity.safetensors"
TRANSITIONS_NAME = "transitions.safetensors"
FORMAT_VERSION = 2
"""Version of the checkpoint format. It rises with each change that an older version of the library could misread."""

_MAX_FILES = 30
"""Number of a directory's files that an error names."""
# How far a directory is searched for checkpoints, and how many of them an error names.
_MAX_DEPTH, _MAX_DIRECTORIES, _MAX_NAMED = 5, 2_000, 3

_PUSH_KWARGS = ("repo_id", "commit_message", "private", "token", "revision", "create_pr")
_HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


def file_digest(path: str | os.PathLike) -> str:
    """Returns a digest of the content of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


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
        OSError: If there is no such file (see also [`check_path`]).
    """
    if not Path(name_or_path, kwargs.get("subfolder") or "", file).is_file():
        check_path(name_or_path, kwargs)
        _check_holds(Path(name_or_path, kwargs.get("subfolder") or ""), file)
    with explained_lookup(name_or_path, kwargs):
        return str(cached_file(name_or_path, file, **hub_kwargs(kwargs)))


def _check_holds(path: Path, file: str) -> None:
    """Raises an error if a directory lacks a file. transformers would point at a page of the Hub."""
    if path.is_dir():
        names = ", ".join(sorted(child.name for child in islice(path.iterdir(), _MAX_FILES))) or "nothing"
        raise OSError(
            f"The directory {path} does not appear to have a file named {file}; it holds {names}. Save it again with "
            "all its files (`save_pretrained`), or load it by the class that saved it."
        )


def check_path(name_or_path: str | os.PathLike, kwargs: Mapping[str, Any]) -> None:
    """
    Checks a name that can only be a local path. transformers would look for it on the Hub, and report that it could
    not connect, or that there is no such repository.

    Args:
        name_or_path (`str` or `os.PathLike`):
            A directory or a repository of the Hub.
        kwargs (`Mapping[str, Any]`):
            Keyword arguments of a `from_pretrained`; `subfolder` is read.

    Raises:
        FileNotFoundError: If there is no such directory, or only directories in it hold models.
        NotADirectoryError: If it is a file.
    """
    path = Path(name_or_path, kwargs.get("subfolder") or "")
    if path.is_file():
        raise NotADirectoryError(f"{path} is a file. Pass the directory of the checkpoint, such as {path.parent}.")
    if path.is_dir():
        if _holds_model(path):
            return
        if inner := _newest_checkpoints(path):
            names = ", ".join(child.relative_to(path).as_posix() for child in inner[-_MAX_NAMED:])
            among = "" if len(inner) <= _MAX_NAMED else f" ({len(inner)} do; these are the newest)"
            raise FileNotFoundError(
                f"{path} holds no checkpoint itself, but its sub-directories do: {names}{among}. Load one of them, "
                f"such as {inner[-1]}."
            )
        if models := [child.name for child in _directories(path) if _holds_model(child)]:
            raise FileNotFoundError(
                f"{path} holds no model itself, and no checkpoint of this library lies in it. Its sub-directories "
                f"with models of transformers: {', '.join(models)}."
            )
    elif is_local_name(name_or_path):
        others = {directory.name: directory for directory in _directories(path.parent)}
        nearest = nearest_texts(path.name, list(others)) or list(others)[:5]
        hint = f" {path.parent} holds {', '.join(nearest)}." if nearest else ""
        if path.parts[0].startswith("~"):
            hint = f" Python does not expand `~`, as a shell does: pass `os.path.expanduser({str(path)!r})`."
        raise FileNotFoundError(f"There is no directory {path} (here, in {Path.cwd()}).{hint}")


@contextmanager
def explained_lookup(name_or_path: str | os.PathLike, kwargs: Mapping[str, Any]) -> Iterator[None]:
    """
    Explains an error of the Hub inside the context. The name may be a mistyped path, which was looked for on the Hub
    because no directory has it.

    Args:
        name_or_path (`str` or `os.PathLike`):
            A directory or a repository of the Hub.
        kwargs (`Mapping[str, Any]`):
            Keyword arguments of a `from_pretrained`; `subfolder` is read.

    Raises:
        FileNotFoundError: If there is no such directory, and the Hub gave no repository either. An error about a
            repository or directory that is there is raised as it is.
    """
    try:
        yield
    except OSError as error:
        # An error with a number comes from the file system.
        if error.errno is not None or Path(name_or_path).exists() or _has_repository(error):
            raise
        nearest = _nearest_directory(Path(name_or_path))
        hint = "" if nearest is None else f"; nearest: {nearest}"
        raise FileNotFoundError(
            f"There is no directory {name_or_path} (here, in {Path.cwd()}{hint}), and no repository {name_or_path} "
            f"could be loaded: {error}"
        ) from error


def _has_repository(error: OSError) -> bool:
    """Whether an error is about a repository that is there."""
    # transformers raises the error for a missing file without a cause and without a type of its own.
    return isinstance(error.__cause__, (GatedRepoError, RevisionNotFoundError)) or "appear to have" in str(error)


def _nearest_directory(path: Path) -> Path | None:
    """Returns the directory that is named most like a path: the first part that is missing is replaced."""
    for depth, part in enumerate(path.parts):
        parent = Path(*path.parts[:depth])
        if not (parent / part).is_dir():
            nearest = nearest_texts(part, [directory.name for directory in _directories(parent)], n=1)
            if not nearest:
                return None
            whole = Path(parent, nearest[0], *path.parts[depth + 1 :])
            return whole if whole.is_dir() else parent / nearest[0]
    return None


def is_local_name(name_or_path: str | os.PathLike) -> bool:
    """
    Whether a name can only be a local path, because the name of a repository is `name` or `owner/name`.

    Args:
        name_or_path (`str` or `os.PathLike`):
            A directory or a repository of the Hub.
    """
    if isinstance(name_or_path, os.PathLike) or name_or_path.startswith((".", "~")):
        return True
    path = Path(name_or_path)
    return path.is_absolute() or len(path.parts) > 2 or (len(path.parts) == 2 and path.parent.is_dir())


def _holds_model(path: Path) -> bool:
    # A directory may also hold no more than a tokenizer, from which a processor is made.
    return any((path / name).is_file() for name in (CONFIG_NAME, ADAPTER_CONFIG_NAME, TOKENIZER_CONFIG_FILE))


def _newest_checkpoints(path: Path) -> list[Path]:
    """Lists the directories in a directory that hold checkpoints of this library, the newest last."""
    found = []
    for directory, names, files in islice(os.walk(path), _MAX_DIRECTORIES):
        here = Path(directory)
        if PROCESSOR_NAME in files and _holds_model(here):
            found.append(here)
        if PROCESSOR_NAME in files or len(here.relative_to(path).parts) == _MAX_DEPTH:
            names.clear()  # `os.walk` does not go deeper here
        else:
            names[:] = sorted((name for name in names if not name.startswith(".")), key=_by_length)
    return sorted(found, key=lambda child: (child / PROCESSOR_NAME).stat().st_mtime_ns)


def _directories(path: Path) -> list[Path]:
    """Lists the directories in a directory, checkpoints in the order of their steps; none if there is no directory."""
    found = [child for child in path.iterdir() if child.is_dir()] if path.is_dir() else []
    return sorted(found, key=lambda child: _by_length(child.name))


def _by_length(name: str) -> tuple[int, str]:
    return len(name), name


def check_device_map(kwargs: Mapping[str, Any]) -> None:
    """
    Checks before anything is loaded that `device_map` can be followed.

    Args:
        kwargs (`Mapping[str, Any]`):
            Keyword arguments of a `from_pretrained`.

    Raises:
        ImportError: If accelerate is not installed.
        ValueError: If `device_map` names a GPU, and PyTorch sees none.
    """
    device_map = kwargs.get("device_map")
    if device_map is None:
        return
    if not is_accelerate_available():
        raise ImportError(
            f"`device_map={device_map!r}` needs accelerate: `pip install accelerate`. Without it, leave `device_map` "
            "out, and move the model with `model.to(device)`."
        )
    devices = device_map.values() if isinstance(device_map, Mapping) else [device_map]
    if any(isinstance(device, int) or str(device).startswith("cuda") for device in devices):
        if torch.cuda.is_available():
            return
        raise ValueError(
            f"`device_map={device_map!r}` names a GPU, but PyTorch sees none. Use 'auto', which takes what there is, "
            "or 'cpu'."
        )


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
